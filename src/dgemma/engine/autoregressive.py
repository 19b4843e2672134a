"""Token by token, for comparison: the same weights read causally, one token a pass.

What denoising a canvas saves is measured against this loop: the same keys and values, the same head, the same
request. It has no canvas, so nothing that a canvas is asked for: no pins, no rules on logits, no form.

Trap: DiffusionGemma is made to denoise. Its causal pass predicts the next token because training asks it to,
so an answer in this way says what the weights know, not what the model would say.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from ..config import NO_RULES
from ..errors import UsageError
from ..kernels.ops import random
from ..kernels.ops.vocab import head
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from .denoise import read_prompts
from .requests import CommitRecord, Request
from .runner import Runner


def run(engine: Runner, request: Request) -> Generator[CommitRecord, None, None]:
    """One request, a commit of one token after each pass; `steps` of a commit is 1.

    The token is the likeliest where the request's temperature is 0, else a sample at that temperature from
    the request's seed. Raises UsageError for what only a canvas can do, and where the request does not fit.
    """
    check(request)
    engine.check(request)
    kv = engine.do(_read_context, engine, request)
    token = request.prompt_ids[-1]
    for place in range(request.max_tokens):
        token, finite = engine.do(next_token, engine.model, kv, token, place, request)
        reason = _finish_reason(request, token, place, finite)
        if finite:
            ids = [token]
        else:
            ids = []
        yield CommitRecord(0, place, 1, ids, ids, reason)
        if reason is not None:
            return


@torch.inference_mode()
def _read_context(engine: Runner, request: Request) -> KVCache:
    """K and V of the prompt but for its last token, with room for the answer."""
    context = request.prompt_ids[:-1]
    if not context:
        return engine.model.new_cache(request.max_tokens)
    (kv,) = read_prompts(engine.model, [context], engine.config.prefill_chunk, request.max_tokens)
    return kv


@torch.inference_mode()
def next_token(
    model: DiffusionGemma, kv: KVCache, token: int, place: int, request: Request
) -> tuple[int, bool]:
    """Read `token`, and choose the one behind it: token `place` of the answer.

    -> it, and whether logits were finite.
    """
    ids = torch.tensor([[token]], device=model.device)
    hidden = model.encode(ids, [kv])
    temperature = request.config.temperature
    inverse = torch.tensor([1.0 / (temperature or 1.0)], device=model.device)
    uniforms = _draws(request, place, hidden)
    stats = head(hidden, model.table, model.config.final_logit_softcapping, inverse, uniforms)
    if temperature == 0:
        chosen = stats.argmax
    else:
        chosen = stats.sample
    return int(chosen[0, 0]), bool(stats.entropy.isfinite().all())


def _draws(request: Request, place: int, hidden: Tensor) -> Tensor:
    """The two uniforms of one token, [1, 1, 2]."""
    seed, number, zero = (torch.tensor([value], device=hidden.device) for value in (request.seed, place, 0))
    return random.uniforms(seed, number, zero, 1)


def check(request: Request) -> None:
    """Raise UsageError for what only a canvas can do."""
    if request.pins is not None or request.canvas_ids or request.only:
        raise UsageError("token by token there is no canvas: leave out pins and starting canvases")
    if request.rules != NO_RULES or request.grammar is not None:
        raise UsageError("token by token knows no rules on tokens and no forms: leave them out")


def _finish_reason(request: Request, token: int, place: int, finite: bool) -> str | None:
    if not finite:
        return "error"
    if token in request.ends:
        return "stop"
    if place + 1 == request.max_tokens:
        return "length"
    return None
