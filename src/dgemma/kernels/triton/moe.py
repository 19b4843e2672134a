"""The experts in Triton: two grouped products over rows sorted by expert, the activation inside the first,
the weights in the second.

    route      which rows belong together, cut into blocks of one expert each (router.py)
    _inner     gelu_tanh(gate_e @ x) * (up_e @ x) of a block: the rows of x are gathered, nothing is copied
    _outer     weight * down_e @ inner, written where the (row, choice) stands; a row's choices are added up
               in their order

Weights are plain or in few bits; what happens to codes and scales is in decode.py. With 256 rows and top-8
of 128 experts an expert has 16 rows on average, and nearly every one is read: the products are bound by the
weights' bytes, or by the work of decoding them, so blocks are low and wide. Same contract as ops/moe.py,
which is the reference. Sums over a row's choices are no atomics: their order is fixed, so a request's bits
do not depend on the run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quant.formats import Weight
from .decode import products
from .operands import operands, rows_for, takes
from .router import route

__all__ = ["experts", "takes"]


@triton.jit
def _rows_of(block, order, first, last, ROWS: tl.constexpr):
    """A block's sorted places, which of them are its own, and the (row, choice) at each."""
    place = tl.load(first + block) + tl.arange(0, ROWS)
    row_mask = place < tl.load(last + block)
    return place, row_mask, tl.load(order + place, row_mask, 0)


@triton.jit
def _inner(
    x,
    x_scales,
    token,
    codes,
    scales,
    zeros,
    row_scale,
    inner,
    order,
    owner,
    first,
    last,
    top_k,
    width: tl.constexpr,
    depth: tl.constexpr,
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
    """The weight is [E, 2 depth, width], gate rows first; inner [N k, depth] in sorted order.

    A block takes its rows of gate and of up by turns, so that a column's two sums lie side by side in one
    thread.
    """
    block = tl.program_id(1)
    expert = tl.load(owner + block)
    if expert < 0:
        return
    place, row_mask, choice = _rows_of(block, order, first, last, ROWS)
    lane = tl.arange(0, COLS)
    number = tl.program_id(0) * (COLS // 2) + lane // 2
    line = expert.to(tl.int64) * (2 * depth) + (lane % 2) * depth + number
    both = products(
        x,
        x_scales,
        token,
        codes,
        scales,
        zeros,
        row_scale,
        choice // top_k,
        row_mask,
        line,
        number < depth,
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
    gate, up = tl.split(tl.reshape(both, (ROWS, COLS // 2, 2)))
    angle = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    tanh = 1.0 - 2.0 / (tl.exp(2.0 * angle) + 1.0)
    value = 0.5 * gate * (1.0 + tanh) * up
    column = tl.program_id(0) * (COLS // 2) + tl.arange(0, COLS // 2)
    at = place[:, None].to(tl.int64) * depth + column[None, :]
    tl.store(inner + at, value.to(inner.dtype.element_ty), row_mask[:, None] & (column < depth)[None, :])


@triton.jit
def _outer(
    x,
    x_scales,
    token,
    codes,
    scales,
    zeros,
    row_scale,
    out,
    shares,
    order,
    owner,
    first,
    last,
    width: tl.constexpr,
    depth: tl.constexpr,
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
    """x is what _inner made; the weight [E, width, depth]; shares [N k]; out [N k, width] where each (row,
    choice) stands.
    """
    block = tl.program_id(1)
    expert = tl.load(owner + block)
    if expert < 0:
        return
    place, row_mask, choice = _rows_of(block, order, first, last, ROWS)
    column = tl.program_id(0) * COLS + tl.arange(0, COLS)
    real = column < width
    sums = products(
        x,
        x_scales,
        token,
        codes,
        scales,
        zeros,
        row_scale,
        place.to(tl.int64),
        row_mask,
        expert.to(tl.int64) * width + column,
        real,
        depth,
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
    sums = sums * tl.load(shares + choice, row_mask, 0.0)[:, None]
    at = choice[:, None].to(tl.int64) * width + column[None, :]
    tl.store(out + at, sums.to(out.dtype.element_ty), row_mask[:, None] & real[None, :])


def paired(options: dict[str, Any]) -> dict[str, Any]:
    """Constants and options of a product (operands.py) for _inner, whose COLS are those of gate and of up
    together.
    """
    if options["NAME"] == "plain":
        return options | {"COLS": 2 * options["COLS"]}
    if options["ROWS"] > 32 and not options["ROUNDED"]:
        # 64 rows and 8 warps: 128 of them spill a few registers on sm_80 to sm_89 and sm_120
        return options | {"COLS": 64}
    return options


def experts(x: Tensor, gate_up: Weight, down: Weight, weights: Tensor, index: Tensor) -> Tensor:
    """See moe.experts: x [N, D], gate_up [E, 2F, D], down [E, D, F], weights and index [N, k] -> [N, D].

    Both `takes` takes.
    """
    top_k = index.shape[1]
    count = len(gate_up)
    width = x.shape[1]
    depth = down.shape[2]
    rows = rows_for(index.numel() / count, x, gate_up)
    routing = route(index, count, rows)
    inner = torch.empty((index.numel(), depth), dtype=x.dtype, device=x.device)
    out = torch.empty((index.numel(), width), dtype=x.dtype, device=x.device)
    common = {"width": width, "depth": depth} | routing._asdict()
    tensors, options = operands(x, gate_up, rows)
    options = paired(options)
    grid = triton.cdiv(2 * depth, options["COLS"]), len(routing.owner)
    _inner[grid](**tensors, inner=inner, top_k=top_k, **common, **options)
    tensors, options = operands(inner, down, rows)
    grid = triton.cdiv(width, options["COLS"]), len(routing.owner)
    _outer[grid](**tensors, out=out, shares=weights.float().flatten(), **common, **options)
    return out.view(*index.shape, width).sum(1)
