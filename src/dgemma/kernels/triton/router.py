"""Who goes to which expert, in Triton: the scores, the choice, and the routing that the grouped products
read.

    _score    norm of the raw residual, scale, projection: a block of rows and of experts, so that all of a
              card works on it
    _choose   softmax over the experts and the top k of each row
    _route    rows sorted by expert and cut into blocks of one expert each: one program per expert, each
              counts everything

All on the device: no number is read by the host, and what is allocated depends on shapes alone. Same
contract as `choose_experts` in ops/moe.py; scores are rounded to the dtype of the weights where the
reference rounds. Equal probabilities: the lower expert wins (torch's topk promises no order).

Trap: the interpreter cannot loop to a number that it is handed, so there the number of blocks is a constant
(STEPS).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .norm import rounded

BLOCK = 1024  # choices, or entries of the block table, that a program of _route works on at once
FEW = 1024  # rows up to which _score works in small blocks: 256 rows must make programs for all of a card


class Routing(NamedTuple):
    """Rows sorted by expert, and the blocks they are cut into.

    A block whose owner is -1 has nothing to do.
    """

    order: Tensor  # [N k] int64: the (row, choice) at each sorted place
    owner: Tensor  # [G] int32: the block's expert
    first: Tensor  # [G] int32: its first sorted place
    last: Tensor  # [G] int32: behind its last


@triton.jit
def _score(
    x,
    proj,
    scale,
    scores,
    rows,
    eps,
    root,
    experts: tl.constexpr,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """x [rows, width], proj [experts, width], root width^-0.5. x is read twice: what is projected is rounded
    after its norm.
    """
    kind: tl.constexpr = x.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.program_id(1) * COLS + tl.arange(0, COLS)
    row_mask = row < rows
    real = expert < experts
    squares = tl.zeros((ROWS, DEEP), dtype=tl.float32)
    for start in range(0, width, DEEP):
        deep = start + tl.arange(0, DEEP)
        at = row[:, None].to(tl.int64) * width + deep[None, :]
        a = tl.load(x + at, row_mask[:, None] & (deep < width)[None, :], 0.0).to(tl.float32)
        squares += a * a
    factor = tl.rsqrt(tl.sum(squares, 1) / width + eps)[:, None]
    sums = tl.zeros((ROWS, COLS), dtype=tl.float32)
    for start in range(0, width, DEEP):
        deep = start + tl.arange(0, DEEP)
        inside = deep < width
        at = row[:, None].to(tl.int64) * width + deep[None, :]
        a = tl.load(x + at, row_mask[:, None] & inside[None, :], 0.0).to(tl.float32)
        a = rounded(a * factor, kind, WIDEN) * tl.load(scale + deep, inside, 0.0).to(tl.float32)[None, :]
        a = rounded(rounded(a, kind, WIDEN) * root, kind, WIDEN)
        b = tl.load(proj + expert[None, :] * width + deep[:, None], real[None, :] & inside[:, None], 0.0)
        if WIDEN:
            b = b.to(tl.float32)
        sums = tl.dot(a.to(b.dtype), b, sums, input_precision="ieee")
    sums = rounded(sums, kind, WIDEN).to(kind)
    tl.store(
        scores + row[:, None].to(tl.int64) * experts + expert[None, :],
        sums,
        row_mask[:, None] & real[None, :],
    )


@triton.jit
def _choose(
    scores,
    per_expert,
    weights,
    index,
    rows,
    experts: tl.constexpr,
    top_k: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """weights, index [rows, top_k]. The most likely expert, then it is struck out, top_k times."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.arange(0, EXPERTS)
    choice = tl.arange(0, CHOICES)
    row_mask = row < rows
    real = expert < experts
    at = row[:, None].to(tl.int64) * experts + expert[None, :]
    x = tl.load(scores + at, row_mask[:, None] & real[None, :], 0.0).to(tl.float32)
    x = tl.where(real[None, :], x, -1e30)
    p = tl.exp(x - tl.max(x, 1)[:, None])
    p = tl.where(real[None, :], p / tl.sum(p, 1)[:, None], -1.0)
    chosen = tl.zeros((ROWS, CHOICES), dtype=tl.int32)
    shares = tl.zeros((ROWS, CHOICES), dtype=tl.float32)
    for k in tl.static_range(top_k):
        best = tl.max(p, 1)
        # a row of nan stays within the experts
        where = tl.min(tl.where(p == best[:, None], expert[None, :], experts - 1), 1)
        chosen = tl.where((choice == k)[None, :], where[:, None], chosen)
        shares = tl.where((choice == k)[None, :], best[:, None], shares)
        p = tl.where(expert[None, :] == where[:, None], -1.0, p)
    shares = shares / tl.sum(shares, 1)[:, None]
    real = row_mask[:, None] & (choice < top_k)[None, :]
    shares = shares * tl.load(per_expert + chosen, real, 0.0).to(tl.float32)
    at = row[:, None].to(tl.int64) * top_k + choice[None, :]
    tl.store(weights + at, shares, real)
    tl.store(index + at, chosen.to(tl.int64), real)


@triton.jit
def _route(
    index,
    order,
    owner,
    first,
    last,
    total,
    blocks,
    rows,
    experts: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """index [total]; owner, first, last [blocks], blocks of at most `rows`. One program per expert."""
    expert = tl.program_id(0)
    every = tl.arange(0, EXPERTS)
    counts = tl.zeros((EXPERTS,), dtype=tl.int32)
    for step in range(0, STEPS if STEPS > 0 else tl.cdiv(total, BLOCK)):
        place = step * BLOCK + tl.arange(0, BLOCK)
        choice = tl.load(index + place, place < total, 0).to(tl.int32)
        counts += tl.histogram(choice, EXPERTS, place < total)
    below = tl.sum(tl.where(every < expert, counts, 0), 0)
    count = tl.sum(tl.where(every == expert, counts, 0), 0)
    needed = (counts + rows - 1) // rows
    base = tl.sum(tl.where(every < expert, needed, 0), 0)
    stop = base + (count + rows - 1) // rows
    # the last program also marks the blocks that nobody needs
    end = tl.where(expert == experts - 1, blocks, stop)
    for step in range(0, STEPS if STEPS > 0 else tl.cdiv(end - base, BLOCK)):
        number = base + step * BLOCK + tl.arange(0, BLOCK)
        at = below + (number - base) * rows
        used = number < stop
        tl.store(owner + number, tl.where(used, expert, -1), number < end)
        tl.store(first + number, tl.where(used, at, 0), number < end)
        tl.store(last + number, tl.where(used, tl.minimum(at + rows, below + count), 0), number < end)
    done = below
    for step in range(0, STEPS if STEPS > 0 else tl.cdiv(total, BLOCK)):
        place = step * BLOCK + tl.arange(0, BLOCK)
        hit = ((tl.load(index + place, place < total, -1) == expert) & (place < total)).to(tl.int32)
        tl.store(order + done + tl.cumsum(hit, 0) - 1, place.to(tl.int64), hit > 0)
        done += tl.sum(hit, 0)


def choose_experts(
    x: Tensor, proj: Tensor, scale: Tensor, per_expert_scale: Tensor, eps: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """See moe.choose_experts: x [N, D] -> weights [N, k] float32, index [N, k] int64."""
    x = x.contiguous()
    rows, width = x.shape
    experts = proj.shape[0]
    scores = torch.empty((rows, experts), dtype=x.dtype, device=x.device)
    weights = torch.empty((rows, top_k), dtype=torch.float32, device=x.device)
    index = torch.empty((rows, top_k), dtype=torch.int64, device=x.device)
    few = rows <= FEW
    block = 16 if few else 64  # of rows and of experts
    _score[triton.cdiv(rows, block), triton.cdiv(experts, block)](
        x,
        proj,
        scale,
        scores,
        rows,
        eps,
        width**-0.5,
        experts,
        width,
        ROWS=block,
        COLS=block,
        DEEP=128 if few else 64,
        WIDEN=not x.is_cuda,
        num_warps=4 if few else 8,
        num_stages=3,
    )
    _choose[triton.cdiv(rows, 4),](
        scores,
        per_expert_scale,
        weights,
        index,
        rows,
        experts,
        top_k,
        ROWS=4,
        EXPERTS=triton.next_power_of_2(max(16, experts)),
        CHOICES=triton.next_power_of_2(top_k),
        num_warps=4,
    )
    return weights, index


def route(index: Tensor, experts: int, rows: int) -> Routing:
    """The routing of index [N, k], in blocks of at most `rows`.

    G is an upper bound that depends on shapes alone.
    """
    total = index.numel()
    blocks = total // rows + min(experts, total)
    order = torch.empty(total, dtype=torch.int64, device=index.device)
    owner = torch.empty(blocks, dtype=torch.int32, device=index.device)
    first = torch.empty_like(owner)
    last = torch.empty_like(owner)
    interpreted_steps = triton.cdiv(max(total, blocks), BLOCK)
    _route[experts,](
        index.contiguous(),
        order,
        owner,
        first,
        last,
        total,
        blocks,
        rows,
        experts,
        EXPERTS=triton.next_power_of_2(max(16, experts)),
        BLOCK=BLOCK,
        STEPS=0 if index.is_cuda else interpreted_steps,
    )
    return Routing(order, owner, first, last)
