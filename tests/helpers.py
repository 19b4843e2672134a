"""What several rooms' tests share. Import inside the functions what only some of them need (torch)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .closeness import assert_close as assert_close
from .closeness import closeness as closeness
from .closeness import is_close as is_close

DEVICE = os.environ.get(
    "DGEMMA_TEST_DEVICE", "cpu"
)  # where the tests of Triton's forms make their tensors; see conftest.py


def byte_tokenizer_json(merges: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The JSON of a byte-level BPE tokenizer: all control tokens (ids 0-17), the 256 bytes (18-273), the merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    from dgemma.text.vocabulary import CONTROL_TEXTS

    control = list(CONTROL_TEXTS.values())
    tokens = [*control, *sorted(ByteLevel.alphabet()), *(a + b for a, b in merges)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {token: n for n, token in enumerate(tokens)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": text, **flags} for n, text in enumerate(control)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]},
    }


def byte_tokenizer(merges: Sequence[tuple[str, str]] = ()):
    """A `dgemma.text.tokenizer.Tokenizer` in which every byte is a token, and every pair in `merges` one more."""
    from dgemma.text.tokenizer import Tokenizer

    return Tokenizer.from_json(byte_tokenizer_json(merges))


def tiny_raw(layers: str = "SSF", **text: Any) -> dict[str, Any]:
    """A `config.json` of a few thousand parameters; `layers` spells the kinds (S sliding, F full)."""
    kinds = {"S": "sliding_attention", "F": "full_attention"}
    canvas = text.pop("canvas_length", 6)
    sizes = {
        "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": len(layers),
        "layer_types": [kinds[letter] for letter in layers], "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "num_experts": 4, "top_k_experts": 2,
        "moe_intermediate_size": 6, "sliding_window": 5, "max_position_embeddings": 512,
    }  # fmt: skip
    return {"model_type": "diffusion_gemma", "canvas_length": canvas, "text_config": sizes | text}


def tiny_config(layers: str = "SSF", **text: Any):
    """The `ModelConfig` of `tiny_raw`."""
    from dgemma.config import ModelConfig

    return ModelConfig.from_dict(tiny_raw(layers, **text))


def lively_model(config, seed: int = 0, dtype: str = "float32", sharpness: float = 6.0):
    """A random model with an opinion: logits of standard deviation `sharpness`, decided routing, scalars that differ.

    Weights come from numpy's frozen RandomState stream, so golden files mean the same on every machine.
    """
    import numpy as np
    import torch

    from dgemma.model.build import build

    random = np.random.RandomState(seed)
    model = build(config, "cpu", torch.float32)
    for name, tensor in sorted(list(model.named_parameters()) + list(model.named_buffers())):
        draw = torch.from_numpy(random.standard_normal(tuple(tensor.shape))).float()
        if tensor.dim() >= 2:
            draw = draw * tensor.shape[-1] ** -0.5
        elif name.endswith("router.scale"):
            draw = (
                2.0 * config.embedding_scale * (1.0 + 0.2 * draw)
            )  # expert scores of deviation 2: no near-ties
        elif name.endswith(("layer_scalar", "per_expert_scale")):
            draw = 1.0 + 0.3 * draw.clamp(-2, 2)  # encoder and decoder draw their own
        else:
            draw = 1.0 + 0.2 * draw
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            draw = (
                draw * (9.0 / tensor.shape[0]) ** 0.25
            )  # attention scores of deviation 3 whatever the head dim
        tensor.copy_(draw * sharpness if name == "norm.weight" else draw)
    return model.to(getattr(torch, dtype))


def chi_square(observed, expected) -> float:
    """The chance of counts at least as far from `expected` as `observed`, if they were drawn from it."""
    import torch

    observed, expected = observed.double().flatten(), expected.double().flatten()
    statistic = ((observed - expected).square() / expected).sum()
    return float(
        torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), statistic / 2)
    )


def chi_square_of_two(first, second, least: float = 10.0) -> float:
    """The chance that two rows of counts come from one distribution; bins with under `least` are pooled."""
    import torch

    table = torch.stack((first.double().flatten(), second.double().flatten()))
    rare = table.sum(0) * table.sum(1).min() / table.sum() < least
    table = torch.cat((table[:, ~rare], table[:, rare].sum(1, keepdim=True)), dim=1)
    table = table[:, table.sum(0) > 0]
    expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
    statistic = ((table - expected).square() / expected).sum()
    freedom = torch.tensor((table.shape[1] - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2)) if table.shape[1] > 1 else 1.0


def tiny_checkpoint(folder, seed: int = 0, dtype: str = "float32", **text: Any):
    """A whole random checkpoint folder with the byte tokenizer: config, generation config, tokenizer, weights."""
    import json

    import torch

    from dgemma.config import DenoiseConfig
    from dgemma.model.build import build_random
    from dgemma.weights.writer import save

    config = tiny_config(**({"vocab_size": 280, "canvas_length": 12, "sliding_window": 9} | text))
    model = build_random(config, seed, gain=1.5)
    state = [*model.named_parameters(), *model.named_buffers()]
    denoise = DenoiseConfig(eos_token_id=None, max_denoising_steps=6, max_new_tokens=20)
    return save(folder, config, denoise, state, json.dumps(byte_tokenizer_json()), getattr(torch, dtype))
