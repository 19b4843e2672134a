"""One step of every canvas in a batch: CanvasStats and CanvasState in, CanvasState out.

Pure tensors and no look at their values on the host, so that the plain loop, a batched engine and a
captured graph can share it. Rows that are done do not change any more, whatever is computed for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DenoiseConfig
from ..config.settings import MOST_END_IDS
from ..kernels.ops.random import noise, uniforms
from ..kernels.ops.vocab import CanvasStats
from .accept import accept
from .pins import FREE, hold
from .schedule import temperature
from .stopping import converged, counted, mean_entropy, unchanged_steps


class Settings(NamedTuple):
    """The request settings of each row as tensors [B].

    float64 for numbers, int64 for counts, seeds and ids.
    """

    max_steps: Tensor
    t_min: Tensor
    t_max: Tensor
    entropy_bound: Tensor
    stability_threshold: Tensor
    confidence_threshold: Tensor
    seed: Tensor
    # [B, MOST_END_IDS] int64, -1 where there are fewer, and all -1 where what follows an end counts
    end_ids: Tensor
    greedy: Tensor  # [B] bool: an accepted position takes its likeliest token, not a sample

    @classmethod
    def of(cls, configs: list[DenoiseConfig], seeds: list[int], device: torch.device) -> Settings:
        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(config, name) for config in configs], dtype=dtype, device=device)

        temperatures = column("temperature", torch.float64)
        heat = temperatures.where(temperatures > 0, 1.0)
        ends = [_end_ids(config) for config in configs]
        return cls(
            column("max_denoising_steps", torch.int64),
            column("t_min", torch.float64) * heat,
            column("t_max", torch.float64) * heat,
            column("entropy_bound", torch.float64),
            column("stability_threshold", torch.int64),
            column("confidence_threshold", torch.float64),
            torch.tensor(seeds, dtype=torch.int64, device=device),
            torch.tensor(ends, dtype=torch.int64, device=device),
            temperatures == 0,
        )


def _end_ids(config: DenoiseConfig) -> list[int]:
    """MOST_END_IDS ids that a draft may end at, -1 where there are fewer."""
    ids: list[int] = []
    if config.ignore_after_end:
        ids = list(config.eos_token_id or ())
    return ids + [-1] * (MOST_END_IDS - len(ids))


class CanvasState(NamedTuple):
    """Everything a canvas is between two steps."""

    canvas: Tensor  # [B, C] int64: what the next pass reads
    argmax: Tensor  # [B, C] int64: the draft, and what is committed; -1 before the first step
    accepted: Tensor  # [B, C] bool: positions whose token was accepted in the last step
    entropy: Tensor  # [B, C] of the last step, nats
    pins: Tensor  # [B, C] int64: a token id or -1
    step: Tensor  # [B] int64: steps taken
    unchanged: Tensor  # [B] int64: steps in a row whose argmax repeated
    done: Tensor  # [B] bool: stands, or ran out of steps
    number: Tensor  # [B] int64: which canvas of its request this is, from 0
    settings: Settings


def first_noise(settings: Settings, number: Tensor, width: int, vocab_size: int) -> Tensor:
    """The ids that canvas `number` [B] of each request starts from, [B, width]."""
    return noise(settings.seed, number, torch.zeros_like(number), width, vocab_size)


def begin(settings: Settings, number: Tensor, start: Tensor, pins: Tensor | None = None) -> CanvasState:
    """Canvases that begin as `start` [B, C] with their pins in place; float64 entropies, nothing decided."""
    zero = torch.zeros_like(number)
    nothing = torch.zeros(start.shape, dtype=torch.float64, device=start.device)
    if pins is None:
        pins = torch.full_like(start, FREE)
    return CanvasState(
        canvas=hold(start, pins),
        argmax=torch.full_like(start, -1),
        accepted=torch.zeros_like(start, dtype=torch.bool),
        entropy=nothing,
        pins=pins,
        step=zero,
        unchanged=zero,
        done=torch.zeros_like(number, dtype=torch.bool),
        number=number,
        settings=settings,
    )


def inverse_temperature(state: CanvasState) -> Tensor:
    """1 / T of each row's coming step, [B] float64."""
    s = state.settings
    return 1.0 / temperature(state.step, s.max_steps, s.t_min, s.t_max)


def draws(state: CanvasState) -> Tensor:
    """The uniforms of each row's coming step, [B, C, 2]."""
    return uniforms(state.settings.seed, state.number, state.step, state.canvas.shape[1])


def step(stats: CanvasStats, state: CanvasState, vocab_size: int) -> CanvasState:
    """Accept, renoise, hold pins, test for standing. -> the state of the next step, done rows unchanged."""
    s = state.settings
    free = state.pins < 0
    entropy = stats.entropy.double()
    accepted = accept(entropy, s.entropy_bound, free)
    fresh = noise(s.seed, state.number, state.step + 1, state.canvas.shape[1], vocab_size)
    chosen = torch.where(s.greedy[:, None], stats.argmax, stats.sample)
    canvas = hold(torch.where(accepted, chosen, fresh), state.pins)
    argmax = hold(stats.argmax, state.pins)
    tested = counted(argmax, state.argmax, free, s.end_ids)
    unchanged = unchanged_steps(argmax, state.argmax, tested, state.unchanged)
    mean = mean_entropy(entropy.where(tested, 0.0), free)
    taken = state.step + 1
    is_broken = ~entropy.isfinite().all(-1)  # nothing finite will come of it any more
    has_converged = converged(unchanged, mean, s.stability_threshold, s.confidence_threshold)
    new = state._replace(
        canvas=canvas,
        argmax=argmax,
        accepted=accepted,
        entropy=entropy,
        step=taken,
        unchanged=unchanged,
        done=has_converged | (taken >= s.max_steps) | is_broken,
    )
    return _keep_done(state, new)


def _keep_done(old: CanvasState, new: CanvasState) -> CanvasState:
    """Rows that were done before this step keep every field."""

    def pick(before: Tensor, after: Tensor) -> Tensor:
        return torch.where(old.done.view(-1, *[1] * (before.dim() - 1)), before, after)

    return new._replace(
        canvas=pick(old.canvas, new.canvas),
        argmax=pick(old.argmax, new.argmax),
        accepted=pick(old.accepted, new.accepted),
        entropy=pick(old.entropy, new.entropy),
        step=pick(old.step, new.step),
        unchanged=pick(old.unchanged, new.unchanged),
        done=pick(old.done, new.done),
    )


def take(state: CanvasState, rows: Tensor) -> CanvasState:
    """The given rows [n] int64 of a state, in that order."""
    return _each(lambda field: field[rows], state)


def together(states: Sequence[CanvasState]) -> CanvasState:
    """The rows of several states of one width, one after another."""
    if len(states) == 1:
        return states[0]
    return _each(lambda *fields: torch.cat(fields), *states)


def cloned(state: CanvasState) -> CanvasState:
    """A state of its own memory."""
    return _each(lambda field: field.clone(), state)


def _each(act: Callable[..., Tensor], *states: CanvasState) -> CanvasState:
    settings = Settings(*map(act, *(state.settings for state in states)))
    fields = zip(*(state[:-1] for state in states), strict=True)
    return CanvasState._make((*(act(*parts) for parts in fields), settings))
