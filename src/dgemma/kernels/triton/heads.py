"""The heads of a layer in Triton: q, k and v of all rows in one launch, each read once and written where
attention reads it.

A program makes one head of some rows; the two halves of a head, which rope turns into each other, are
loaded apart. Same contract as ops/heads.py, the reference, and rounded where it rounds: after the norm,
after each product of the rotation.

It refuses to know the kind of layer: without v, the raw k is read once more. Trap: the projections may be
columns of one wider product, so their rows have a stride.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .norm import rounded


@triton.jit
def _head(
    source,
    out,
    weight,
    cos,
    sin,
    row,
    real,
    batch,
    head,
    count,
    rows,
    stride: tl.constexpr,
    eps,
    half: tl.constexpr,
    HALF: tl.constexpr,
    KEY: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Head `head` of `count` at some rows of a sequence: norm, and if KEY (q and k) weight and rope."""
    kind: tl.constexpr = out.dtype.element_ty
    pair = tl.arange(0, HALF)
    inside = real[:, None] & (pair < half)[None, :]
    line = (batch.to(tl.int64) * rows + row)[:, None]
    at = line * stride + head * (2 * half) + pair[None, :]
    low = tl.load(source + at, inside, 0.0).to(tl.float32)
    high = tl.load(source + half + at, inside, 0.0).to(tl.float32)
    factor = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * half) + eps)[:, None]
    low, high = low * factor, high * factor
    if KEY:
        low = low * tl.load(weight + pair, pair < half, 0.0).to(tl.float32)[None, :]
        high = high * tl.load(weight + half + pair, pair < half, 0.0).to(tl.float32)[None, :]
    low, high = rounded(low, kind, WIDEN), rounded(high, kind, WIDEN)
    if KEY:
        c = tl.load(cos + line * half + pair[None, :], inside, 0.0).to(tl.float32)
        s = tl.load(sin + line * half + pair[None, :], inside, 0.0).to(tl.float32)
        turned = rounded(low * c, kind, WIDEN) - rounded(high * s, kind, WIDEN)
        high = rounded(rounded(high * c, kind, WIDEN) + rounded(low * s, kind, WIDEN), kind, WIDEN)
        low = rounded(turned, kind, WIDEN)
    at = ((batch.to(tl.int64) * count + head) * rows + row)[:, None] * (2 * half) + pair[None, :]
    tl.store(out + at, low.to(kind), inside)
    tl.store(out + half + at, high.to(kind), inside)


@triton.jit
def _heads(
    q,
    k,
    v,
    q_weight,
    k_weight,
    cos,
    sin,
    q_out,
    k_out,
    v_out,
    rows,
    eps,
    heads: tl.constexpr,
    groups: tl.constexpr,
    half: tl.constexpr,
    q_stride: tl.constexpr,
    k_stride: tl.constexpr,
    v_stride: tl.constexpr,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Grid: blocks of rows, then the heads of q, k and v, then sequences."""
    row, head, batch = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1), tl.program_id(2)
    real = row < rows
    if head < heads:
        _head(
            q,
            q_out,
            q_weight,
            cos,
            sin,
            row,
            real,
            batch,
            head,
            heads,
            rows,
            q_stride,
            eps,
            half,
            HALF,
            True,
            WIDEN,
        )
    elif head < heads + groups:
        head = head - heads
        _head(
            k,
            k_out,
            k_weight,
            cos,
            sin,
            row,
            real,
            batch,
            head,
            groups,
            rows,
            k_stride,
            eps,
            half,
            HALF,
            True,
            WIDEN,
        )
    else:
        head = head - heads - groups
        _head(
            v,
            v_out,
            k_weight,
            cos,
            sin,
            row,
            real,
            batch,
            head,
            groups,
            rows,
            v_stride,
            eps,
            half,
            HALF,
            False,
            WIDEN,
        )


def heads(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See heads.heads."""
    (batch, rows, _), width = q.shape, q_weight.shape[0]
    count, groups = q.shape[2] // width, k.shape[2] // width
    q_out = torch.empty((batch, count, rows, width), dtype=q.dtype, device=q.device)
    k_out, v_out = (
        torch.empty((batch, groups, rows, width), dtype=q.dtype, device=q.device) for _ in range(2)
    )
    q, k, v = (_lines(x) for x in (q, k, k if v is None else v))
    cos, sin = (table.expand(batch, 1, rows, width // 2).contiguous() for table in (cos, sin))
    half = triton.next_power_of_2(width // 2)
    block = max(1, 1024 // half)
    _heads[triton.cdiv(rows, block), count + 2 * groups, batch](
        q,
        k,
        v,
        q_weight,
        k_weight,
        cos,
        sin,
        q_out,
        k_out,
        v_out,
        rows,
        eps,
        count,
        groups,
        width // 2,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        ROWS=block,
        HALF=half,
        WIDEN=not q.is_cuda,
    )
    return q_out, k_out, v_out


def _lines(x: Tensor) -> Tensor:
    """[B, T, N] as [B*T, N] with neighbours in a row: a view wherever one exists."""
    x = x.flatten(0, 1)
    return x if x.stride(1) == 1 else x.contiguous()
