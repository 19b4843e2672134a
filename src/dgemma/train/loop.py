"""The training loop: resumable, on one device, with a state made of tensors and text (no pickle).

A run is a folder: `state.safetensors` (weights and moments; its header holds the step, the seed and what the
text was), `metrics.csv` (one row per report). A killed run goes on from its last save and takes the same
steps it would have taken. The learning rate is constant after a warm-up and falls linearly to zero over the
last `decay` steps; `before-decay.safetensors` keeps the state from which a longer run can go on.

Knows batches and steps; refuses to know files of text (recipe.py does).
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import ModelConfig
from ..errors import UsageError
from ..kernels.select import fuse
from ..model.build import build
from ..model.dgemma import DiffusionGemma
from ..weights.disk import disk_errors, replace_file, sync
from .batches import Batches
from .muon import Optimizer
from .objective import BalanceLoss, losses


@dataclass(frozen=True)
class LoopConfig:
    steps: int
    decay: int = 0  # the last steps, over which the learning rate falls to zero
    warmup: int = 20
    seed: int = 0
    matrix_lr: float = 0.01
    other_lr: float = 0.003
    self_conditioning: float = 0.5  # share of steps that are conditioned on a first guess
    save_seconds: float = 120.0
    fused: bool = True

    def factor(self, step: int) -> float:
        """The learning rate's factor at `step`: warm-up, then constant, then down to zero."""
        up = min(1.0, (step + 1) / self.warmup)
        down = 1.0
        if self.decay:
            down = (self.steps - step) / self.decay
        return min(up, down, 1.0)


@dataclass(frozen=True)
class Report:
    step: int
    seconds: float  # of this process since its start
    cpu_seconds: float  # of all processes of the run
    tokens: int  # clean tokens read since step 0
    cells: int  # canvas cells denoised since step 0
    next_token: float  # nats per token
    canvas: float  # nats per canvas cell; 0 in the causal steps
    tokens_per_second: float  # clean tokens and cells


def initialise(config: ModelConfig, seed: int, device: str = "cpu") -> DiffusionGemma:
    """Fresh weights, the same on every device: matrices normal / sqrt(fan-in), norms 1 but for two.

    The norms that return a branch to the residual start at (2 layers)^-0.5, so that all branches together
    weigh as much as the token itself: after 70 steps 6.89 nats per next token and 3.81 per canvas position,
    against 7.38 and 4.74 with 1. The router divides by sqrt(hidden); its scale starts there, or all experts
    would look alike.
    """
    branch = (2 * len(config.layers)) ** -0.5
    model = build(config, "cpu", torch.float32).train().requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
            elif name.endswith("router.scale"):
                parameter.fill_(config.embedding_scale)
            elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                parameter.fill_(branch)
    return model.to(device)


class Trainer:
    """One run in one folder. `advance()` yields a Report every `report` steps, saving as it goes."""

    def __init__(self, model: DiffusionGemma, batches: Batches, config: LoopConfig, folder: Path):
        self.model = model
        self.batches = batches
        self.config = config
        self.folder = folder
        self.optimizer = Optimizer(model, config.matrix_lr, config.other_lr)
        self.balance = BalanceLoss(model)
        self.step = 0
        self.tokens = 0
        self.cells = 0
        self.cpu_seconds = 0.0
        self._counted = time.process_time()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.safetensors").exists():
            self.load(folder / "state.safetensors")

    def _tensors(self) -> dict[str, Tensor]:
        weights = {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        return weights | {f"moment.{name}": moment for name, moment in self.optimizer.state.items()}

    def _identity(self) -> dict[str, str]:
        """What must not change between the pieces of a run."""
        identity = {"seed": str(self.config.seed), "text": self.batches.fingerprint}
        return identity | {"number of causal steps, or another size of batches": self.batches.settings}

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Go on from a saved state. Raises UsageError where it belongs to another model, seed or text."""
        mine = self._tensors()
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if shapes != {name: tuple(tensor.shape) for name, tensor in mine.items()}:
                raise UsageError(f"{path}: this run was made with another model; choose another --run folder")
            for name, value in self._identity().items():
                if header.get(name, value) != value:  # runs of before did not say all of it
                    raise UsageError(
                        f"{path}: this run was made with another {name}; choose another --run folder"
                    )
            for name, tensor in mine.items():
                tensor.copy_(file.get_tensor(name))
        self.step = int(header["step"])
        self.tokens = int(header["tokens"])
        self.cells = int(header["cells"])
        self.cpu_seconds = float(header["cpu_seconds"])

    def start_from(self, model: DiffusionGemma) -> None:
        """Begin with the weights of another model of the same shape, and fresh moments."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(model.get_parameter(name))

    def save(self, name: str = "state") -> None:
        """Write weights, moments and the step as one file, whole or not at all."""
        self._count_time()
        counts = {
            "step": self.step,
            "tokens": self.tokens,
            "cells": self.cells,
            "cpu_seconds": self.cpu_seconds,
        }
        header = self._identity() | {name: str(value) for name, value in counts.items()}
        new = self.folder / f"{name}.tmp"
        with disk_errors(self.folder, "and give the same command again: the run goes on from its last save"):
            try:
                save_file(self._tensors(), new, header)
                sync(new)
                replace_file(new, self.folder / f"{name}.safetensors")
            finally:
                new.unlink(missing_ok=True)

    def _count_time(self) -> None:
        """Add the processor time since the last call."""
        now = time.process_time()
        self.cpu_seconds += now - self._counted
        self._counted = now

    def advance(self, report: int = 20, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
        """Train to the last step. Resumable at any point: batches depend on the step alone."""
        fuse(self.config.fused)
        started = saved = last = clock()
        sums = torch.zeros(2)
        since = 0
        counted = 0
        while self.step < self.config.steps:
            if self.config.decay and self.step == self.config.steps - self.config.decay:
                self.save("before-decay")
            batch = self.batches[self.step].to(self.model.device)
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
            guess = torch.rand((), generator=generator).item() < self.config.self_conditioning
            result = losses(self.model, batch, generator if guess else None, self.balance)
            result.total.backward()
            self.optimizer.step(self.step, self.config.factor(self.step))
            self.step += 1
            self.tokens += batch.tokens
            self.cells += batch.targets.numel()
            sums += torch.stack((result.next_token, result.canvas)).cpu()
            since = since + batch.tokens + batch.targets.numel()
            counted = counted + 1
            if self.step % report == 0 or self.step == self.config.steps:
                now = clock()
                means = (sums / counted).tolist()
                self._count_time()
                rate = since / (now - last)
                row = Report(
                    self.step,
                    now - started,
                    self.cpu_seconds,
                    self.tokens,
                    self.cells,
                    means[0],
                    means[1],
                    rate,
                )
                self._record(row)
                sums = torch.zeros(2)
                since = 0
                counted = 0
                last = now
                yield row
            if clock() - saved > self.config.save_seconds:
                self.save()
                saved = clock()
        self.save()

    def _record(self, row: Report) -> None:
        path = self.folder / "metrics.csv"
        fresh = not path.exists()
        fix = "and give the same command again: the run goes on from its last save"
        with disk_errors(self.folder, fix), path.open("a", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Report)])
            if fresh:
                writer.writeheader()
            writer.writerow({k: round(v, 4) for k, v in dataclasses.asdict(row).items()})
