"""Products with a weight in few bits in Triton: decoded inside, or multiplied as it is where the card can.

Same contract as formats.product, which is the reference.
What happens to codes and scales is in decode_triton.py. Nothing of the weight ever stands in memory in 16 bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .decode_triton import products
from .formats import QuantTensor
from .operands_triton import operands, takes

__all__ = ["product", "takes"]

FULL = 128  # blocks below which a product is cut finer: cards have 70 to 190 multiprocessors


@triton.jit
def _product(
    x, x_scales, token, codes, scales, zeros, row_scale, out, rows, outs: tl.constexpr, width: tl.constexpr, NAME: tl.constexpr,
    GROUP: tl.constexpr, SPAN: tl.constexpr, PACKED: tl.constexpr, ROUNDED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    DEEP: tl.constexpr, TURN: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """out [rows, outs]. The rows of one block of the weight are neighbours in the grid: the weight is read once."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    line = (tl.program_id(1) * COLS + tl.arange(0, COLS)).to(tl.int64)
    own, real = row < rows, line < outs
    total = products(
        x, x_scales, token, codes, scales, zeros, row_scale, row, own, line, real, width, NAME, GROUP, SPAN, PACKED, ROUNDED,
        ROWS, COLS, DEEP, TURN, WIDEN,
    )  # fmt: skip
    tl.store(
        out + row[:, None] * outs + line[None, :],
        total.to(out.dtype.element_ty),
        own[:, None] & real[None, :],
    )


def product(x: Tensor, weight: QuantTensor) -> Tensor:
    """x [N, I] @ weight [O, I]^T -> [N, O] in x's dtype; bfloat16, float16 or float32. A weight that `takes` takes."""
    count, outs = len(x), len(weight)
    rows = 16 if count <= 16 else 32 if count <= 32 or x.element_size() == 4 else 64 if count < 1024 else 128
    tensors, options = operands(x, weight, rows)
    blocks = triton.cdiv(count, rows)
    if blocks * triton.cdiv(outs, options["COLS"]) < FULL and not (
        options["ROUNDED"] and options["NAME"] == "nvfp4"
    ):
        options["COLS"] = 64  # FP4 on sm_100 wants 128
    out = torch.empty((count, outs), dtype=x.dtype, device=x.device)
    grid = blocks, triton.cdiv(outs, options["COLS"])
    _product[grid](**tensors, out=out, rows=count, outs=outs, width=weight.shape[1], **options)
    return out
