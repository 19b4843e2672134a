"""Weights as views of the checkpoint's files, for machines with less memory than weights
(model/streaming.py).

The system reads pages of a mapped file when they are touched and drops them when memory is short; they
count as its cache, not as memory of the process, which cannot write to them. Only what stands in a file as
products want it can be mapped: plain tensors, and layouts whose codes are ours. Trap: a file that shrinks
under a mapping kills the process (SIGBUS), where the reader gives an error with a name; so nobody may write
into the folder of a model that runs mapped.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config.sizes import Progress
from ..errors import CheckpointError, ResourceError
from ..kernels.quant.formats import QuantTensor
from .headers import TensorInfo
from .layout import Layout, Stored
from .reader import DTYPES, Mappable, assign, finite, matrix

COPIED = ("gptq", "gptq_v2", "awq")  # layouts that are turned over: they would be copies, not views


class Maps:
    """MmapOffload files; closed when the last view is gone."""

    def __init__(self) -> None:
        self.files: dict[Path, mmap.mmap] = {}

    def file(self, path: Path) -> mmap.mmap:
        if path not in self.files:
            try:
                with path.open("rb") as file:
                    self.files[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: an empty file
                raise CheckpointError(f"{path}: cannot be mapped ({error})") from None
        return self.files[path]

    def view(self, info: TensorInfo) -> Tensor:
        """One tensor where it stands; a copy where its numbers do not begin at a multiple of their size."""
        file = self.file(info.file)
        if info.offset + info.nbytes > len(file):
            raise CheckpointError(f"{info.file}: truncated inside tensor '{info.name}'; fetch it again")
        dtype = DTYPES[info.dtype]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the view cannot be written to: that is the point
            raw = torch.frombuffer(file, dtype=torch.uint8, count=info.nbytes, offset=info.offset)
        return (raw.clone() if info.offset % dtype.itemsize else raw).view(dtype).view(info.shape)

    def expect(self, infos: Collection[TensorInfo]) -> None:
        """Ask the system to read the pages of these tensors ahead."""
        for path, start, stop in _runs(infos):
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            self.file(path).madvise(mmap.MADV_WILLNEED, first, stop - first)


def _runs(infos: Collection[TensorInfo]) -> list[tuple[Path, int, int]]:
    """Byte ranges of files that hold these tensors; neighbours are one."""
    runs: list[tuple[Path, int, int]] = []
    for info in sorted(infos, key=lambda info: (info.file, info.offset)):
        stop = info.offset + info.nbytes
        if runs and runs[-1][0] == info.file and info.offset - runs[-1][2] <= mmap.PAGESIZE:
            runs[-1] = (info.file, runs[-1][1], stop)
        else:
            runs.append((info.file, info.offset, stop))
    return runs


def map_into(
    module: nn.Module, layout: Layout, names: Collection[str], maps: Maps, progress: Progress | None = None
) -> None:
    """Views in the place of the module's parameters `names`, plain ones in the dtype of the file.

    Values are read and checked once.

    Raises CheckpointError for damaged values, ResourceError for layouts that cannot be mapped.
    """
    total = sum(layout.text[name].nbytes for name in names)
    done = 0
    for name in names:
        stored = layout.text[name]
        assign(module, name, mapped(stored, maps))
        done += stored.nbytes
        if progress is not None:
            progress(done, total, stored.name)


def mapped(stored: Stored, maps: Maps) -> Mappable:
    """One tensor of the model as views: of experts that stand apart in the file a list, pairs of gate and up
    or downs.
    """
    scheme = stored.scheme
    if (scheme is not None and scheme.layout in COPIED) or (scheme is None and len(stored.matrices) > 1):
        raise ResourceError(
            f"{stored.file}: '{stored.name}' cannot be used from its file as it stands "
            "there; give more memory, or write another layout"
        )
    if stored.format is None:
        info = stored.matrices[0]["weight"]
        whole = maps.view(info)
        if not finite(whole):
            raise CheckpointError(f"{info.file}: tensor '{info.name}' holds NaN or infinite values")
        return whole.view(stored.shape)
    read = [
        matrix(stored, fields, {leaf: maps.view(info) for leaf, info in fields.items()})
        for fields in stored.matrices
    ]
    if len(read) == 1:
        parts = {name: torch.unflatten(part, 0, stored.shape[:-1]) for name, part in read[0].items()}
        return QuantTensor(stored.format, stored.shape, parts)
    matrices = [QuantTensor(stored.format, (len(parts["codes"]), stored.shape[-1]), parts) for parts in read]
    if len(matrices) == 2 * stored.shape[0]:
        return list(zip(matrices[::2], matrices[1::2], strict=True))
    return matrices
