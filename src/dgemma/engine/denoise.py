"""THE LOOP: how a canvas of noise becomes tokens. Start reading here; every faster path must equal this one.

    read the prompts                          encode, in chunks
    for each canvas:
        begin with noise, pins in place
        until it stands or runs out of steps:
            hidden = denoise(canvas, K/V, what the last step believed)
            stats  = head(hidden)             argmax, sample, entropy, p; under a request's rules (both: canvases.advance)
            state  = step(stats, state)       accept, renoise, hold pins, test
        commit the argmax canvas              its tokens join the answer, and are encoded for the next canvas

A batch runs in lockstep: its rows take their steps together, a row that stands early waits unchanged, and
one that ended leaves before the next canvas. Rows may differ in prompt length, seed and settings, not in canvas
width. Nobody is called back: whoever drives the generator pulls one record at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..config import EngineConfig
from ..errors import UsageError
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from .canvases import advance, begin_canvases, commit_records, step_records
from .requests import Record, Request
from .rules import ruler_of


@torch.inference_mode()
def run(
    model: DiffusionGemma, requests: Sequence[Request], config: EngineConfig = EngineConfig()
) -> Iterator[Record]:
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
    rulers = [ruler_of(request) for request in requests]
    while rows:
        asked, ruling = [requests[row] for row in rows], [rulers[row] for row in rows]
        state, previous = begin_canvases(model, asked, [number] * len(rows)), None
        while not state.done.all():
            hidden = model.denoise(state.canvas, kv, previous, state.pins)
            state, previous, told = advance(
                model, hidden, state, spent=previous and previous[0], rulers=ruling
            )
            yield from step_records(rows, told)
        commits = commit_records(rows, asked, [left[row] for row in rows], state, ruling)
        yield from commits
        for commit in commits:
            left[commit.request] -= len(commit.token_ids)
        keep = [i for i, commit in enumerate(commits) if commit.finish_reason is None]
        rows, number = [rows[i] for i in keep], number + 1
        if rows:
            kv = [kv[i] for i in keep]
            model.encode(state.argmax[keep], kv)


def read_prompts(
    model: DiffusionGemma, prompts: Sequence[Sequence[int]], chunk: int, room: int = 0
) -> list[KVCache]:
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
