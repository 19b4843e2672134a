"""Keys and values of one sequence: the only state between passes.

Full layers keep every token. Sliding layers need the last `window - 1` and keep some more, so that a pass finds
room behind them and is written in place: when the buffer's end is reached, the window moves to its front. What lies
behind `length` is scratch: a canvas writes its K and V there, reads everything as one slice, and the next pass
overwrites it. Lengths live on the host, because the engine chose them. Nothing here computes attention; see passes.py.

Trap: a slice may be read only until the next `make_room`, which may move or replace the buffers.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..config import ModelConfig

_numbers = itertools.count()
Window = list[Tensor]  # k and v [G, <= window - 1, K] of every sliding layer, layer by layer


class KVCache:
    """K and V per layer, [G, slots, K]; the first `length` tokens of the sequence are encoded."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, capacity: int = 0):
        """`capacity`: tokens that the full layers have room for, canvases in work included; they grow beyond it."""
        self.config, self.length = config, 0
        self.number = next(_numbers)  # no other sequence ever has the same
        self.dtype, self.device = dtype, device
        self.window_start = 0  # the position in slot 0 of the sliding layers
        rows = (
            config.sliding_window - 1 + 2 * config.canvas_length
        )  # a commit and the next canvas in one pass
        slots = [rows if layer.is_sliding else capacity for layer in config.layers]
        self.keys = [self._empty(i, count) for i, count in enumerate(slots)]
        self.values = [self._empty(i, count) for i, count in enumerate(slots)]

    def _empty(self, layer: int, slots: int) -> Tensor:
        shape = self.config.layers[layer]
        return torch.zeros(
            (shape.num_key_value_heads, slots, shape.head_dim), dtype=self.dtype, device=self.device
        )

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
        for buffers in (self.keys, self.values):
            grown = self._empty(layer, slots)
            grown[:, :count] = buffers[layer][:, first : first + count]
            buffers[layer] = grown

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
        return self.window_start if self.config.layers[layer].is_sliding else 0

    def copy(self) -> KVCache:
        """The same sequence in buffers of its own."""
        twin = object.__new__(KVCache)
        twin.__dict__ = self.__dict__ | {"number": next(_numbers)}
        twin.keys = [buffer.clone() for buffer in self.keys]
        twin.values = [buffer.clone() for buffer in self.values]
        return twin

    def window(self, length: int | None = None) -> Window:
        """A copy of what the sliding layers need to go on behind the first `length` tokens, None: behind all of them.

        `length` is from where the last pass began to where it ended: `make_room` kept the window of its first row.
        """
        length = self.length if length is None else length
        first = max(0, length - (self.config.sliding_window - 1))
        sliding = [i for i, layer in enumerate(self.config.layers) if layer.is_sliding]
        return [tensor[0].clone() for i in sliding for tensor in self.read(i, first, length)]

    def resume(self, other: KVCache, length: int, window: Window) -> None:
        """Become a copy of the first `length` tokens of another sequence, whose window there is given."""
        self.length, rest = length, iter(window)
        self.window_start = max(0, length - (self.config.sliding_window - 1))
        for i, layer in enumerate(self.config.layers):
            if layer.is_sliding:
                k, v = next(rest), next(rest)
            else:
                if self.keys[i].shape[1] < length:
                    self._replace(i, 0, 0, length)
                k, v = (tensor[0] for tensor in other.read(i, 0, length))
            self.write(i, self.window_start if layer.is_sliding else 0, k, v)

    def retire(self) -> None:
        """Give back all memory but K and V of the full layers' tokens; from now on others may `resume` it, nothing else."""
        for i, layer in enumerate(self.config.layers):
            kept = 0 if layer.is_sliding else self.length
            for buffers in (self.keys, self.values):
                buffers[i] = buffers[i][:, :kept].clone()
