"""THE LOOP: how a canvas of noise becomes tokens. Start reading here; every faster path must equal this one.

    read the prompts                          encode, in chunks
    for each canvas:
        begin with noise, pins in place
        until it stands or runs out of steps:
            hidden = denoise(canvas, K/V, what the last step believed)
            stats  = head(hidden)             argmax, sample, entropy, p
            state  = step(stats, state)       accept, renoise, hold pins, test
        commit the argmax canvas              its tokens join the answer, and are encoded for the next canvas

A batch runs in lockstep: its rows take their steps together, a row that stands early waits unchanged, and
one that ended leaves before the next canvas. Rows may differ in prompt length, seed and settings, not in canvas
width. Nobody is called back: whoever drives the generator pulls one record at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..config import EngineConfig
from ..errors import UsageError
from ..kernels.vocab import CanvasStats, head
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from ..sampling.pins import FREE
from ..sampling.step import CanvasState, Settings, begin, draws, first_noise, inverse_temperature, step
from .requests import CommitRecord, Request, Result, StepRecord


def generate(model: DiffusionGemma, requests: Sequence[Request], config: EngineConfig = EngineConfig()) -> list[Result]:
    """Run requests to their ends and return their results, in order; one that was not finite ends with "error", alone."""
    results = [Result() for _ in requests]
    for record in run(model, requests, config):
        if isinstance(record, CommitRecord):
            results[record.request].add(record)
    return results


@torch.inference_mode()
def run(
    model: DiffusionGemma, requests: Sequence[Request], config: EngineConfig = EngineConfig()
) -> Iterator[StepRecord | CommitRecord]:
    """The plain loop over a batch of requests of one canvas width. Yields every step and every commit."""
    for request in requests:
        request.check(model.config, config.max_prompt_tokens)
    if len({request.width(model.config) for request in requests}) > 1:
        raise UsageError("the requests of one batch must have the same canvas width")
    if not requests:
        return
    width = requests[0].width(model.config)
    most = max(-(-request.max_tokens // width) for request in requests) * width
    kv = read_prompts(model, [request.prompt_ids for request in requests], config.prefill_chunk, most)
    rows, left, number = list(range(len(requests))), [request.max_tokens for request in requests], 0
    while rows:
        state, previous = _begin(model, [requests[row] for row in rows], number), None
        while not state.done.all():
            hidden = model.denoise(state.canvas, kv, previous, state.pins)
            stats = _head(model, hidden, state)
            before, state = state, step(stats, state, model.config.vocab_size)
            previous = stats.p, stats.row_sum
            yield from _step_records(rows, number, before, state)
        commits = _commits(rows, number, [requests[row] for row in rows], left, state)
        yield from commits
        for commit in commits:
            left[commit.request] -= len(commit.token_ids)
        keep = [i for i, commit in enumerate(commits) if commit.finish_reason is None]
        rows, number = [rows[i] for i in keep], number + 1
        if rows:
            kv = [kv[i] for i in keep]
            model.encode(state.argmax[keep], kv)


def read_prompts(model: DiffusionGemma, prompts: Sequence[Sequence[int]], chunk: int, room: int = 0) -> list[KVCache]:
    """Encode prompts of any lengths, `chunk` tokens of each at a time. -> their K and V, with room for more tokens."""
    longest = max(len(prompt) for prompt in prompts)
    kv = [model.new_cache(len(prompt) + room) for prompt in prompts]
    padded = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
    padded = padded.to(model.device)
    for start in range(0, longest, chunk):
        ids = padded[:, start : start + chunk]
        model.encode(ids, kv, [min(max(len(prompt) - start, 0), ids.shape[1]) for prompt in prompts])
    return kv


def _begin(model: DiffusionGemma, requests: list[Request], number: int) -> CanvasState:
    """The state of canvas `number` of each request: noise, or the starting tokens it was given; pins on the first."""
    width, device = requests[0].width(model.config), model.device
    settings = Settings.of([request.config for request in requests], [request.seed for request in requests], device)
    numbers = torch.full((len(requests),), number, dtype=torch.int64, device=device)
    pins = torch.full((len(requests), width), FREE, dtype=torch.int64, device=device)
    for row, request in enumerate(requests):
        if number == 0 and request.pins is not None:
            pins[row] = torch.tensor(request.pins, device=device)
    start = first_noise(settings, numbers, width, model.config.vocab_size)
    for row, request in enumerate(requests):
        if number < len(request.canvas_ids):
            start[row] = torch.tensor(request.canvas_ids[number], device=device)
    return begin(settings, numbers, start, pins)


def _head(model: DiffusionGemma, hidden: Tensor, state: CanvasState) -> CanvasStats:
    softcap = model.config.final_logit_softcapping
    return head(hidden, model.embed.weight, softcap, inverse_temperature(state), draws(state))


def _step_records(rows: list[int], number: int, before: CanvasState, after: CanvasState) -> Iterator[StepRecord]:
    """One record for each row that was still at work in this step."""
    working, steps, done = (~before.done).tolist(), after.step.tolist(), after.done.tolist()
    argmax, accepted, entropy = after.argmax.tolist(), after.accepted.tolist(), after.entropy.tolist()
    for i, row in enumerate(rows):
        if working[i]:
            yield StepRecord(row, number, steps[i], argmax[i], accepted[i], entropy[i], done[i])


def _commits(
    rows: list[int], number: int, requests: list[Request], left: list[int], state: CanvasState
) -> list[CommitRecord]:
    """What each row's finished canvas adds to its answer: cut at the first end token, and at the token limit."""
    finite = torch.isfinite(state.entropy).all(-1).tolist()
    commits = []
    for i, canvas in enumerate(state.argmax.tolist()):
        ends = requests[i].config.eos_token_id or ()
        stop = next((place + 1 for place, token in enumerate(canvas) if token in ends), None)
        tokens, reason = canvas[: stop or len(canvas)], "stop" if stop else None
        if len(tokens) >= left[rows[i]] and not (stop and stop <= left[rows[i]]):
            tokens, reason = tokens[: left[rows[i]]], "length"
        if not finite[i]:
            tokens, reason = [], "error"
        commits.append(CommitRecord(rows[i], number, int(state.step[i]), tokens, canvas, reason))
    return commits
