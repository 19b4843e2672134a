"""RMS normalisation in Triton: one reading of x, statistics in float32, one writing. Same contract as
ops/norm.py, the reference.

It refuses to know what a row is: any leading axes are rows of the last one, and strided views are copied
first.

Trap: the interpreter cuts float32 down to bf16 where a card rounds; `rounded` rounds in both, and the other
kernels that must round where their reference does (heads, router) use it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def rounded(x, kind: tl.constexpr, WIDEN: tl.constexpr):
    """x, float32, as it comes back from storage in `kind`. To nearest, ties to even."""
    if WIDEN and kind == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        x = ((bits + 32767 + ((bits >> 16) & 1)) & 4294901760).to(tl.uint32).to(tl.float32, bitcast=True)
    return x.to(kind).to(tl.float32)


@triton.jit
def _norm(
    x,
    residual,
    weight,
    out,
    rows,
    eps,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ADDED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Rows [rows, width]; `weight` is read only if WEIGHTED, `residual` only if ADDED."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    real = (row < rows)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    y = tl.load(x + at, real, 0.0).to(tl.float32)
    y = y * tl.rsqrt(tl.sum(y * y, 1) / width + eps)[:, None]
    if WEIGHTED:
        scale = tl.load(weight + column, column < width, 0.0).to(tl.float32)
        y = y * scale[None, :]
    y = rounded(y, x.dtype.element_ty, WIDEN)
    if ADDED:
        before = tl.load(residual + at, real, 0.0).to(tl.float32)
        y = rounded(before + y, out.dtype.element_ty, WIDEN)
    tl.store(out + at, y.to(out.dtype.element_ty), real)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """See norm.rms_norm: x [..., D], weight [D] or None -> [..., D]."""
    return _launch(x, None, weight, eps)


def add_norm(residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See norm.add_norm: residual + rms_norm(x), both [..., D]."""
    return _launch(x, residual, weight, eps)


def shape_of(width: int) -> tuple[int, int, int]:
    """(rows of a block, its columns, warps): about 2048 elements, or one long row."""
    block = triton.next_power_of_2(width)
    warps = 8 if block > 2048 else 4
    return max(1, 2048 // block), block, warps


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float) -> Tensor:
    x = x.contiguous()
    width = x.shape[-1]
    rows = x.numel() // width
    block, columns, warps = shape_of(width)
    other = x if residual is None else residual.contiguous()
    out = torch.empty_like(other)
    _norm[triton.cdiv(rows, block),](
        x,
        other,
        x if weight is None else weight,
        out,
        rows,
        eps,
        width,
        ROWS=block,
        BLOCK=columns,
        WEIGHTED=weight is not None,
        ADDED=residual is not None,
        WIDEN=not x.is_cuda,
        num_warps=warps,
    )
    return out
