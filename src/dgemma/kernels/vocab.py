"""The vocabulary head: everything the sampler may know of a [canvas, vocabulary] distribution.

`head` returns the argmax, a sample, the entropy, and the unnormalised probabilities p (rounded to the
weight dtype) with their row sums: p is both what the sample is drawn from and the next step's
self-conditioning. Sums are taken over the **rounded** p; sums of the unrounded are off by up to 0.45 %
from what was stored. Sampling is an exact two-level inverse CDF: one uniform picks a tile of 128
tokens by its mass, the other a token inside it, so that no per-token noise is ever made.

Trap: adding float32 masses one by one loses small tails; tile sums keep every partial sum short.

The [canvas, vocabulary] tensor is written once by the product and once more as probabilities; everything else happens to
a few rows at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .norm import wide
from .select import triton_form

TILE = 128
BLOCK = 1 << 19  # logits that are worked on at a time on a CPU: 2 MB of float32 stay in a core's cache
BLOCK_CUDA = 1 << 24  # there a launch costs more than a pass over 64 MB


class CanvasStats(NamedTuple):
    """What one step learned about each canvas position."""

    argmax: Tensor  # [B, C] int64
    sample: Tensor  # [B, C] int64
    entropy: Tensor  # [B, C] float32 (float64), nats, of softmax(logits / T); NaN where the logits were not finite
    p: Tensor  # [B, C, V] weight dtype, exp(logits / T - max); masked tokens 0
    row_sum: Tensor  # [B, C] float32 (float64), the sum of the rounded p


def soft_capped_logits(hidden: Tensor, embedding: Tensor, softcap: float) -> Tensor:
    """softcap * tanh(hidden @ embedding^T / softcap), [..., V] float32 (float64 for float64 weights)."""
    logits = F.linear(hidden, embedding)
    return (logits.to(wide(logits.dtype)) / softcap).tanh_().mul_(softcap)


def head(
    hidden: Tensor, embedding: Tensor, softcap: float, inverse_temperature: Tensor, uniforms: Tensor,
    mask: Tensor | None = None,
) -> CanvasStats:  # fmt: skip
    """Statistics of softmax(soft-capped logits * inverse_temperature).

    hidden [B, C, D], embedding [V, D], inverse_temperature [B], uniforms [B, C, 2] in (0, 1), mask bool
    broadcastable to [B, C, V] (True: allowed) or None.
    """
    if mask is None and hidden.dtype != torch.float16 and (fast := triton_form("vocab", hidden)):
        return CanvasStats(*fast.head(hidden, embedding, softcap, inverse_temperature, uniforms))
    p = F.linear(hidden, embedding)  # the logits at first; each block of rows turns into its probabilities in place
    rows, vocab = p.shape[0] * p.shape[1], p.shape[2]
    flat, uniforms = p.view(rows, vocab), uniforms.reshape(rows, 2)
    heat = (softcap * inverse_temperature.to(wide(p.dtype))).repeat_interleave(p.shape[1])
    allowed = None if mask is None else mask.expand(p.shape).reshape(rows, vocab)
    size, found = max(1, (BLOCK_CUDA if p.is_cuda else BLOCK) // vocab), []
    for start in range(0, rows, size):
        own = slice(start, start + size)
        x = (flat[own].to(heat.dtype) / softcap).tanh_().mul_(heat[own, None])
        stats = stats_of(x, uniforms[own], p.dtype, None if allowed is None else allowed[own])
        flat[own] = stats.p
        found.append(stats._replace(p=None))
    argmax, sample, entropy, row_sum = (
        torch.cat([getattr(stats, name) for stats in found]).view(p.shape[:2])
        for name in ("argmax", "sample", "entropy", "row_sum")
    )
    return CanvasStats(argmax, sample, entropy, p, row_sum)


def stats_of(processed: Tensor, uniforms: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> CanvasStats:
    """CanvasStats of processed logits [..., V] (consumed: overwritten). The reference, on any block of rows."""
    if mask is not None:
        processed = processed.masked_fill(~mask, -torch.inf)
    top, argmax = processed.max(dim=-1)
    shifted = processed.sub_(top[..., None])
    p, row_sum = weigh(shifted, dtype)
    exact = p.to(shifted.dtype)
    if mask is not None:
        shifted.clamp_min_(-1e4)  # sum p (log p) with 0 log 0 = 0: masked tokens sit at -inf
    moment = (exact * shifted).sum(-1)
    entropy = row_sum.log() - moment / row_sum
    return CanvasStats(argmax, _inverse_cdf(exact, row_sum, uniforms), entropy, p, row_sum)


def weigh(shifted: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """exp of logits whose maximum is 0, rounded to `dtype`, and the row sums of what was rounded."""
    p = shifted.exp().to(dtype)
    return p, p.to(shifted.dtype).sum(-1)


def soft_embedding(p: Tensor, row_sum: Tensor, embedding: Tensor, scale: float) -> Tensor:
    """scale * sum_v p_v / row_sum * embedding_v: [B, C, D] in the weight dtype."""
    mixed = torch.matmul(p, embedding)
    return (mixed.to(row_sum.dtype) * (scale / row_sum)[..., None]).to(embedding.dtype)


def _inverse_cdf(p: Tensor, row_sum: Tensor, uniforms: Tensor) -> Tensor:
    pad = -p.shape[-1] % TILE
    tiles = (F.pad(p, (0, pad)) if pad else p).unflatten(-1, (-1, TILE))
    masses = tiles.sum(-1)
    tile = _pick(masses, uniforms[..., 0].to(p.dtype))
    inside = tiles.gather(-2, tile[..., None, None].expand(*tile.shape, 1, TILE)).squeeze(-2)
    return tile * TILE + _pick(inside, uniforms[..., 1].to(p.dtype))


def _pick(masses: Tensor, u: Tensor) -> Tensor:
    """The first index whose cumulative mass exceeds u * total; never one with mass 0."""
    cumulative = masses.cumsum(-1)
    index = (cumulative <= u[..., None] * cumulative[..., -1:]).sum(-1)
    # u * total can round up to the total: fall back to the last index that has mass
    last = (masses > 0).long().mul(torch.arange(1, masses.shape[-1] + 1, device=masses.device)).amax(-1) - 1
    return torch.minimum(index, last.clamp_min(0))
