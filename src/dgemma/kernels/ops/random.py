"""Randomness as a function: a 32-bit integer hash of (seed, canvas, step, position, stream).

Nothing is drawn from a generator's state, so a token does not depend on who shares its batch or on which
device it is computed; torch (int64, masked) and a kernel (uint32) give the same bits. The mixer is the
2-round multiply-xorshift "lowbias32" (bias 0.17, the lowest known for its cost), applied once per counter
word. Uniforms have 23 bits, centred in their cells: never 0, never 1 (with 24 the half of the centre no
longer fits a float32, and the topmost cell rounds to 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_STREAM_NOISE = 0
_STREAM_TILE = 1
_STREAM_INSIDE = 2


def _mix(h: Tensor) -> Tensor:
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _MASK  # a 32 x 32 bit product wraps in int64; its low 32 bits are still exact
    h = h ^ (h >> 15)
    h = (h * 0x846CA68B) & _MASK
    return h ^ (h >> 16)


def counter_hash(seed: Tensor, canvas: Tensor, step: Tensor, width: int, stream: int) -> Tensor:
    """Uniform 32-bit integers, [B, width] int64; seed (63 bits), canvas and step are [B] int64."""
    h = _mix((seed & _MASK) ^ 0x9E3779B9)
    for word in ((seed >> 32) & _MASK, canvas, step, torch.full_like(seed, stream)):
        h = _mix((h + word * 0x85EBCA6B + 1) & _MASK)
    position = torch.arange(width, device=seed.device, dtype=torch.int64)
    return _mix((h[:, None] + position * 0xC2B2AE35 + 1) & _MASK)


def noise(seed: Tensor, canvas: Tensor, step: Tensor, width: int, vocab_size: int) -> Tensor:
    """Uniform token ids entering `step` of `canvas`, [B, width] int64 in [0, vocab_size)."""
    return (counter_hash(seed, canvas, step, width, _STREAM_NOISE) * vocab_size) >> 32


def uniforms(seed: Tensor, canvas: Tensor, step: Tensor, width: int) -> Tensor:
    """Two independent uniforms per position, [B, width, 2] float32 in (0, 1): one picks a tile, one a token
    in it.
    """
    draws = [counter_hash(seed, canvas, step, width, stream) for stream in (_STREAM_TILE, _STREAM_INSIDE)]
    return ((torch.stack(draws, dim=-1) >> 9).float() + 0.5) * 2.0**-23
