"""One pass of the stack over many sequences at once: who writes to a cache, and who sees whom.

A pass is a flat list of spans, each some rows of one sequence. A **clean** span (prompt, or a finished canvas) is causal and
stays in the cache. A **canvas** span is bidirectional and is scratch: every canvas row sees all canvas rows and,
on full layers, all cached keys; on sliding layers the last `window - 1` before the canvas, **the same set for
every row** (a window that moves with the row is the usual mistake). Spans of one sequence follow each other: a canvas behind a
clean span reads what that span wrote at the same layer, which is what makes a commit and the next canvas one pass.

Rows of different sequences meet only in products over the flat rows, never in attention, so nothing is padded or masked for company.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import LayerConfig, ModelConfig
from ..kernels.attention import attention
from ..kernels.select import triton_form
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


class Pass:
    """The attention context of a pass over `spans`, whose rows lie one after another in x [1, N, D]."""

    def __init__(self, config: ModelConfig, spans: Sequence[Span]):
        self.config, self.spans = config, spans
        ends: dict[int, int] = {}
        for span in spans:
            ends[id(span.kv)] = ends.get(id(span.kv), 0) + span.rows
        for kv in {id(span.kv): span.kv for span in spans}.values():
            kv.make_room(ends[id(kv)])
        place = {id(span.kv): span.kv.length for span in spans}
        self.starts = []  # the position of each span's first row
        for span in spans:
            self.starts.append(place[id(span.kv)])
            place[id(span.kv)] += span.rows
        device = spans[0].kv.device
        ranges = [
            torch.arange(start, start + span.rows) for start, span in zip(self.starts, spans, strict=True)
        ]
        self.positions = torch.cat(ranges)[None].to(device)
        modes = {span.clean for span in spans}
        self.encoding: bool | Tensor = modes.pop()
        if modes:
            clean = torch.tensor([span.clean for span in spans]).repeat_interleave(
                torch.tensor([s.rows for s in spans])
            )
            self.encoding = clean[None, :, None].to(device)
        self.masks: dict[tuple[int, bool], Tensor | None] = {}
        self.launches: dict[LayerConfig, Launch] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = self.config.layers[layer]
        if (fast := triton_form("attention", q)) and fast.takes(shape.head_dim, q):
            return self._launch(fast, layer, q, k, v)
        sliding = shape.is_sliding
        mixed, row = [], 0
        for number, (span, start) in enumerate(zip(self.spans, self.starts, strict=True)):
            own = slice(row, row + span.rows)
            span.kv.write(layer, start, k[0, :, own], v[0, :, own])
            first = self._first(start) if sliding else 0
            keys, values = span.kv.read(layer, first, start + span.rows)
            mixed.append(attention(q[:, :, own], keys, values, self._seen(number, sliding, first)))
            row += span.rows
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=2)

    def _launch(self, fast: ModuleType, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All spans in two launches, which write and read every cache in place."""
        shape = self.config.layers[layer]
        if shape not in self.launches:
            self.launches[shape] = self._prepare(fast, shape)
        _, spans, row, places = self.launches[shape]
        keys, values = places[row[layer]]
        fast.store(k, v, keys, values, spans, shape.num_key_value_heads)
        window = self.config.sliding_window if shape.is_sliding else 2**30
        mixed: Tensor = fast.attention(q, keys, values, spans, shape.num_key_value_heads, window)
        return mixed

    def _prepare(self, fast: ModuleType, shape: LayerConfig) -> Launch:
        alike = [i for i, layer in enumerate(self.config.layers) if layer == shape]
        layouts = []
        for span, start in zip(self.spans, self.starts, strict=True):
            first, slot = (self._first(start), span.kv.window_start) if shape.is_sliding else (0, 0)
            layouts.append(
                fast.Layout(span.rows, start, first, slot, span.kv.keys[alike[0]].shape[1], span.clean)
            )
        kvs = [span.kv for span in self.spans]
        at = [
            [
                [buffers[i].data_ptr() for buffers in (getattr(kv, name) for kv in kvs)]
                for name in ("keys", "values")
            ]
            for i in alike
        ]
        places = torch.tensor(at, dtype=torch.int64).to(kvs[0].device)  # one transfer for all layers
        group = self.config.num_attention_heads // shape.num_key_value_heads
        spans = fast.Spans(layouts, shape.head_dim, group, kvs[0].device)
        return Launch(fast, spans, {layer: row for row, layer in enumerate(alike)}, places)

    def prepare(self, fast: ModuleType) -> None:
        """Make the tables of all layers now. After that the spans are needed no more."""
        self.launches = {shape: self._prepare(fast, shape) for shape in dict.fromkeys(self.config.layers)}

    def becomes(self, other: Pass) -> None:
        """Take over another pass with spans of the same sizes in this one's tensors, which a captured graph reads."""
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
        span, start = self.spans[number], self.starts[number]
        if not span.clean or span.rows == 1:
            return None
        if (number, sliding) not in self.masks:
            query = torch.arange(start, start + span.rows, device=span.kv.device)[:, None]
            key = torch.arange(first, start + span.rows, device=span.kv.device)
            seen = key <= query
            self.masks[number, sliding] = (
                seen & (key > query - self.config.sliding_window) if sliding else seen
            )
        return self.masks[number, sliding]

    def finish(self) -> None:
        """Count the clean tokens as encoded; called once, after the last layer."""
        for span in self.spans:
            if span.clean:
                span.kv.length += span.rows
