"""The vocabulary head: everything the sampler may know of a [canvas, vocabulary] distribution.

`head` returns the argmax, a sample, the entropy, and the unnormalised probabilities p (rounded to the
weight dtype) with their row sums: p is both what the sample is drawn from and the next step's
self-conditioning. Sums are taken over the **rounded** p; sums of the unrounded are off by up to 0.45 %
from what was stored. Sampling is an exact two-level inverse CDF: one uniform picks a tile of 128
tokens by its mass, the other a token inside it, so that no per-token noise is ever made.

Trap: adding float32 masses one by one loses small tails; tile sums keep every partial sum short.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .norm import wide

TILE = 128


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
    logits = soft_capped_logits(hidden, embedding, softcap)
    logits = logits.mul_(inverse_temperature.to(logits.dtype)[:, None, None])
    return stats_of(logits, uniforms, embedding.dtype, mask)


def stats_of(processed: Tensor, uniforms: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> CanvasStats:
    """CanvasStats of processed logits [B, C, V] (consumed: overwritten). The unfused path, and the reference."""
    if mask is not None:
        processed = processed.masked_fill(~mask, -torch.inf)
    top, argmax = processed.max(dim=-1)
    shifted = processed.sub_(top[..., None])
    p, row_sum = weigh(shifted, dtype)
    exact = p.to(shifted.dtype)
    # sum p (log p) with 0 log 0 = 0: masked tokens sit at -inf
    moment = (exact * shifted.clamp_min(-1e4)).sum(-1)
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
    tiles = F.pad(p, (0, pad)).unflatten(-1, (-1, TILE))
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
