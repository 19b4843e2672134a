"""The canvases of several requests side by side: how they begin, what the head says of them, what is told of them.

Shared by the plain loop and by every faster one, so that these differ in scheduling only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..kernels.vocab import CanvasStats, head
from ..model.dgemma import DiffusionGemma, Previous
from ..sampling.pins import FREE
from ..sampling.step import CanvasState, Settings, begin, draws, first_noise, inverse_temperature, step, take
from .requests import CommitRecord, Request, StepRecord
from .rules import Ruler


def begin_canvases(model: DiffusionGemma, requests: Sequence[Request], numbers: Sequence[int]) -> CanvasState:
    """Canvas `numbers[i]` of each request: noise, or the starting tokens it was given; pins on the first."""
    width, device = requests[0].width(model.config), model.device
    settings = Settings.of(
        [request.config for request in requests], [request.seed for request in requests], device
    )
    number = torch.tensor(numbers, dtype=torch.int64, device=device)
    pins = torch.full((len(requests), width), FREE, dtype=torch.int64, device=device)
    start = first_noise(settings, number, width, model.config.vocab_size)
    for row, (request, count) in enumerate(zip(requests, numbers, strict=True)):
        if count == 0 and request.pins is not None:
            pins[row] = torch.tensor(request.pins, device=device)
        if count < len(request.canvas_ids):
            start[row] = torch.tensor(request.canvas_ids[count], device=device)
    return begin(settings, number, start, pins)


def look(
    model: DiffusionGemma, hidden: Tensor, state: CanvasState, spent: Tensor | None = None
) -> CanvasStats:
    """The head's statistics of hidden [B, C, D] at each row's temperature and draws. spent: probabilities [b, C, V] of the last step
    whose memory may be used (a step has no use for two: at 262,144 tokens they are 134 MB a canvas in bf16)."""
    memory = spent if spent is not None and spent.shape[:2] == hidden.shape[:2] else None
    softcap = model.config.final_logit_softcapping
    return head(hidden, model.table, softcap, inverse_temperature(state), draws(state), p=memory)


def look_by_rules(
    model: DiffusionGemma, hidden: Tensor, state: CanvasState, rulers: Sequence[Ruler | None]
) -> CanvasStats:
    """`look` where some rows have rules: these one by one, the others together through the fused head. Rows that are done wait."""
    by_row: dict[int, CanvasStats] = {}
    for row, ruler in enumerate(rulers):
        if ruler is not None:
            own = torch.tensor([row], device=hidden.device)
            by_row[row] = ruler.stats(model, hidden[own], take(state, own))
    if free := [row for row, ruler in enumerate(rulers) if ruler is None]:
        rows = torch.tensor(free, device=hidden.device)
        stats = look(model, hidden[rows], take(state, rows))
        for place, row in enumerate(free):
            by_row[row] = CanvasStats(*(field[place : place + 1] for field in stats))
    parts = [by_row[row] for row in range(len(rulers))]
    return parts[0] if len(parts) == 1 else CanvasStats(*map(torch.cat, zip(*parts, strict=True)))


def advance(
    model: DiffusionGemma,
    hidden: Tensor,
    state: CanvasState,
    spent: Tensor | None = None,
    rulers: Sequence[Ruler | None] = (),
) -> tuple[CanvasState, Previous, Tensor]:
    """One step of every canvas from hidden [B, C, D]. -> the next state, what was believed, and what is `told` of it."""
    ruled = any(ruler is not None for ruler in rulers)
    stats = look_by_rules(model, hidden, state, rulers) if ruled else look(model, hidden, state, spent)
    after = step(stats, state, model.config.vocab_size)
    return after, (stats.p, stats.row_sum), told(state, after)


def told(before: CanvasState, after: CanvasState) -> Tensor:
    """What a watcher may learn of a step as one tensor [B, 4 + 3 C] int64, so that the host reads once."""
    facts = torch.stack([(~before.done).long(), after.step, after.done.long(), after.number], dim=-1)
    return torch.cat(
        (facts, after.argmax, after.accepted.long(), after.entropy.double().view(torch.int64)), dim=-1
    )


def step_records(names: Sequence[int], told: Tensor) -> Iterator[StepRecord]:
    """One record, under its name, for each row that was still at work in this step."""
    told, width = told.cpu(), (told.shape[1] - 4) // 3
    entropy = told[:, -width:].view(torch.float64).tolist()
    for name, row, nats in zip(names, told.tolist(), entropy, strict=True):
        working, steps, done, number = row[:4]
        if working:
            accepted = [bool(taken) for taken in row[4 + width : 4 + 2 * width]]
            yield StepRecord(name, number, steps, row[4 : 4 + width], accepted, nats, bool(done))


def commit_records(
    names: Sequence[int],
    requests: Sequence[Request],
    left: Sequence[int],
    state: CanvasState,
    rulers: Sequence[Ruler | None] = (),
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
        ruler = rulers[i] if rulers else None
        if ruler is None:
            commits.append(CommitRecord(names[i], numbers[i], steps[i], tokens, canvas, reason))
            continue
        ruler.commit(tokens)
        commits.append(
            CommitRecord(
                names[i],
                numbers[i],
                steps[i],
                tokens,
                canvas,
                reason,
                ruler.log_probs(len(tokens)),
                ruler.failed,
            )
        )
    return commits
