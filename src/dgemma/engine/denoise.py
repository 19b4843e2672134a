"""THE LOOP: how a canvas of noise becomes tokens. Start reading here; every faster path must equal this one.

    read the prompts                          encode, in chunks
    for each canvas:
        begin with noise, pins in place
        until it stands or runs out of steps:
            hidden = denoise(canvas, K/V, the last step's probabilities)
            stats  = head(hidden)             argmax, sample, entropy, p, under the request's rules
            state  = step(stats, state)       accept, renoise, hold pins, test: both in canvases.advance
        commit the argmax canvas              its tokens join the answer, and are encoded for the next canvas

A batch runs in lockstep: its rows take their steps together, a row that stands early waits unchanged, and one
that ended leaves before the next canvas. Rows may differ in prompt length, seed and settings, not in canvas
width. Nobody is called back: whoever drives the generator pulls one record at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..config import EngineConfig
from ..errors import UsageError
from ..model.dgemma import DiffusionGemma, PrevProbs
from ..model.kv import KVCache
from .canvases import advance, begin_canvases, commit_records, step_records
from .logits_processor import logits_processor_of
from .requests import Record, Request


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
    rows = list(range(len(requests)))  # the requests that go on
    left = [request.max_tokens for request in requests]
    processors = [logits_processor_of(request) for request in requests]
    number = 0
    while rows:
        open_requests = [requests[row] for row in rows]
        open_processors = [processors[row] for row in rows]
        state = begin_canvases(model, open_requests, [number] * len(rows))
        prev_probs: PrevProbs | None = None
        while not state.done.all():
            hidden = model.denoise(state.canvas, kv, prev_probs, state.pins)
            state, prev_probs, step_output = advance(model, hidden, state, prev_probs, open_processors)
            yield from step_records(rows, step_output)
        commits = commit_records(rows, open_requests, [left[row] for row in rows], state, open_processors)
        yield from commits
        for commit in commits:
            left[commit.request] -= len(commit.token_ids)
        keep = [i for i, commit in enumerate(commits) if commit.finish_reason is None]
        rows = [rows[i] for i in keep]
        number += 1
        if rows:
            kv = [kv[i] for i in keep]
            model.encode(state.argmax[keep], kv)


def read_prompts(
    model: DiffusionGemma, prompts: Sequence[Sequence[int]], chunk: int, extra: int = 0
) -> list[KVCache]:
    """Encode prompts of any lengths, `chunk` tokens of each at a time.

    -> their K and V, with slots for `extra` tokens more.
    """
    longest = max(len(prompt) for prompt in prompts)
    kv = [model.new_cache(len(prompt) + extra) for prompt in prompts]
    padded = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
    padded = padded.to(model.device)
    for start in range(0, longest, chunk):
        ids = padded[:, start : start + chunk]
        lengths = [min(max(len(prompt) - start, 0), ids.shape[1]) for prompt in prompts]
        model.encode(ids, kv, lengths)
    return kv
