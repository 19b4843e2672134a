"""Attention in Triton over the spans of a pass: every sequence's K and V are read where they lie, masks are
arithmetic.

A block is some rows of one span with all query heads of one K/V head, so that K and V are read once for
them. Clean spans are causal (through a window on sliding layers), canvas spans see all keys from their
first on; both kinds share one launch. `Spans` holds what the kernel must know of a pass, the same for all
layers of a kind; only the addresses differ by layer. Same contract as ops/attention.py, which is the
reference.

Trap: the interpreter cannot loop to a number that it reads, so there the loop runs to a given end (STEPS)
over masked keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Layout(NamedTuple):
    """One span of a pass on one kind of layer; integers."""

    rows: int  # rows of the span
    start: int  # position of its first row
    first: int  # position of the first key that its first row sees
    slot: int  # position of what lies in slot 0 of the buffers
    slots: int  # slots of the buffers
    clean: bool  # causal, or a canvas


class Shape(NamedTuple):
    """How a head dim is worked on: none of these spills on any architecture (benchmarks/kernels_aot.py)."""

    rows: int  # of a block, all query heads of one K/V head counted
    keys: int  # of a step
    warps: int
    stages: int


def shape_of(width: int) -> Shape | None:
    """The block shape of a head dim. None: there is no kernel for it."""
    is_power_of_two = width & (width - 1) == 0
    if not is_power_of_two or not 8 <= width <= 512:
        return None
    if width < 128:
        return Shape(64, 64, 4, 2)
    if width == 128:
        return Shape(64, 32, 4, 2)
    if width == 256:
        return Shape(64, 32, 8, 2)
    return Shape(32, 16, 8, 2)


def _known_shape(width: int) -> Shape:
    shape = shape_of(width)
    if shape is None:
        raise ValueError(f"heads of {width} numbers have no Triton kernel")
    return shape


def takes(width: int, like: Tensor) -> bool:
    """Whether heads of this dim are worked on here in the dtype and on the device of a tensor.

    On a card the products need 16 elements of depth; in float32 they spill by the thousand and want 130 KB
    of shared memory (benchmarks/kernels_aot.py), so that dtype stays with torch.
    """
    return shape_of(width) is not None and not (like.is_cuda and (width < 16 or like.element_size() > 2))


class Spans:
    """The blocks of a pass on one kind of layer, on the device."""

    def __init__(self, layouts: Sequence[Layout], width: int, group: int, device: torch.device):
        block = max(1, _known_shape(width).rows // group)
        table, blocks = [], []
        row = 0
        for number, span in enumerate(layouts):
            table.append((row, span.rows, span.start, span.first, span.slot, span.slots, int(span.clean), 0))
            blocks += [(number, at) for at in range(0, span.rows, block)]
            row += span.rows
        self.table = torch.tensor(table, dtype=torch.int32, device=device)
        self.blocks = torch.tensor(blocks, dtype=torch.int32, device=device)
        self.block = block
        self.most_keys = max(span.start + span.rows - span.first for span in layouts)


@triton.jit
def _buffer(addresses, number, kind: tl.constexpr):
    """Where a span's K or V lies.

    Without the hint of 16 bytes, which every allocator keeps, a load would be of one element.
    """
    return tl.multiple_of(tl.load(addresses + number).to(tl.pointer_type(kind)), 16)


@triton.jit
def _attend(
    q,
    out,
    keys,
    values,
    table,
    blocks,
    total,
    window,
    kind: tl.constexpr,
    width: tl.constexpr,
    group: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    STEPS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """q, out [H, total, width]; keys, values [spans]: addresses of [G, slots, width]; ROWS: rows of a block
    times `group`.
    """
    number = tl.load(blocks + tl.program_id(0) * 2)
    at = tl.load(blocks + tl.program_id(0) * 2 + 1)
    entry = table + number * 8
    base = tl.load(entry)
    rows = tl.load(entry + 1)
    start = tl.load(entry + 2)
    first = tl.load(entry + 3)
    slot = tl.load(entry + 4)
    slots = tl.load(entry + 5)
    clean = tl.load(entry + 6)
    head = tl.program_id(1)
    lane = tl.arange(0, ROWS)
    row = at + lane // group
    query = head * group + lane % group
    row_mask = row < rows
    depth = tl.arange(0, width)
    place = (query.to(tl.int64)[:, None] * total + base + row[:, None]) * width + depth[None, :]
    a = tl.load(q + place, row_mask[:, None], 0.0)
    k_at = _buffer(keys, number, kind) + head.to(tl.int64) * slots * width
    v_at = _buffer(values, number, kind) + head.to(tl.int64) * slots * width
    position = start + row
    stop = start + rows
    if clean != 0:  # later keys are nobody's in this block; earlier ones than its first row's window neither
        stop = tl.minimum(stop, start + at + ROWS // group)
        first = tl.maximum(first, start + at - window + 1)
    if WIDEN:
        a = a.to(tl.float32)
    top = tl.full((ROWS,), -1e30, dtype=tl.float32)
    sums = tl.zeros((ROWS,), dtype=tl.float32)
    mixed = tl.zeros((ROWS, width), dtype=tl.float32)
    for step in range(0, STEPS if STEPS > 0 else tl.cdiv(stop - first, KEYS)):
        key = first + step * KEYS + tl.arange(0, KEYS)
        real = key < stop
        where = (key - slot).to(tl.int64)
        k = tl.load(k_at + where[None, :] * width + depth[:, None], real[None, :], 0.0)
        v = tl.load(v_at + where[:, None] * width + depth[None, :], real[:, None], 0.0)
        if WIDEN:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        is_earlier = key[None, :] <= position[:, None]
        in_window = key[None, :] > position[:, None] - window
        seen = real[None, :] & ((clean == 0) | (is_earlier & in_window))
        scores = tl.where(seen, tl.dot(a, k, input_precision="ieee"), -1e30)
        highest = tl.maximum(top, tl.max(scores, 1))
        weight = tl.where(seen, tl.exp(scores - highest[:, None]), 0.0)
        fade = tl.exp(top - highest)
        sums = sums * fade + tl.sum(weight, 1)
        mixed = tl.dot(weight.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
        top = highest
    result = mixed / tl.where(sums > 0.0, sums, 1.0)[:, None]
    tl.store(out + place, result.to(out.dtype.element_ty), row_mask[:, None])


@triton.jit
def _store(
    k,
    v,
    keys,
    values,
    table,
    blocks,
    total,
    kind: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
    ROWS: tl.constexpr,
):
    """k, v [G, total, width] into the buffers at `keys` and `values`; blocks of `block` rows, as attention
    has them.
    """
    number = tl.load(blocks + tl.program_id(0) * 2)
    at = tl.load(blocks + tl.program_id(0) * 2 + 1)
    entry = table + number * 8
    base = tl.load(entry)
    rows = tl.load(entry + 1)
    start = tl.load(entry + 2)
    slot = tl.load(entry + 4)
    slots = tl.load(entry + 5)
    head = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, ROWS)
    row = at + lane
    depth = tl.arange(0, width)[None, :]
    row_mask = ((lane < block) & (row < rows))[:, None]
    source = (head * total + base + row[:, None]) * width + depth
    target = (head * slots + start + row[:, None] - slot) * width + depth
    tl.store(_buffer(keys, number, kind) + target, tl.load(k + source, row_mask), row_mask)
    tl.store(_buffer(values, number, kind) + target, tl.load(v + source, row_mask), row_mask)


def store(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, spans: Spans, groups: int) -> None:
    """Put K and V [1, G, N, K] of all spans in their buffers: keys and values [spans] int64, addresses of
    [G, slots, K].
    """
    total, width = k.shape[2:]
    _store[len(spans.blocks), groups](
        k.contiguous(),
        v.contiguous(),
        keys,
        values,
        spans.table,
        spans.blocks,
        total,
        kind=_KINDS[k.dtype],
        width=width,
        block=spans.block,
        ROWS=triton.next_power_of_2(spans.block),
        num_warps=4,
    )


def attention(q: Tensor, keys: Tensor, values: Tensor, spans: Spans, groups: int, window: int) -> Tensor:
    """softmax(q k^T) v for all spans: q [1, H, N, K]; keys and values [spans] int64, addresses of [G, slots,
    K]; window: what a clean row sees at most, itself included (a number beyond all lengths on full layers).
    -> [1, H, N, K].
    """
    _, heads, total, width = q.shape
    q = q.contiguous()
    group = heads // groups
    out = torch.empty_like(q)
    shape = _known_shape(width)
    _attend[len(spans.blocks), groups](
        q,
        out,
        keys,
        values,
        spans.table,
        spans.blocks,
        total,
        window,
        kind=_KINDS[q.dtype],
        width=width,
        group=group,
        ROWS=triton.next_power_of_2(max(16, spans.block * group)),
        KEYS=shape.keys,
        STEPS=0 if q.is_cuda else spans.most_keys // shape.keys + 2,
        WIDEN=not q.is_cuda,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return out


_KINDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
