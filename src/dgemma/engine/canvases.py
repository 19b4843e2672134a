"""The canvases of several requests side by side: how they begin, what the head says of them, what is told of them.

Shared by the plain loop and by every faster one, so that these differ in scheduling only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..kernels.vocab import CanvasStats, head
from ..model.dgemma import DiffusionGemma
from ..sampling.pins import FREE
from ..sampling.step import CanvasState, Settings, begin, draws, first_noise, inverse_temperature
from .requests import CommitRecord, Request, StepRecord


def begin_canvases(model: DiffusionGemma, requests: Sequence[Request], numbers: Sequence[int]) -> CanvasState:
    """Canvas `numbers[i]` of each request: noise, or the starting tokens it was given; pins on the first."""
    width, device = requests[0].width(model.config), model.device
    settings = Settings.of([request.config for request in requests], [request.seed for request in requests], device)
    number = torch.tensor(numbers, dtype=torch.int64, device=device)
    pins = torch.full((len(requests), width), FREE, dtype=torch.int64, device=device)
    start = first_noise(settings, number, width, model.config.vocab_size)
    for row, (request, count) in enumerate(zip(requests, numbers, strict=True)):
        if count == 0 and request.pins is not None:
            pins[row] = torch.tensor(request.pins, device=device)
        if count < len(request.canvas_ids):
            start[row] = torch.tensor(request.canvas_ids[count], device=device)
    return begin(settings, number, start, pins)


def look(model: DiffusionGemma, hidden: Tensor, state: CanvasState) -> CanvasStats:
    """The head's statistics of hidden [B, C, D] at each row's temperature and draws."""
    softcap = model.config.final_logit_softcapping
    return head(hidden, model.embed.weight, softcap, inverse_temperature(state), draws(state))


def step_records(names: Sequence[int], before: CanvasState, after: CanvasState) -> Iterator[StepRecord]:
    """One record, under its name, for each row that was still at work in this step."""
    working, steps, done = (~before.done).tolist(), after.step.tolist(), after.done.tolist()
    numbers, argmax = after.number.tolist(), after.argmax.tolist()
    accepted, entropy = after.accepted.tolist(), after.entropy.tolist()
    for i, name in enumerate(names):
        if working[i]:
            yield StepRecord(name, numbers[i], steps[i], argmax[i], accepted[i], entropy[i], done[i])


def commit_records(
    names: Sequence[int], requests: Sequence[Request], left: Sequence[int], state: CanvasState
) -> list[CommitRecord]:
    """What each finished canvas adds to its answer, of which `left` tokens may come: cut at the first end token."""
    finite = torch.isfinite(state.entropy).all(-1).tolist()
    numbers, steps = state.number.tolist(), state.step.tolist()
    commits = []
    for i, canvas in enumerate(state.argmax.tolist()):
        ends = requests[i].config.eos_token_id or ()
        stop = next((place + 1 for place, token in enumerate(canvas) if token in ends), None)
        tokens, reason = canvas[: stop or len(canvas)], "stop" if stop else None
        if len(tokens) >= left[i] and not (stop and stop <= left[i]):
            tokens, reason = tokens[: left[i]], "length"
        if not finite[i]:
            tokens, reason = [], "error"
        commits.append(CommitRecord(names[i], numbers[i], steps[i], tokens, canvas, reason))
    return commits
