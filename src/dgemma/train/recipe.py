"""The recipe of the shipped checkpoint: its shape, its vocabulary, its batches.

One place, so that it can be repeated.

A model of the published architecture in small: sliding and full layers with their own head counts, dense MLP
beside experts, tied soft-capped head, self-conditioning. Positions are declared as the released model's are;
it has been trained on examples of a few hundred tokens, and is not to be trusted far beyond.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..config import FULL, SLIDING, DenoiseConfig, LayerConfig, ModelConfig
from ..model.dgemma import DiffusionGemma
from ..text.tokenizer import Tokenizer
from ..weights.disk import disk_errors, replace_text
from ..weights.writer import save
from .batches import BatchConfig, Batches
from .loop import LoopConfig, Trainer, initialise
from .samples import Source
from .sources import Files, SmallWorld, records, texts_of
from .tokenizer import train as train_tokenizer
from .world.vocabulary import vocabulary as world_vocabulary

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


class Start(Protocol):
    """A loaded checkpoint, as a run begins with it."""

    @property
    def net(self) -> DiffusionGemma:
        """The weights, as plain parameters."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary that they were trained with."""


@dataclass(frozen=True)
class TrainingRecipe:
    """What of the shipped checkpoint may be chosen; the defaults made it."""

    vocab_size: int = 2048
    hidden: int = 192
    head_dim: int = 32
    layers: int = 6  # every third one full, and the last
    experts: int = 8
    canvas: int = 64
    rows: int = 4096  # of a step: clean tokens and canvas cells
    causal_steps: int = 768
    seed: int = 0

    def config(self, tokenizer: Tokenizer) -> ModelConfig:
        special = tokenizer.special
        dim = self.head_dim
        sliding = LayerConfig(SLIDING, dim, 2, 1e4, dim, dim)
        full = LayerConfig(FULL, dim, 1, 1e6, dim // 4, dim)
        kinds = (full if i % 3 == 2 or i == self.layers - 1 else sliding for i in range(self.layers))
        ends = tuple(special.need(name) for name in ("eos", "end_turn", "tool_response"))
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden,
            intermediate_size=self.hidden,
            num_attention_heads=self.hidden // dim,
            num_experts=self.experts,
            top_k_experts=2,
            moe_intermediate_size=self.hidden // 2,
            sliding_window=256,
            canvas_length=self.canvas,
            max_position_embeddings=131_072,
            layers=tuple(kinds),
            pad_token_id=special.need("pad"),
            bos_token_id=special.need("bos"),
            eos_token_ids=ends,
            image_token_id=special.need("image"),
        )

    def batches(self, source: Source, tokenizer: Tokenizer, canvas: int) -> Batches:
        """The run's batches, for a model whose requests have canvases of width `canvas` where they name
        none.
        """
        line_breaks = [tokenizer.token_bytes(i).startswith(b"\n") for i in range(tokenizer.vocab_size)]
        config = BatchConfig(
            vocab_size=tokenizer.vocab_size,
            pad=tokenizer.special.need("pad"),
            rows=self.rows,
            usual=canvas,
            widths=tuple(sorted({*BatchConfig.widths, canvas})),
            causal_steps=self.causal_steps,
            seed=self.seed,
        )
        return Batches(source, config, np.array(line_breaks))


def vocabulary(
    training_recipe: TrainingRecipe, files: Sequence[Path], run: Path, start: Tokenizer | None = None
) -> Tokenizer:
    """The run's tokenizer: that of the checkpoint it starts from, or learned.

    Then kept in the run's folder.
    """
    path = run / "tokenizer.json"
    with disk_errors(run, "and give the same command again"):
        run.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            replace_text(path, start.to_json() if start is not None else _learned(training_recipe, files))
    return Tokenizer.from_file(path)


def _learned(training_recipe: TrainingRecipe, files: Sequence[Path]) -> str:
    """The JSON of a vocabulary made for the world, or learned from `files`."""
    if not files:
        return world_vocabulary(training_recipe.vocab_size, training_recipe.seed).to_str()
    texts = (text for _, record in records(files) for text in texts_of(record))
    return train_tokenizer(texts, training_recipe.vocab_size).to_str()


def trainer(
    training_recipe: TrainingRecipe,
    loop: LoopConfig,
    run: Path,
    files: Sequence[Path] = (),
    device: str = "cpu",
    start: Start | None = None,
) -> Trainer:
    """A run on the small world, or on `files`; new, or resumed from its folder.

    start: a checkpoint whose shape, vocabulary and weights a new run begins with; else the recipe's shape.
    """
    tokenizer = vocabulary(training_recipe, files, run, None if start is None else start.tokenizer)
    source: Source = SmallWorld(training_recipe.seed, tokenizer)
    if files:
        source = Files.read(files, tokenizer, BatchConfig.longest)
    if start is None:
        config = training_recipe.config(tokenizer)
    else:
        config = start.net.config
    batches = training_recipe.batches(source, tokenizer, config.canvas_length)
    job = Trainer(initialise(config, training_recipe.seed, device), batches, loop, run)
    if start is not None and job.step == 0:
        job.start_from(start.net)
    return job


def export(done: Trainer, folder: Path, denoise: DenoiseConfig) -> Path:
    """Write the trainer's weights as a checkpoint folder in bf16, with the published names.

    One that has learned from conversations gets a chat template, by which it is known as chat-tuned.
    """
    model = done.model
    state = [*model.named_parameters(), *model.named_buffers()]
    detached = ((name, tensor.detach()) for name, tensor in state)
    tokenizer_json = done.folder / "tokenizer.json"
    place = save(folder, model.config, denoise, detached, tokenizer_json, torch.bfloat16, replace=True)
    if done.batches.source.converses:
        shutil.copyfile(CHAT_TEMPLATE, place / CHAT_TEMPLATE.name)
    return place
