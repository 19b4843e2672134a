"""Memory for what stays between passes: K and V, outside the C library's heap.

A pass takes and gives back activations of megabytes from the heap. Where K and V of requests and of cached
prefixes lay among them, each would hold the pages around it, and a busy process would grow for hours. So on
a CPU they are mapped on their own, and go back to the system when they go. Trap: a process may have some
65,000 mappings, so a sequence has one, not one for each layer.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 1 << 16  # bytes of a mapping; less is the heap's
ALIGNED = 64  # bytes, so that each tensor begins in a cache line of its own


def zeros(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Tensors of zeros that are kept for long, in one piece of memory on a CPU.

    It goes when the last of them goes.
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
    places = [0]
    for size in sizes:
        places.append(-(-(places[-1] + size) // ALIGNED) * ALIGNED)
    if device.type != "cpu" or places[-1] < LEAST:
        return [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
    flat = torch.frombuffer(_mapping(places[-1]), dtype=torch.uint8)
    return [
        flat[place : place + size].view(dtype).view(shape)
        for place, size, shape in zip(places, sizes, shapes, strict=False)
    ]


def _mapping(size: int) -> mmap.mmap:
    """Zeros of this process alone."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, all of one dtype and device, in memory of their own."""
    if not tensors:
        return []
    kept = zeros([tuple(tensor.shape) for tensor in tensors], tensors[0].dtype, tensors[0].device)
    for copy, tensor in zip(kept, tensors, strict=True):
        copy.copy_(tensor)
    return kept
