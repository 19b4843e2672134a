"""Keys and values of one sequence: the only state between passes.

Full layers keep every token. Sliding layers need the last `window - 1` and keep some more, so that a pass
finds room behind them and is written in place: when the buffer's end is reached, the window moves to its
front. What lies behind `length` is scratch: a canvas writes its K and V there, reads everything as one
slice, and the next pass overwrites it. Lengths live on the host, because the engine chose them. Nothing here
computes attention; see passes.py.

Trap: a slice may be read only until the next `make_room`, which may move or replace the buffers.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..config import ModelConfig
from . import blocks

_numbers = itertools.count()
Window = list[Tensor]  # k and v [G, <= window - 1, K] of every sliding layer, layer by layer


class KVCache:
    """K and V per layer, [G, slots, K]; the first `length` tokens of the sequence are encoded."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, capacity: int = 0):
        """An empty sequence.

        capacity: tokens that the full layers have room for, canvases in work included; they grow beyond it.
        """
        self.config = config
        self.length = 0
        self.number = next(_numbers)  # no other sequence ever has the same
        self.dtype = dtype
        self.device = device
        self.window_start = 0  # the position in slot 0 of the sliding layers
        # a commit and the next canvas in one pass
        window_slots = config.sliding_window - 1 + 2 * config.canvas_length
        shapes = []
        for i, layer in enumerate(config.layers):
            shapes.append(self._shape(i, window_slots if layer.is_sliding else capacity))
        self._hold(blocks.zeros([*shapes, *shapes], dtype, device))

    def _hold(self, buffers: list[Tensor]) -> None:
        """Take the buffers of all layers: those of K, then those of V."""
        count = len(self.config.layers)
        self.keys = buffers[:count]
        self.values = buffers[count:]

    def _shape(self, layer: int, slots: int) -> tuple[int, int, int]:
        heads = self.config.layers[layer]
        return heads.num_key_value_heads, slots, heads.head_dim

    def make_room(self, rows: int) -> None:
        """Before a pass of `rows` tokens behind `length`: every layer gets slots for them."""
        kept = min(self.length, self.config.sliding_window - 1)
        start = self.window_start
        for i, layer in enumerate(self.config.layers):
            slots = self.keys[i].shape[1]
            if not layer.is_sliding:
                if slots < self.length + rows:
                    self._replace(i, 0, self.length, max(self.length + rows, 2 * slots))
            elif slots < kept + rows:
                self._replace(i, self.length - kept - start, kept, kept + rows)
                self.window_start = self.length - kept
            elif slots < self.length - start + rows:
                for buffer in (self.keys[i], self.values[i]):
                    buffer[:, :kept] = buffer[:, self.length - kept - start : self.length - start].clone()
                self.window_start = self.length - kept

    def _replace(self, layer: int, first: int, count: int, slots: int) -> None:
        """Larger buffers, with `count` slots from `first` on at their front."""
        shape = self._shape(layer, slots)
        grown = blocks.zeros([shape, shape], self.dtype, self.device)
        for buffers, larger in zip((self.keys, self.values), grown, strict=True):
            larger[:, :count] = buffers[layer][:, first : first + count]
            buffers[layer] = larger

    def write(self, layer: int, position: int, k: Tensor, v: Tensor) -> None:
        """Put K and V [G, T, K] of the tokens from `position` on in their slots."""
        first = position - self._start(layer)
        self.keys[layer][:, first : first + k.shape[1]] = k
        self.values[layer][:, first : first + v.shape[1]] = v

    def read(self, layer: int, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """K and V of positions first .. stop as [1, G, stop - first, K], without a copy."""
        place = slice(first - self._start(layer), stop - self._start(layer))
        return self.keys[layer][None, :, place], self.values[layer][None, :, place]

    def _start(self, layer: int) -> int:
        if self.config.layers[layer].is_sliding:
            return self.window_start
        return 0

    def copy(self) -> KVCache:
        """The same sequence in buffers of its own."""
        twin = object.__new__(KVCache)
        twin.__dict__ = self.__dict__ | {"number": next(_numbers)}
        twin._hold(blocks.copies([*self.keys, *self.values]))
        return twin

    def window(self, length: int | None = None) -> Window:
        """A copy of what the sliding layers need to go on behind the first `length` tokens (None: all of
        them).

        `length` is from where the last pass began to where it ended: `make_room` kept the window of its
        first row.
        """
        length = self.length if length is None else length
        first = max(0, length - (self.config.sliding_window - 1))
        sliding = [i for i, layer in enumerate(self.config.layers) if layer.is_sliding]
        return blocks.copies([tensor[0] for i in sliding for tensor in self.read(i, first, length)])

    def resume(self, other: KVCache, length: int, window: Window) -> None:
        """Become a copy of the first `length` tokens of another sequence, whose window there is given."""
        self.length = length
        self.window_start = max(0, length - (self.config.sliding_window - 1))
        remaining = iter(window)
        for i, layer in enumerate(self.config.layers):
            if layer.is_sliding:
                k = next(remaining)
                v = next(remaining)
                self.write(i, self.window_start, k, v)
                continue
            if self.keys[i].shape[1] < length:
                self._replace(i, 0, 0, length)
            k, v = (tensor[0] for tensor in other.read(i, 0, length))
            self.write(i, 0, k, v)

    def retire(self) -> None:
        """Give back all memory but K and V of the full layers' tokens.

        From now on others may `resume` it, nothing else.
        """
        kept = [0 if layer.is_sliding else self.length for layer in self.config.layers]
        keys = [buffer[:, :count] for buffer, count in zip(self.keys, kept, strict=True)]
        values = [buffer[:, :count] for buffer, count in zip(self.values, kept, strict=True)]
        self._hold(blocks.copies([*keys, *values]))
