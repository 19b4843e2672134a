"""Random tiny models for parity: drawn configurations, prompts, canvases, and our own passes over them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgemma.config import ModelConfig
from dgemma.engine.denoise import read_prompts
from dgemma.kernels.ops.vocab import soft_capped_logits, stats_of
from dgemma.model.dgemma import DiffusionGemma, PrevProbs
from dgemma.model.kv import KVCache
from tests.helpers import lively_model, tiny_raw

COUNT = 14
PATTERNS = ("SF", "SSF", "SSSF", "FSF", "SFSF", "FF", "F")


@dataclass(frozen=True)
class World:
    """One model with something to read and something to denoise."""

    raw: dict[str, Any]  # its config.json
    config: ModelConfig
    model: DiffusionGemma
    prompts: list[list[int]]  # three rows: shorter than the window, about as long, longer
    canvases: list[Tensor]  # two in a row, each [3, C]
    chunk: int

    @property
    def width(self) -> int:
        return self.config.canvas_length


def raw_of(number: int) -> dict[str, Any]:
    """A drawn `config.json`; the number decides its spelling: global_*, zero-padded per_layer_config, or defaults."""
    draw = random.Random(1000 + number)
    layers = PATTERNS[number % len(PATTERNS)]
    heads = draw.choice((2, 4, 6))
    divisors = [count for count in (1, 2, 3, 6) if heads % count == 0]
    full_dim, full_heads, experts = draw.choice((8, 16, 24)), draw.choice(divisors), draw.choice((3, 4, 8))
    raw = tiny_raw(
        layers, hidden_size=draw.choice((16, 24, 32)), intermediate_size=draw.choice((20, 32)),
        num_attention_heads=heads, num_key_value_heads=draw.choice(divisors), head_dim=draw.choice((4, 8, 12)),
        global_head_dim=full_dim, num_global_key_value_heads=full_heads, num_experts=experts,
        top_k_experts=draw.randint(1, min(3, experts)), moe_intermediate_size=draw.choice((4, 10)),
        sliding_window=draw.choice((2, 3, 5, 8)), vocab_size=draw.choice((48, 130, 256)),
        canvas_length=draw.choice((4, 6, 9)),
    )  # fmt: skip
    text = raw["text_config"]
    if number % 3 == 1:
        del text["global_head_dim"], text["num_global_key_value_heads"]
        override = {"head_dim": full_dim, "num_key_value_heads": full_heads}
        text["per_layer_config"] = {f"{i:02}": override for i, kind in enumerate(layers) if kind == "F"}
    if number % 3 == 2:  # neither spelling: head dim 512, the ordinary count of key-value heads
        del text["global_head_dim"], text["num_global_key_value_heads"]
        if number == 5:  # 5 sliding : 1 full
            del text["layer_types"]
            text["num_hidden_layers"] = 6
    if number % 2:
        text["final_logit_softcapping"] = draw.choice((10.0, 20.0))
        partial = draw.choice((0.25, 0.5, 0.75, 1.0))
        text["rope_parameters"] = {
            "sliding_attention": {"rope_type": "default", "rope_theta": draw.choice((100.0, 10_000.0))},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 5e4,
                "partial_rotary_factor": partial,
            },
        }
    return raw


def world(number: int, dtype: str = "float32") -> World:
    raw = raw_of(number)
    config = ModelConfig.from_dict(raw)
    model = lively_model(config, seed=number, dtype=dtype)
    draw = random.Random(2000 + number)
    window, vocabulary = config.sliding_window, config.vocab_size
    lengths = (draw.randint(1, window), window + draw.randint(-1, 1), 2 * window + draw.randint(2, 9))
    prompts = [[draw.randrange(vocabulary) for _ in range(length)] for length in lengths]
    generator = torch.Generator().manual_seed(number)
    canvases = [torch.randint(vocabulary, (3, config.canvas_length), generator=generator) for _ in range(2)]
    return World(raw, config, model, prompts, canvases, chunk=draw.randint(1, window + 3))


@torch.no_grad()
def read(world: World) -> list[KVCache]:
    return read_prompts(world.model, world.prompts, world.chunk)


@torch.no_grad()
def logits(world: World, kv: list[KVCache], canvas: Tensor, prev_probs: PrevProbs | None = None) -> Tensor:
    """Our soft-capped logits [3, C, V]."""
    hidden = world.model.denoise(canvas, kv, prev_probs)
    return soft_capped_logits(hidden, world.model.embed.weight, world.config.final_logit_softcapping)


def conditioned(world: World, processed: Tensor) -> PrevProbs:
    """What a step hands to the next one, of processed logits [3, C, V]."""
    half = torch.full((*processed.shape[:2], 2), 0.5)
    stats = stats_of(processed.clone(), half, world.model.dtype)
    return stats.p, stats.row_sum
