"""In which dtype something is computed, whatever the dtype it is kept in."""

from __future__ import annotations

import torch
from torch import Tensor

from .select import lacks_avx512


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype statistics are computed in: float64 stays, everything else is at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def arithmetic(x: Tensor) -> torch.dtype:
    """What products with x [...] are computed in: its own dtype, or float32 where that is faster."""
    return (
        torch.float32
        if x.element_size() == 2 and x.device.type == "cpu" and not x.requires_grad and lacks_avx512()
        else x.dtype
    )
