"""Second copies of tied tensors: an output head saved beside the embedding, encoder weights saved beside
the decoder's.

The model has each of them once. A copy that says the same is left out; one that says something else is
refused, because whoever saved it computes with it and this build would not. Trap: headers tell only that a
copy may be equal, so whoever reads the weights of a layout calls `check_copies` first.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..errors import CheckpointError
from .headers import BITS, TensorInfo
from .layout import Layout
from .reader import Files

PIECE = 1 << 22  # elements of each tensor that are read at a time


def check_copies(layout: Layout) -> None:
    """Compare every copy in a layout with its original, piece by piece.

    Raises CheckpointError naming the first that differs.
    """
    with Files() as files:
        for copy, original in layout.copies:
            if not _equal(copy, original, files):
                raise CheckpointError(
                    f"{copy.file}: tensor '{copy.name}' differs from '{original.name}', "
                    "which this model uses in its place (tied weights); "
                    "merge the fine-tune again with tied weights"
                )


def _equal(copy: TensorInfo, original: TensorInfo, files: Files) -> bool:
    """Whether two tensors of one shape hold the same: the same bytes or, of two dtypes, the same numbers."""
    if copy.dtype == original.dtype:
        copy = _as_bytes(copy)
        original = _as_bytes(original)
    count = math.prod(copy.shape)
    for start in range(0, count, PIECE):
        stop = min(start + PIECE, count)
        one, other = (files.read(_part(info, start, stop)) for info in (copy, original))
        if one.dtype != other.dtype:
            one, other = one.double(), other.double()  # exact for every dtype that is read
        if not torch.equal(one, other):
            return False
    return True


def _as_bytes(info: TensorInfo) -> TensorInfo:
    return replace(info, dtype="U8", shape=(info.nbytes,))


def _part(info: TensorInfo, start: int, stop: int) -> TensorInfo:
    """Elements `start` to `stop` of a tensor, as a tensor of its own."""
    width = BITS[info.dtype] // 8
    return replace(
        info, shape=(stop - start,), offset=info.offset + start * width, nbytes=(stop - start) * width
    )
