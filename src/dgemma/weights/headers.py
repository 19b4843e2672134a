"""The header of one safetensors file: names, dtypes, shapes and byte ranges, checked against the file's
size.

Reads the first kilobytes and never the data, knows no model. We parse it ourselves because the library maps
the file and stops at its first fault with a message that names no tensor. Trap: the length field is the
file's own claim, so it is bounded before anything is read, and every offset is checked before anybody seeks
to it.
"""

from __future__ import annotations

import json
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.formats import BYTES, DTYPES
from ..config.reader import is_whole
from ..errors import CheckpointError

# The 1,047 published tensors need 0.15 MB; one entry per expert and per scale, as quantised layouts have, 7
# MB.
HEADER_LIMIT = 16 * 2**20
READABLE = {stored: BYTES[stored] for stored in DTYPES.values()}  # bytes per element of what this build reads
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its header describes it; `offset` counts from the start of the file, both in bytes."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> tuple[list[TensorInfo], list[str]]:
    """The tensors of one file in the order of their data, and what is wrong with their byte ranges.

    Raises CheckpointError (names the file) when the header itself cannot be read or an entry makes no sense.
    """
    try:
        if not stat.S_ISREG((status := path.stat()).st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":  # no safetensors file: a header of 2.3e18 bytes
                raise CheckpointError(
                    f"{path}: a Git LFS pointer, not the file itself; `git lfs pull` fetches that"
                )
            if len(start) < 8 or length > status.st_size - 8:
                raise CheckpointError(
                    f"{path}: truncated: {status.st_size} bytes do not hold its header; fetch again"
                )
            if length > HEADER_LIMIT:
                raise CheckpointError(
                    f"{path}: the header claims {length} bytes; at most {HEADER_LIMIT} are read"
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: not readable ({error.strerror or error})") from None
    entries = _parse(path, text)
    tensors = [_entry(path, name, raw, 8 + length) for name, raw in entries.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes, tensor.name))
    return tensors, check_ranges(path, tensors, 8 + length, status.st_size)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                raise CheckpointError(f"{path}: the tensor or key {key!r} stands twice in the header")
            seen[key] = value
        return seen

    try:  # ValueError covers bad JSON, bad UTF-8 and numbers of more digits than Python converts
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: not a safetensors file: its header is no JSON ({reason})") from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: not a safetensors file: its header is no JSON object")
    return entries


def _entry(path: Path, name: str, raw: Any, data_start: int) -> TensorInfo:
    if not name.isprintable():  # messages are one line, and go to terminals
        raise CheckpointError(f"{path}: the tensor name {name!r} holds control characters")
    where = f"{path}: tensor '{name}'"
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{where}: the header entry must hold dtype, shape and data_offsets, and nothing else"
        )
    dtype = raw["dtype"]
    shape = raw["shape"]
    offsets = raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{where}: the dtype {dtype!r} is not known")
    if not isinstance(shape, list) or not all(is_whole(size) for size in shape):
        raise CheckpointError(f"{where}: the shape {shape!r} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_whole(offset) for offset in offsets):
        raise CheckpointError(f"{where}: data_offsets {offsets!r} is not a pair of byte offsets")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * BITS[dtype]:
        raise CheckpointError(f"{where}: {end - begin} bytes do not hold {shape} elements of {dtype}")
    return TensorInfo(name, path, dtype, tuple(shape), data_start + begin, end - begin)


def check_ranges(
    path: Path, tensors: list[TensorInfo], data_start: int, size: int, alignment: int = 1
) -> list[str]:
    """Gaps and overlaps (one problem each), and a file that ends too early or too late (one problem).

    tensors: in the order of their data, each of which begins at a multiple of `alignment` bytes in the file.
    size: of the file, in bytes. Trap: a tensor may end behind the one that follows it, so the end of what is
    claimed so far is a maximum.
    """
    problems = []
    claimed = data_start  # up to here some tensor has claimed every byte
    for tensor in tensors:
        expected = _aligned(claimed, alignment)
        if tensor.offset % alignment:
            problems.append(
                f"{path}: tensor '{tensor.name}' does not begin at a multiple of {alignment} bytes"
            )
        elif tensor.offset < claimed:
            problems.append(f"{path}: tensor '{tensor.name}' overlaps the one before it; the file is damaged")
        elif tensor.offset > expected:
            problems.append(
                f"{path}: {tensor.offset - expected} unclaimed bytes before tensor '{tensor.name}'"
            )
        claimed = max(claimed, tensor.offset + tensor.nbytes)
    cut = next((tensor for tensor in tensors if tensor.offset + tensor.nbytes > size), None)
    if cut is not None:
        problems.append(
            f"{path}: truncated inside tensor '{cut.name}': {size} of {claimed} bytes; fetch it again"
        )
    elif size > _aligned(claimed, alignment):
        problems.append(f"{path}: {size - claimed} unclaimed bytes after the last tensor")
    return problems


def _aligned(position: int, alignment: int) -> int:
    """The first multiple of `alignment` that is not before `position`."""
    return -(-position // alignment) * alignment
