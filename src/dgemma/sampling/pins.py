"""Pins: cells of a canvas that hold a given token. One [B, C] int64 tensor, a token id or -1 for free."""

from __future__ import annotations

import torch
from torch import Tensor

FREE = -1


def hold(canvas: Tensor, pins: Tensor) -> Tensor:
    """The canvas with every pinned cell set to its token: before each pass, and after each renoise."""
    return torch.where(pins >= 0, pins, canvas)
