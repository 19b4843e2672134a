"""Keys and values of what was encoded: the only state between passes.

Full layers keep every token, left-aligned in a buffer that grows. Sliding layers keep the last
`window - 1` tokens, right-aligned: slot j holds position `length - (window - 1) + j`, so that the set
a canvas sees is one slice whatever the row's length. Rows of a batch may differ in length; lengths
live on the host, because the engine chose them. Nothing here computes attention; see masks.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import ModelConfig


class KVCache:
    """K and V per layer for B rows. `lengths[b]` tokens of row b are encoded."""

    def __init__(self, config: ModelConfig, batch: int, dtype: torch.dtype, device: torch.device, capacity: int = 0):
        self.config, self.lengths = config, [0] * batch
        self.dtype, self.device = dtype, device
        self.keys = [self._empty(batch, i, capacity) for i in range(len(config.layers))]
        self.values = [self._empty(batch, i, capacity) for i in range(len(config.layers))]

    def _empty(self, batch: int, layer: int, capacity: int) -> Tensor:
        shape = self.config.layers[layer]
        slots = self.config.sliding_window - 1 if shape.is_sliding else capacity
        size = (batch, shape.num_key_value_heads, slots, shape.head_dim)
        return torch.zeros(size, dtype=self.dtype, device=self.device)

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def reserve(self, slots: int) -> None:
        """Make room for `slots` tokens in the full layers (doubling, so that growth is amortised)."""
        for i, layer in enumerate(self.config.layers):
            have = self.keys[i].shape[2]
            if layer.is_sliding or have >= slots:
                continue
            wanted = max(slots, 2 * have)
            for buffers in (self.keys, self.values):
                grown = self._empty(self.batch, i, wanted)
                grown[:, :, :have] = buffers[i]
                buffers[i] = grown

    def select(self, rows: list[int]) -> KVCache:
        """A copy with the given rows, in that order; a row may be named more than once."""
        chosen = object.__new__(KVCache)
        chosen.config, chosen.dtype, chosen.device = self.config, self.dtype, self.device
        chosen.lengths = [self.lengths[row] for row in rows]
        index = torch.tensor(rows, device=self.device)
        chosen.keys = [buffer[index] for buffer in self.keys]
        chosen.values = [buffer[index] for buffer in self.values]
        return chosen
