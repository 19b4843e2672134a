"""The recipe of the shipped checkpoint: its shape, its tokenizer, its documents. One place, so that it can be repeated.

A model of the published architecture in small: sliding and full layers with their own head counts, dense MLP beside
experts, tied soft-capped head, self-conditioning. Positions are declared as the released model's are; it has
been trained on sequences of 512 tokens only, and is not to be trusted far beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import FULL, SLIDING, DenoiseConfig, LayerConfig, ModelConfig
from ..text.tokenizer import Tokenizer
from ..weights.writer import save
from .corpus import Corpus
from .data import Batches, DataConfig
from .forms import conversations
from .loop import LoopConfig, Trainer, initialise
from .tokenizer import train as train_tokenizer


@dataclass(frozen=True)
class Recipe:
    """What of the shipped checkpoint may be chosen; the defaults made it."""

    vocab_size: int = 4096
    hidden: int = 256
    layers: int = 6  # every third one full, and the last
    experts: int = 8
    batch: int = 4  # sequences per step, 2k tokens
    blocks: int = 7  # canvases per sequence
    canvas: int = 64
    seed: int = 0

    def config(self, tokenizer: Tokenizer) -> ModelConfig:
        special, dim = tokenizer.special, 64
        sliding = LayerConfig(SLIDING, dim, 2, 1e4, dim, dim)
        full = LayerConfig(FULL, dim, 1, 1e6, dim // 4, dim)
        kinds = tuple(full if i % 3 == 2 or i == self.layers - 1 else sliding for i in range(self.layers))
        return ModelConfig(
            vocab_size=self.vocab_size, hidden_size=self.hidden, intermediate_size=self.hidden,
            num_attention_heads=self.hidden // dim, num_experts=self.experts, top_k_experts=2,
            moe_intermediate_size=self.hidden // 2, sliding_window=128, canvas_length=self.canvas,
            max_position_embeddings=131_072, layers=kinds, pad_token_id=special.need("pad"),
            bos_token_id=special.need("bos"), eos_token_ids=(special.need("eos"), special.need("end_turn")),
            image_token_id=special.need("image"),
        )  # fmt: skip


def prepare(recipe: Recipe, corpus: Corpus, run: Path) -> tuple[ModelConfig, Batches]:
    """Tokenizer (kept in the run's folder), configuration and batches of a recipe."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "tokenizer.json"
    if not path.exists():
        train_tokenizer(corpus, recipe.vocab_size).save(str(path))
    tokenizer = Tokenizer.from_file(path)
    special = tokenizer.special
    eos = special.need("eos")
    documents = [tokenizer.encode(corpus.train[name]) for name in sorted(corpus.train)]
    documents += conversations(corpus.train, tokenizer)
    arrays = [np.array([*document, eos], dtype=np.int64) for document in documents]
    line_ends = np.array([tokenizer.token_bytes(i).startswith(b"\n") for i in range(recipe.vocab_size)])
    data = DataConfig(
        recipe.vocab_size, recipe.canvas, recipe.blocks, recipe.batch, special.need("bos"), (eos,),
        special.need("pad"), recipe.seed,
    )  # fmt: skip
    return recipe.config(tokenizer), Batches(arrays, data, line_ends)


def trainer(recipe: Recipe, loop: LoopConfig, corpus: Corpus, run: Path, device: str = "cpu") -> Trainer:
    """A run, new or resumed from its folder."""
    config, batches = prepare(recipe, corpus, run)
    return Trainer(initialise(config, recipe.seed, device), batches, loop, run)


def export(done: Trainer, folder: Path, denoise: DenoiseConfig) -> Path:
    """Write the trainer's weights as a checkpoint folder in bf16, with the published names."""
    model = done.model
    state = [*model.named_parameters(), *model.named_buffers()]
    tokenizer_json = done.folder / "tokenizer.json"
    return save(folder, model.config, denoise, ((n, t.detach()) for n, t in state), tokenizer_json, torch.bfloat16,
                replace=True)  # fmt: skip
