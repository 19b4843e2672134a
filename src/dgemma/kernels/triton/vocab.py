"""The vocabulary head in Triton: logits live in registers, p is written once, and what is known of a row is
a few numbers.

    _tiles    a product tile of [rows, 128 tokens]: soft cap, 1/T, p; per tile the sums of p and of p log p,
              and the top
    _rescale  cold rows only: p of each tile brought from its own maximum to the row's
    _rows     a row's totals: entropy, argmax, and the two-level inverse CDF sample

Soft-capped logits lie within +-cap, so down to cap / T = 75 (T 0.4 for cap 30) exp(x / T - 10) stays inside
float32 and needs no maximum; colder rows use their tiles' maxima. Which rows are cold is decided on the
device, row by row. Same contract as ops/vocab.py, which is the reference; logits are not rounded to 16 bits
here before the soft cap, the reference's are.

Trap: the interpreter multiplies bf16 wrongly without a word, so there the operands are widened first
(WIDEN).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..sizes import TILE

WARM: tl.constexpr = tl.constexpr(75.0)  # the largest cap / T that needs no maximum
# keeps the sum over 262,144 tokens finite at the top, and normal at the bottom
OFFSET: tl.constexpr = tl.constexpr(10.0)


@triton.jit
def _tiles(
    hidden,
    table,
    heat,
    p,
    sums,
    moments,
    tops,
    places,
    rows,
    vocab,
    tiles,
    cap,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """heat [rows] is cap / T.

    The rows of one vocabulary tile are neighbours in the grid: the table is read once.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile = tl.program_id(1)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    row_mask = row < rows
    known = token < vocab
    product = tl.zeros((ROWS, TOKENS), dtype=tl.float32)
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        inside = depth < width
        a = tl.load(
            hidden + row[:, None].to(tl.int64) * width + depth[None, :],
            row_mask[:, None] & inside[None, :],
            0.0,
        )
        b = tl.load(
            table + token[None, :].to(tl.int64) * width + depth[:, None],
            known[None, :] & inside[:, None],
            0.0,
        )
        if WIDEN:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        product = tl.dot(a, b, product, input_precision="ieee")
    squashed = 1.0 - 2.0 / (tl.exp(2.0 * product / cap) + 1.0)  # tanh
    scale = tl.load(heat + row, row_mask, 1.0)
    x = tl.where(known[None, :], squashed * scale[:, None], float("-inf"))
    top = tl.max(x, 1)
    place = tl.min(tl.where(x == top[:, None], token[None, :], vocab - 1), 1)
    x = x - tl.where(scale <= WARM, OFFSET, top)[:, None]
    chance = tl.exp(x).to(p.dtype.element_ty)
    tl.store(
        p + row[:, None].to(tl.int64) * vocab + token[None, :], chance, row_mask[:, None] & known[None, :]
    )
    weight = chance.to(tl.float32)
    at = row.to(tl.int64) * tiles + tile
    tl.store(sums + at, tl.sum(weight, 1), row_mask)
    tl.store(moments + at, tl.sum(tl.where(known[None, :], weight * x, 0.0), 1), row_mask)
    tl.store(tops + at, top, row_mask)
    tl.store(places + at, place, row_mask)


@triton.jit
def _rescale(
    heat, p, sums, moments, tops, vocab, tiles, TOKENS: tl.constexpr, TILES: tl.constexpr, PARTS: tl.constexpr
):
    """A part of the tiles of one cold row: from their own maxima to the row's, and their sums anew from what
    was rounded.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(heat + row) > WARM:
        every = tl.arange(0, TILES)
        highest = tl.max(tl.load(tops + row * tiles + every, every < tiles, float("-inf")), 0)
        for turn in range(0, TILES // PARTS):
            tile = tl.program_id(1) + turn * PARTS
            real = tile < tiles
            shift = tl.load(tops + row * tiles + tile, real, 0.0) - highest
            token = tile * TOKENS + tl.arange(0, TOKENS)
            known = token < vocab
            old = tl.load(p + row * vocab + token, known, 0.0).to(tl.float32)
            x = tl.where(old > 0.0, tl.log(tl.where(old > 0.0, old, 1.0)) + shift, 0.0)
            chance = tl.where(old > 0.0, tl.exp(x), 0.0).to(p.dtype.element_ty)
            tl.store(p + row * vocab + token, chance, known)
            weight = chance.to(tl.float32)
            tl.store(sums + row * tiles + tile, tl.sum(weight, 0), real)
            tl.store(moments + row * tiles + tile, tl.sum(weight * x, 0), real)


@triton.jit
def _first_above(masses, u, count: tl.constexpr):
    """The first index whose running total passes u * total, never one without mass."""
    index = tl.arange(0, count)
    running = tl.cumsum(masses, 0)
    total = tl.max(running, 0)
    above = tl.sum((running <= u * total).to(tl.int32), 0)
    last = tl.max(tl.where(masses > 0.0, index, 0), 0)
    return tl.minimum(above, last)


@triton.jit
def _rows(
    p,
    sums,
    moments,
    tops,
    places,
    uniforms,
    argmax,
    sample,
    entropy,
    row_sum,
    vocab,
    tiles,
    TOKENS: tl.constexpr,
    TILES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    every = tl.arange(0, TILES)
    real = every < tiles
    masses = tl.load(sums + row * tiles + every, real, 0.0)
    total = tl.sum(masses, 0)
    moment = tl.sum(tl.load(moments + row * tiles + every, real, 0.0), 0)
    top = tl.load(tops + row * tiles + every, real, float("-inf"))
    place = tl.load(places + row * tiles + every, real, vocab - 1)
    best = tl.min(tl.where(top == tl.max(top, 0), place, vocab - 1), 0)
    tile = _first_above(masses, tl.load(uniforms + row * 2), TILES)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    inside = tl.load(p + row * vocab + token, token < vocab, 0.0).to(tl.float32)
    drawn = tile * TOKENS + _first_above(inside, tl.load(uniforms + row * 2 + 1), TOKENS)
    tl.store(argmax + row, best.to(tl.int64))
    tl.store(sample + row, tl.minimum(drawn, vocab - 1).to(tl.int64))
    tl.store(entropy + row, tl.log(total) - moment / total)
    tl.store(row_sum + row, total)


def _block_rows(rows: int) -> int:
    """Rows of a block of _tiles."""
    if rows >= 128:
        return 128
    return 64 if rows >= 64 else 16


def head(
    hidden: Tensor,
    embedding: Tensor,
    softcap: float,
    inverse_temperature: Tensor,
    uniforms: Tensor,
    p: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(argmax, sample, entropy, p, row_sum) of hidden [B, C, D]; p [B, C, V]: memory for it.

    See vocab.head. No mask: such rows take the reference.
    """
    batch, canvas, width = hidden.shape
    rows = batch * canvas
    vocab = embedding.shape[0]
    device = hidden.device
    tiles = triton.cdiv(vocab, TILE)
    heat = (softcap * inverse_temperature).float().repeat_interleave(canvas)
    if p is None:
        p = torch.empty((batch, canvas, vocab), dtype=embedding.dtype, device=device)
    sums = torch.empty((rows, tiles), dtype=torch.float32, device=device)
    moments = torch.empty_like(sums)
    tops = torch.empty_like(sums)
    places = torch.empty((rows, tiles), dtype=torch.int32, device=device)
    argmax = torch.empty((batch, canvas), dtype=torch.int64, device=device)
    sample = torch.empty_like(argmax)
    entropy = torch.empty((batch, canvas), dtype=torch.float32, device=device)
    row_sum = torch.empty_like(entropy)
    every = triton.next_power_of_2(tiles)
    block = _block_rows(rows)
    _tiles[triton.cdiv(rows, block), tiles](
        hidden,
        embedding,
        heat,
        p,
        sums,
        moments,
        tops,
        places,
        rows,
        vocab,
        tiles,
        softcap,
        width,
        ROWS=block,
        TOKENS=TILE,
        DEPTH=32 if embedding.dtype == torch.float32 else 64,
        WIDEN=not hidden.is_cuda,
        num_warps=8,
        num_stages=3,
    )
    parts = min(16, every)  # a block per tile would be half a million that leave at once
    _rescale[rows, parts](
        heat, p, sums, moments, tops, vocab, tiles, TOKENS=TILE, TILES=every, PARTS=parts, num_warps=1
    )
    _rows[rows,](
        p,
        sums,
        moments,
        tops,
        places,
        uniforms,
        argmax,
        sample,
        entropy,
        row_sum,
        vocab,
        tiles,
        TOKENS=TILE,
        TILES=every,
    )
    return argmax, sample, entropy, p, row_sum
