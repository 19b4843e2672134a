"""The experts in Triton: two grouped products over rows sorted by expert, the activation inside the first, the weights in the second.

    route      which rows belong together, cut into blocks of one expert each (router_triton.py)
    _inner     gelu_tanh(gate_e @ x) * (up_e @ x) of a block: the rows of x are gathered, nothing is copied
    _outer     weight * down_e @ inner, written where the (row, choice) stands; a row's choices are added up in their order

With 256 rows and top-8 of 128 experts a block holds 16 rows on average, and nearly every expert is read once: the products are
bound by the weights' bytes, so blocks are low and wide. Same contract as moe.py, which is the reference. Sums over a row's
choices are no atomics: their order is fixed, so a request's bits do not depend on the run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .router_triton import route


@triton.jit
def _rows_of(block, order, first, last, ROWS: tl.constexpr):
    """A block's sorted places, which of them are its own, and the (row, choice) at each."""
    place = tl.load(first + block) + tl.arange(0, ROWS)
    own = place < tl.load(last + block)
    return place, own, tl.load(order + place, own, 0)


@triton.jit
def _inner(
    x, table, inner, order, owner, first, last, top_k, width: tl.constexpr, depth: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEEP: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """table [E, 2 depth, width], gate rows first; inner [N k, depth] in sorted order."""
    block = tl.program_id(1)
    expert = tl.load(owner + block)
    if expert < 0:
        return
    place, own, choice = _rows_of(block, order, first, last, ROWS)
    row = choice // top_k
    column = tl.program_id(0) * COLS + tl.arange(0, COLS)
    real = column < depth
    gate, up = tl.zeros((ROWS, COLS), dtype=tl.float32), tl.zeros((ROWS, COLS), dtype=tl.float32)
    weights = table + expert.to(tl.int64) * (2 * depth * width)
    for start in range(0, width, DEEP):
        deep = start + tl.arange(0, DEEP)
        inside = deep < width
        a = tl.load(x + row[:, None] * width + deep[None, :], own[:, None] & inside[None, :], 0.0)
        at = column[None, :] * width + deep[:, None]
        g = tl.load(weights + at, real[None, :] & inside[:, None], 0.0)
        u = tl.load(weights + depth * width + at, real[None, :] & inside[:, None], 0.0)
        if WIDEN:
            a, g, u = a.to(tl.float32), g.to(tl.float32), u.to(tl.float32)
        gate = tl.dot(a, g, gate, input_precision="ieee")
        up = tl.dot(a, u, up, input_precision="ieee")
    angle = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    tanh = 1.0 - 2.0 / (tl.exp(2.0 * angle) + 1.0)
    value = 0.5 * gate * (1.0 + tanh) * up
    at = place[:, None].to(tl.int64) * depth + column[None, :]
    tl.store(inner + at, value.to(inner.dtype.element_ty), own[:, None] & real[None, :])


@triton.jit
def _outer(
    inner, table, out, shares, order, owner, first, last, width: tl.constexpr, depth: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEEP: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """table [E, width, depth]; shares [N k]; out [N k, width] where each (row, choice) stands."""
    block = tl.program_id(1)
    expert = tl.load(owner + block)
    if expert < 0:
        return
    place, own, choice = _rows_of(block, order, first, last, ROWS)
    column = tl.program_id(0) * COLS + tl.arange(0, COLS)
    real = column < width
    sums = tl.zeros((ROWS, COLS), dtype=tl.float32)
    weights = table + expert.to(tl.int64) * (width * depth)
    for start in range(0, depth, DEEP):
        deep = start + tl.arange(0, DEEP)
        inside = deep < depth
        at = place[:, None].to(tl.int64) * depth + deep[None, :]
        a = tl.load(inner + at, own[:, None] & inside[None, :], 0.0)
        w = tl.load(weights + column[None, :] * depth + deep[:, None], real[None, :] & inside[:, None], 0.0)
        if WIDEN:
            a, w = a.to(tl.float32), w.to(tl.float32)
        sums = tl.dot(a, w, sums, input_precision="ieee")
    sums = sums * tl.load(shares + choice, own, 0.0)[:, None]
    at = choice[:, None].to(tl.int64) * width + column[None, :]
    tl.store(out + at, sums.to(out.dtype.element_ty), own[:, None] & real[None, :])


def experts(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """See moe.experts: x [N, D], gate_up [E, 2F, D], down [E, D, F], weights and index [N, k] -> [N, D]."""
    top_k, count = index.shape[1], gate_up.shape[0]
    width, depth = x.shape[1], down.shape[2]
    rows = 16 if index.numel() <= 24 * count else 32 if index.numel() <= 48 * count else 64
    routing = route(index, count, rows)
    inner = torch.empty((index.numel(), depth), dtype=x.dtype, device=x.device)
    out = torch.empty((index.numel(), width), dtype=x.dtype, device=x.device)
    deep = 64 if x.element_size() == 2 else 32  # float32 of 64 wants 147 KB of shared memory
    shape = {"width": width, "depth": depth, "ROWS": rows, "COLS": 64, "DEEP": deep, "WIDEN": not x.is_cuda}
    grid = len(routing.owner)
    _inner[triton.cdiv(depth, 64), grid](x.contiguous(), gate_up, inner, *routing, top_k, **shape, num_warps=4, num_stages=4)
    _outer[triton.cdiv(width, 64), grid](
        inner, down, out, weights.float().flatten(), *routing, **shape, num_warps=4, num_stages=4
    )
    return out.view(*index.shape, width).sum(1)
