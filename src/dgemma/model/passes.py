"""One pass of the stack over many sequences at once: who writes to a cache, and who sees whom.

A pass is a flat list of spans, each some rows of one sequence. A **clean** span (prompt, or a finished
canvas) is causal and stays in the cache. A **canvas** span is bidirectional and is scratch: every canvas row
sees all canvas rows and, on full layers, all cached keys; on sliding layers the last `window - 1` before the
canvas, **the same set for every row** (a window that moves with the row is the usual mistake). Spans of one
sequence follow each other: a canvas behind a clean span reads what that span wrote at the same layer, which
is what makes a commit and the next canvas one pass.

Rows of different sequences meet only in products over the flat rows, never in attention, so nothing is padded
or masked for company.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import LayerConfig, ModelConfig
from ..kernels.ops.attention import attention
from ..kernels.select import triton_backend
from .kv import KVCache


class Launch(NamedTuple):
    """What a kernel must be told of a pass, for all layers of one shape."""

    fast: ModuleType  # the kernel's
    spans: Any  # its tables, on the device
    row: dict[int, int]  # the row of `places` of each layer
    places: Tensor  # [layers, 2, spans] int64: where K and V lie


class Span(NamedTuple):
    """`rows` tokens that continue what `kv` holds, or the span before of the same kv."""

    kv: KVCache
    rows: int
    clean: bool


def _starts(spans: Sequence[Span]) -> list[int]:
    """Make room in every cache for the spans behind it. -> the position of each span's first row."""
    caches = {id(span.kv): span.kv for span in spans}
    ends = {key: kv.length for key, kv in caches.items()}
    starts = []
    for span in spans:
        starts.append(ends[id(span.kv)])
        ends[id(span.kv)] += span.rows
    for key, kv in caches.items():
        kv.make_room(ends[key] - kv.length)
    return starts


class Pass:
    """The attention context of a pass over `spans`, whose rows lie one after another in x [1, N, D]."""

    def __init__(self, config: ModelConfig, spans: Sequence[Span]):
        self.config = config
        self.spans = spans
        self.starts = _starts(spans)  # the position of each span's first row
        device = spans[0].kv.device
        positions = []
        for start, span in zip(self.starts, spans, strict=True):
            positions.append(torch.arange(start, start + span.rows))
        self.positions = torch.cat(positions)[None].to(device)
        self.encoding: bool | Tensor = spans[0].clean
        if any(span.clean != spans[0].clean for span in spans):
            rows = torch.tensor([span.rows for span in spans])
            clean = torch.tensor([span.clean for span in spans]).repeat_interleave(rows)
            self.encoding = clean[None, :, None].to(device)
        self.masks: dict[tuple[int, bool], Tensor | None] = {}
        self.launches: dict[LayerConfig, Launch] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = self.config.layers[layer]
        if (fast := triton_backend("attention", q)) and fast.takes(shape.head_dim, q):
            return self._launch(fast, layer, q, k, v)
        sliding = shape.is_sliding
        mixed = []
        row = 0
        for number, (span, start) in enumerate(zip(self.spans, self.starts, strict=True)):
            rows = slice(row, row + span.rows)
            span.kv.write(layer, start, k[0, :, rows], v[0, :, rows])
            first = 0
            if sliding:
                first = self._first(start)
            keys, values = span.kv.read(layer, first, start + span.rows)
            visible = self._seen(number, sliding, first)
            mixed.append(attention(q[:, :, rows], keys, values, visible))
            row += span.rows
        if len(mixed) == 1:
            return mixed[0]
        return torch.cat(mixed, dim=2)

    def _launch(self, fast: ModuleType, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All spans in two launches, which write and read every cache in place."""
        shape = self.config.layers[layer]
        if shape not in self.launches:
            self.launches[shape] = self._prepare(fast, shape)
        _, spans, row, places = self.launches[shape]
        keys, values = places[row[layer]]
        fast.store(k, v, keys, values, spans, shape.num_key_value_heads)
        if shape.is_sliding:
            window = self.config.sliding_window
        else:
            window = 2**30
        mixed: Tensor = fast.attention(q, keys, values, spans, shape.num_key_value_heads, window)
        return mixed

    def _prepare(self, fast: ModuleType, shape: LayerConfig) -> Launch:
        alike = [i for i, layer in enumerate(self.config.layers) if layer == shape]
        layouts = []
        for span, start in zip(self.spans, self.starts, strict=True):
            first = 0
            if shape.is_sliding:
                first = self._first(start)
            slot = 0
            if shape.is_sliding:
                slot = span.kv.window_start
            slots = span.kv.keys[alike[0]].shape[1]
            layouts.append(fast.Layout(span.rows, start, first, slot, slots, span.clean))
        kvs = [span.kv for span in self.spans]
        addresses = []
        for layer in alike:
            keys = [kv.keys[layer].data_ptr() for kv in kvs]
            values = [kv.values[layer].data_ptr() for kv in kvs]
            addresses.append([keys, values])
        places = torch.tensor(addresses, dtype=torch.int64).to(kvs[0].device)  # one transfer for all layers
        group = self.config.num_attention_heads // shape.num_key_value_heads
        spans = fast.Spans(layouts, shape.head_dim, group, kvs[0].device)
        return Launch(fast, spans, {layer: row for row, layer in enumerate(alike)}, places)

    def prepare(self, fast: ModuleType) -> None:
        """Make the tables of all layers now. After that the spans are needed no more."""
        self.launches = {shape: self._prepare(fast, shape) for shape in dict.fromkeys(self.config.layers)}

    def becomes(self, other: Pass) -> None:
        """Take over another pass with spans of the same sizes.

        It goes into this one's tensors, which a captured graph reads.
        """
        self.positions.copy_(other.positions)
        for shape, launch in self.launches.items():
            fresh = other._prepare(launch.fast, shape)
            launch.spans.table.copy_(fresh.spans.table)
            launch.places.copy_(fresh.places)

    def _first(self, start: int) -> int:
        """The first position that the row at `start` sees through a window; all of a canvas sees as far."""
        return max(0, start - (self.config.sliding_window - 1))

    def _seen(self, number: int, sliding: bool, first: int) -> Tensor | None:
        """What each row of a span sees of the keys from `first` on, [T, S] bool; None for everything."""
        span = self.spans[number]
        start = self.starts[number]
        if not span.clean or span.rows == 1:
            return None
        if (number, sliding) not in self.masks:
            query = torch.arange(start, start + span.rows, device=span.kv.device)[:, None]
            key = torch.arange(first, start + span.rows, device=span.kv.device)
            seen = key <= query
            if sliding:
                seen &= key > query - self.config.sliding_window
            self.masks[number, sliding] = seen
        return self.masks[number, sliding]

    def finish(self) -> None:
        """Count the clean tokens as encoded; called once, after the last layer."""
        for span in self.spans:
            if span.clean:
                span.kv.length += span.rows
