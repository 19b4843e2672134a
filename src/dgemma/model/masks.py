"""Who sees whom: the contexts of an encode pass and of a denoise pass over a KVCache.

Encode is causal and writes. Denoise reads: every canvas row sees all canvas rows and, on full layers,
all cached keys; on sliding layers the last `window - 1` cached keys, **the same set for every row**
(a window that moves with the row is the usual mistake). Masks are built once per pass and kind, and
are None where everything in the slice is visible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.attention import attention
from .kv import KVCache


class EncodeContext:
    """Causal attention of T new tokens per row; stores K and V of the first `counts[b]` of them."""

    encoding = True

    def __init__(self, kv: KVCache, counts: list[int], width: int):
        kv.reserve(kv.longest + width)
        self.kv, self.counts, self.width = kv, counts, width
        self.kept = min(kv.longest, kv.config.sliding_window - 1)  # window slots that any row has filled
        lengths = torch.tensor(kv.lengths, device=kv.device)
        query = torch.arange(width, device=kv.device)[:, None]
        slots = torch.arange(kv.longest + width, device=kv.device)
        self.full = (slots <= lengths[:, None, None] + query)[:, None]
        relative = torch.arange(-self.kept, width, device=kv.device)  # key position minus the row's length
        near = (relative <= query) & (relative > query - kv.config.sliding_window)
        self.sliding = (near & (relative >= -lengths[:, None, None]))[:, None]
        self.slots = lengths[:, None] + torch.arange(width, device=kv.device)
        self.rows = torch.arange(kv.batch, device=kv.device)[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.kv.config.layers[layer].is_sliding:
            return self._sliding(layer, q, k, v)
        keys, values = self.kv.keys[layer], self.kv.values[layer]
        keys[self.rows, :, self.slots] = k.transpose(1, 2)
        values[self.rows, :, self.slots] = v.transpose(1, 2)
        seen = self.full.shape[-1]
        return attention(q, keys[:, :, :seen], values[:, :, :seen], self.full)

    def _sliding(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = torch.cat((self.kv.keys[layer], k), dim=2)
        values = torch.cat((self.kv.values[layer], v), dim=2)
        self.kv.keys[layer], self.kv.values[layer] = self._window(keys), self._window(values)
        start = self.kv.config.sliding_window - 1 - self.kept
        return attention(q, keys[:, :, start:], values[:, :, start:], self.sliding)

    def _window(self, joined: Tensor) -> Tensor:
        """The last window - 1 slots that end at each row's own count of new tokens."""
        slots = self.kv.config.sliding_window - 1
        return torch.stack([joined[row, :, count : count + slots] for row, count in enumerate(self.counts)])

    def finish(self) -> None:
        """Count the tokens as encoded; called once, after the last layer."""
        self.kv.lengths = [length + count for length, count in zip(self.kv.lengths, self.counts, strict=True)]


class DenoiseContext:
    """Bidirectional attention of a canvas over itself and a cache it never writes."""

    encoding = False

    def __init__(self, kv: KVCache, width: int):
        self.kv = kv
        self.kept = min(kv.longest, kv.config.sliding_window - 1)
        self.full = self._mask(torch.arange(kv.longest, device=kv.device), width, from_end=False)
        self.sliding = self._mask(torch.arange(-self.kept, 0, device=kv.device), width, from_end=True)

    def _mask(self, slots: Tensor, width: int, from_end: bool) -> Tensor | None:
        if min(self.kv.lengths) == self.kv.longest:
            return None
        lengths = torch.tensor(self.kv.lengths, device=self.kv.device)[:, None]
        valid = slots >= -lengths if from_end else slots < lengths
        return torch.nn.functional.pad(valid, (0, width), value=True)[:, None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.kv.keys[layer], self.kv.values[layer]
        if self.kv.config.layers[layer].is_sliding:
            first, last, visible = keys.shape[2] - self.kept, keys.shape[2], self.sliding
        else:
            first, last, visible = 0, self.kv.longest, self.full
        keys = torch.cat((keys[:, :, first:last], k), dim=2)
        values = torch.cat((values[:, :, first:last], v), dim=2)
        return attention(q, keys, values, visible)
