"""One safetensors file, written where it will stand: the header first, then tensors in any order, piece by
piece.

For files whose tensors are known before their data, so that host memory holds a piece of one and never a
file. Knows no model. A file that is not closed whole keeps its `.part` name. Trap: the data has no gaps, so
wide numbers come first in the file: behind an odd number of bytes they could not be mapped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from .headers import BITS


class ShardFile:
    """tensors: name -> (safetensors' dtype, shape).

    `with ShardFile(...) as file`: file.write(...), and the file is there at the end.
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]):
        self.path = path
        self.part = path.with_name(path.name + ".part")
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._left: dict[
            str, tuple[int, int]
        ] = {}  # where the next byte of a tensor goes, and how many are to come
        place = 0
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -BITS[item[1][0]]):
            size = math.prod(shape) * BITS[dtype] // 8
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
            self._left[name] = (place, size)
            place += size
        text = json.dumps(header, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._start = 8 + len(text)
        self.nbytes = 8 + len(text) + place
        self._file = self.part.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, piece: Tensor) -> None:
        """The next bytes of a tensor: all of it, or some of its rows."""
        raw = piece.detach().to("cpu").contiguous().flatten().view(torch.uint8)
        place, left = self._left[name]
        if len(raw) > left:
            raise ValueError(f"{self.path}: {len(raw)} bytes for tensor '{name}', which has {left} to come")
        self._file.seek(self._start + place)
        self._file.write(raw.numpy().data)
        self._left[name] = (place + len(raw), left - len(raw))

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file as file:
            if error is not None:
                return
            if missing := next((name for name, (_, left) in self._left.items() if left), None):
                raise ValueError(f"{self.path}: tensor '{missing}' was not written whole")
            file.flush()
            os.fsync(file.fileno())
        self.part.chmod(0o644)
        self.part.rename(self.path)
