"""The vocabulary head: everything the sampler may know of a [canvas, vocabulary] distribution.

`head` returns the argmax, a sample, the entropy, and the unnormalised probabilities p (rounded to the
weight dtype) with their row sums: p is both what the sample is drawn from and the next step's
self-conditioning. Sums are taken over the **rounded** p; sums of the unrounded are off by up to 0.45 % from
what was stored. Sampling is an exact two-level inverse CDF: one uniform picks a tile of 128 tokens by its
mass, the other a token inside it, so that no per-token noise is ever made.

Trap: adding float32 masses one by one loses small tails; tile sums keep every partial sum short.

Logits are worked on in bits (times log2 e), because torch's exp2 on a CPU takes a third of its exp's time,
and a twentieth where numbers underflow, as most of a sure row's do (8 x 65536 float32, Zen 4, 2 threads:
0.09-0.17 ms; exp 0.28-0.41, and 3.2-4.3 beyond -87).

The [canvas, vocabulary] tensor is written once by the product and once more as probabilities; everything
else happens to a few rows at a time, or row by row in C (c/native.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..c import native
from ..dtypes import wide
from ..quant.formats import QuantTensor, mixture, product
from ..select import triton_backend
from ..sizes import BLOCKS, TILE
from . import widen
from .matmul import Table, activated, laid_out, linear, outputs


class CanvasStats(NamedTuple):
    """What one step learned about each canvas position."""

    argmax: Tensor  # [B, C] int64
    sample: Tensor  # [B, C] int64
    # [B, C] float32 (float64), nats, of softmax(logits / T); NaN where the logits were not finite
    entropy: Tensor
    p: Tensor  # [B, C, V] weight dtype, exp(logits / T - max); masked tokens 0
    row_sum: Tensor  # [B, C] float32 (float64), the sum of the rounded p


def soft_capped_logits(hidden: Tensor, embedding: Table, softcap: float) -> Tensor:
    """softcap * tanh(hidden @ embedding^T / softcap), [..., V] float32 (float64 for float64 weights)."""
    if isinstance(embedding, list):  # packed
        logits = torch.cat([linear(hidden, laid_out(part)) for part in embedding], dim=-1)
    else:
        logits = linear(hidden, embedding)
    return (logits.to(wide(logits.dtype)) / softcap).tanh_().mul_(softcap)


def head(
    hidden: Tensor,
    embedding: Table,
    softcap: float,
    inverse_temperature: Tensor,
    uniforms: Tensor,
    mask: Tensor | None = None,
    p: Tensor | None = None,
) -> CanvasStats:
    """Statistics of softmax(soft-capped logits * inverse_temperature).

    hidden [B, C, D], embedding [V, D] (or packed, see matmul.pack_table, or in few bits),
    inverse_temperature [B], uniforms [B, C, 2] in (0, 1), mask bool broadcastable to [B, C, V] (True:
    allowed) or None; p [B, C, V]: memory for the result's, such as the last step's.
    """
    plain = mask is None and hidden.dtype != torch.float16 and isinstance(embedding, Tensor)
    if plain and (fast := triton_backend("vocab", hidden)):
        return CanvasStats(*fast.head(hidden, embedding, softcap, inverse_temperature, uniforms, p))
    packed = isinstance(embedding, list)
    if p is None:
        if isinstance(embedding, list):
            vocab = sum(map(outputs, embedding))
        else:
            vocab = len(embedding)
        p = torch.empty((*hidden.shape[:2], vocab), dtype=hidden.dtype, device=hidden.device)
    batch, canvas, vocab = p.shape
    rows = batch * canvas
    # the logits at first; each block of rows turns into its probabilities in place
    flat = p.view(rows, vocab)
    _products(hidden.flatten(0, 1), embedding, softcap, flat)
    per_canvas = softcap / math.log(2) * inverse_temperature.to(wide(p.dtype))
    heat = per_canvas.repeat_interleave(canvas)
    if packed and mask is None and native.settles(flat):
        return _stats(p, *native.settle(flat, heat), uniforms)
    allowed = None
    if mask is not None:
        allowed = mask.expand(p.shape).reshape(rows, vocab)
    size = max(1, BLOCKS["cuda" if p.is_cuda else "cpu"] // vocab)
    scratch = _Scratch(min(size, rows), vocab, p)
    blocks = []
    for start in range(0, rows, size):
        block = flat[start : start + size]
        x = scratch.logits[: len(block)].copy_(block)
        if not packed:
            x.div_(softcap).tanh_()
        x.mul_(heat[start : start + size, None])
        block_mask = None
        if allowed is not None:
            block_mask = allowed[start : start + size]
        blocks.append(_settle(x, block, scratch, block_mask))
    argmax, entropy, row_sum, masses = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return _stats(p, argmax, entropy, row_sum, masses, uniforms)


def stats_of(
    processed: Tensor, uniforms: Tensor, dtype: torch.dtype, mask: Tensor | None = None
) -> CanvasStats:
    """CanvasStats of processed logits [B, C, V] (consumed: overwritten); uniforms and mask as for `head`."""
    p = torch.empty(processed.shape, dtype=dtype, device=processed.device)
    vocab = processed.shape[-1]
    x = processed.reshape(-1, vocab).div_(math.log(2))
    allowed = None
    if mask is not None:
        allowed = mask.expand(processed.shape).reshape(x.shape)
    settled = _settle(x, p.view(x.shape), _Scratch(len(x), vocab, p), allowed)
    return _stats(p, *settled, uniforms)


def _products(hidden: Tensor, embedding: Table, softcap: float, out: Tensor) -> None:
    """Logits [R, V] in the weight dtype, of packed tables tanh(logits / softcap).

    There tanh happens inside the product, on what is still in the cache. In bf16 that costs 3.0e-5 nats (KL
    to exact arithmetic on the same inputs, shipped checkpoint) instead of 2.1e-5; rounding is all that
    differs.
    """
    if isinstance(embedding, QuantTensor):
        product(hidden, embedding, out)
        return
    if isinstance(embedding, Tensor):
        widen.product(hidden, embedding, out)
        return
    hidden = hidden / softcap
    first = 0
    for part in embedding:
        last = first + outputs(part)
        activated(hidden, laid_out(part), "tanh", out[:, first:last])
        first = last


class _Scratch:
    """Memory that blocks of rows share.

    A fresh 2 MB per operation cost more than its arithmetic (0.6 ms, page by page).
    """

    def __init__(self, rows: int, vocab: int, p: Tensor):
        self.logits = torch.empty((rows, vocab), dtype=wide(p.dtype), device=p.device)
        self.exact = None if p.dtype == self.logits.dtype else torch.empty_like(self.logits)


def _settle(
    x: Tensor, p: Tensor, scratch: _Scratch, allowed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write 2^(x - max) to p [R, V], rounded; x is consumed.

    -> argmax [R], entropy [R], sums of p by row [R] and by tile [R, tiles].
    """
    if allowed is not None:
        x.masked_fill_(~allowed, -torch.inf)
    tiles = _tiles(x, -torch.inf)
    top, tile = tiles.amax(-1).max(-1)
    argmax = tile * TILE + tiles[torch.arange(len(x), device=x.device), tile].argmax(-1)
    x.sub_(top[:, None])
    exact = torch.exp2(x, out=p if scratch.exact is None else scratch.exact[: len(x)])
    if scratch.exact is not None:
        exact.copy_(p.copy_(exact))  # what counts is what was stored
    if allowed is not None:
        x.clamp_min_(-1e4)  # p log p with 0 log 0 = 0: masked tokens sit at -inf
    moment = x.mul_(exact).sum(-1)
    masses = _tiles(exact, 0.0).sum(-1)
    row_sum = masses.sum(-1)
    entropy = (row_sum.log2() - moment / row_sum) * math.log(2)
    return argmax, entropy, row_sum, masses


def _stats(
    p: Tensor, argmax: Tensor, entropy: Tensor, row_sum: Tensor, masses: Tensor, uniforms: Tensor
) -> CanvasStats:
    flat = p.view(len(argmax), -1)
    shape = p.shape[:-1]
    sample = _inverse_cdf(flat, masses, uniforms.reshape(-1, 2).to(masses.dtype))
    return CanvasStats(argmax.view(shape), sample.view(shape), entropy.view(shape), p, row_sum.view(shape))


def weigh(shifted: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """exp of logits whose maximum is 0, rounded to `dtype`, and the row sums of what was rounded."""
    p = shifted.exp().to(dtype)
    return p, p.to(shifted.dtype).sum(-1)


def soft_embedding(p: Tensor, row_sum: Tensor, columns: Tensor | QuantTensor, scale: float) -> Tensor:
    """scale * sum_v p_v / row_sum * embedding_v: [B, C, D] in p's dtype.

    columns [D, V] is the embedding turned (or packed), or the embedding itself [V, D] in few bits.
    """
    if isinstance(columns, QuantTensor):
        mixed = mixture(p.flatten(0, 1), columns).view(*p.shape[:2], -1)
    else:
        mixed = linear(p, columns)
    return (mixed.to(row_sum.dtype) * (scale / row_sum)[..., None]).to(p.dtype)


def _tiles(x: Tensor, empty: float) -> Tensor:
    """x [R, V] as [R, tiles, TILE]; what the last tile lacks is `empty`."""
    pad = -x.shape[-1] % TILE
    whole = x
    if pad:
        whole = F.pad(x, (0, pad), value=empty)
    tiles: Tensor = whole.unflatten(-1, (-1, TILE))
    return tiles


def _inverse_cdf(p: Tensor, masses: Tensor, uniforms: Tensor) -> Tensor:
    """The token of each row [R] of p [R, V], whose tiles weigh `masses`."""
    tile = _pick(masses, uniforms[:, 0])
    place = tile[:, None] * TILE + torch.arange(TILE, device=p.device)
    real = place < p.shape[-1]
    inside = p.gather(-1, place.clamp_max(p.shape[-1] - 1)).to(masses.dtype) * real
    return tile * TILE + _pick(inside, uniforms[:, 1])


def _pick(masses: Tensor, u: Tensor) -> Tensor:
    """The first index whose cumulative mass exceeds u * total; never one with mass 0."""
    cumulative = masses.cumsum(-1)
    index = (cumulative <= u[..., None] * cumulative[..., -1:]).sum(-1)
    # u * total can round up to the total: fall back to the last index that has mass
    numbers = torch.arange(1, masses.shape[-1] + 1, device=masses.device)
    last = (masses > 0).long().mul(numbers).amax(-1) - 1
    return torch.minimum(index, last.clamp_min(0))
