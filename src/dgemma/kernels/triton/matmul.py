"""Products with a weight in few bits in Triton: decoded inside, or multiplied as it is where the card can.

Same contract as quant/formats.product, which is the reference. What happens to codes and scales is in
decode.py. Nothing of the weight ever stands in memory in 16 bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quant.formats import QuantTensor
from .decode import products
from .operands import operands, takes

__all__ = ["product", "takes"]

FULL = 128  # blocks below which a product is cut finer: cards have 70 to 190 multiprocessors


@triton.jit
def _product(
    x,
    x_scales,
    token,
    codes,
    scales,
    zeros,
    row_scale,
    out,
    rows,
    outs: tl.constexpr,
    width: tl.constexpr,
    NAME: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    PACKED: tl.constexpr,
    ROUNDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    TURN: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """out [rows, outs].

    The rows of one block of the weight are neighbours in the grid: the weight is read once.
    """
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    line = (tl.program_id(1) * COLS + tl.arange(0, COLS)).to(tl.int64)
    row_mask = row < rows
    real = line < outs
    total = products(
        x,
        x_scales,
        token,
        codes,
        scales,
        zeros,
        row_scale,
        row,
        row_mask,
        line,
        real,
        width,
        NAME,
        GROUP,
        SPAN,
        PACKED,
        ROUNDED,
        ROWS,
        COLS,
        DEEP,
        TURN,
        WIDEN,
    )
    tl.store(
        out + row[:, None] * outs + line[None, :],
        total.to(out.dtype.element_ty),
        row_mask[:, None] & real[None, :],
    )


def _block_rows(count: int, size: int) -> int:
    """Rows of x that a block works on, of `count` rows of numbers of `size` bytes."""
    if count <= 16:
        return 16
    if count <= 32 or size == 4:
        return 32
    return 64 if count < 1024 else 128


def product(x: Tensor, weight: QuantTensor) -> Tensor:
    """x [N, I] @ weight [O, I]^T -> [N, O] in x's dtype; bfloat16, float16 or float32.

    A weight that `takes` takes.
    """
    count = len(x)
    outs = len(weight)
    rows = _block_rows(count, x.element_size())
    tensors, options = operands(x, weight, rows)
    blocks = triton.cdiv(count, rows)
    is_small = blocks * triton.cdiv(outs, options["COLS"]) < FULL
    multiplies_fp4 = options["ROUNDED"] and options["NAME"] == "nvfp4"
    if is_small and not multiplies_fp4:  # FP4 on sm_100 wants 128
        options["COLS"] = 64
    out = torch.empty((count, outs), dtype=x.dtype, device=x.device)
    grid = blocks, triton.cdiv(outs, options["COLS"])
    _product[grid](**tensors, out=out, rows=count, outs=outs, width=weight.shape[1], **options)
    return out
