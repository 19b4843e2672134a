"""The canvases of several requests side by side: how they begin, how they step, what is recorded of them.

Shared by the plain loop and by every faster one, so that these differ in scheduling only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..kernels.ops.vocab import CanvasStats, head
from ..model.dgemma import DiffusionGemma, PrevProbs
from ..sampling.pins import FREE
from ..sampling.step import CanvasState, Settings, begin, draws, first_noise, inverse_temperature, step, take
from .logits_processor import LogitsProcessor
from .requests import CommitRecord, Request, StepRecord


def begin_canvases(model: DiffusionGemma, requests: Sequence[Request], numbers: Sequence[int]) -> CanvasState:
    """Canvas `numbers[i]` of each request: noise, or the starting tokens it was given; pins on the first."""
    width = requests[0].width(model.config)
    device = model.device
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


def head_stats(
    model: DiffusionGemma, hidden: Tensor, state: CanvasState, prev_probs: PrevProbs | None = None
) -> CanvasStats:
    """The head's statistics of hidden [B, C, D] at each row's temperature and draws.

    prev_probs: of the last step, whose memory is used again where its shape is the same (a step has no use
    for two: at 262,144 tokens they are 134 MB a canvas in bf16).
    """
    memory = None
    if prev_probs is not None and prev_probs[0].shape[:2] == hidden.shape[:2]:
        memory = prev_probs[0]
    softcap = model.config.final_logit_softcapping
    return head(hidden, model.table, softcap, inverse_temperature(state), draws(state), p=memory)


def head_stats_constrained(
    model: DiffusionGemma, hidden: Tensor, state: CanvasState, processors: Sequence[LogitsProcessor | None]
) -> CanvasStats:
    """`head_stats` where some rows have rules: these one by one, the others together through the fused head.

    Rows that are done wait.
    """
    by_row: dict[int, CanvasStats] = {}
    for row, processor in enumerate(processors):
        if processor is not None:
            alone = torch.tensor([row], device=hidden.device)
            by_row[row] = processor.stats(model, hidden[alone], take(state, alone))
    if free := [row for row, processor in enumerate(processors) if processor is None]:
        rows = torch.tensor(free, device=hidden.device)
        stats = head_stats(model, hidden[rows], take(state, rows))
        for place, row in enumerate(free):
            by_row[row] = CanvasStats(*(field[place : place + 1] for field in stats))
    parts = [by_row[row] for row in range(len(processors))]
    if len(parts) == 1:
        return parts[0]
    return CanvasStats(*map(torch.cat, zip(*parts, strict=True)))


def advance(
    model: DiffusionGemma,
    hidden: Tensor,
    state: CanvasState,
    prev_probs: PrevProbs | None = None,
    processors: Sequence[LogitsProcessor | None] = (),
) -> tuple[CanvasState, PrevProbs, Tensor]:
    """One step of every canvas from hidden [B, C, D] and the last step's probabilities, whose memory goes.

    -> the next state, the probabilities, and what a watcher may learn of it.
    """
    if any(processor is not None for processor in processors):
        stats = head_stats_constrained(model, hidden, state, processors)
    else:
        stats = head_stats(model, hidden, state, prev_probs)
    after = step(stats, state, model.config.vocab_size)
    return after, (stats.p, stats.row_sum), step_output(state, after)


def step_output(before: CanvasState, after: CanvasState) -> Tensor:
    """What a watcher may learn of a step as one tensor [B, 4 + 3 C] int64, so that the host reads once."""
    facts = torch.stack([(~before.done).long(), after.step, after.done.long(), after.number], dim=-1)
    entropy = after.entropy.double().view(torch.int64)
    return torch.cat((facts, after.argmax, after.accepted.long(), entropy), dim=-1)


def step_records(names: Sequence[int], output: Tensor) -> Iterator[StepRecord]:
    """One record, under its name, for each row of a step's output that was still at work."""
    output = output.cpu()
    width = (output.shape[1] - 4) // 3
    entropy = output[:, -width:].view(torch.float64).tolist()
    for name, row, nats in zip(names, output.tolist(), entropy, strict=True):
        working, steps, done, number = row[:4]
        if working:
            accepted = [bool(taken) for taken in row[4 + width : 4 + 2 * width]]
            yield StepRecord(name, number, steps, row[4 : 4 + width], accepted, nats, bool(done))


def commit_records(
    names: Sequence[int],
    requests: Sequence[Request],
    left: Sequence[int],
    state: CanvasState,
    processors: Sequence[LogitsProcessor | None] = (),
) -> list[CommitRecord]:
    """What each finished canvas adds to its answer, of which `left` tokens may come.

    It is cut at the first end token.
    """
    finite = torch.isfinite(state.entropy).all(-1).tolist()
    numbers = state.number.tolist()
    steps = state.step.tolist()
    commits = []
    for i, canvas in enumerate(state.argmax.tolist()):
        ends = requests[i].config.eos_token_id or ()
        stop = next((place + 1 for place, token in enumerate(canvas) if token in ends), None)
        tokens, reason = _cut(canvas, stop, left[i])
        if not finite[i]:
            tokens = []
            reason = "error"
        commit = CommitRecord(names[i], numbers[i], steps[i], tokens, canvas, reason)
        processor = None
        if processors:
            processor = processors[i]
        if processor is not None:
            processor.commit(tokens)
            log_probs = processor.log_probs(len(tokens))
            commit = dataclasses.replace(commit, logprobs=log_probs, fault=processor.failed)
        commits.append(commit)
    return commits


def _cut(canvas: list[int], stop: int | None, left: int) -> tuple[list[int], str | None]:
    """The tokens of a canvas that join the answer, of which `left` may come, and why the answer ends there.

    stop: how many tokens of the canvas there are up to its first end token.
    """
    if stop is not None and stop <= left:
        return canvas[:stop], "stop"
    tokens = canvas[:stop]
    if len(tokens) >= left:
        return tokens[:left], "length"
    return tokens, None
