"""The header of a GGUF file: its metadata, and name, type, shape and byte range of each tensor, checked
against the file's size.

Reads no tensor data but what it is asked for, knows no model and never loads torch. We parse it ourselves
because the `gguf` library maps the file, believes every count (a damaged one keeps it looping until memory
ends), and takes 19 s and 1.5 GB for the 262,144 tokens and 514,906 merges of the published files, where
this takes 1 s; tests compare the two. Trap: a shape stands in the file with its inputs first; here it is
turned round, as everywhere else.
"""

from __future__ import annotations

import math
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .headers import TensorInfo, check_ranges

GGUF = ".gguf"  # how the names of such files end
HEADER_LIMIT = 64 * 2**20  # bytes; the published header has 16 MB, nearly all of it the vocabulary
MOST_PAIRS, MOST_TENSORS, MOST_ELEMENTS = 4096, 1 << 16, 1 << 21  # published: 44, 692, 514,906
MOST_DIMS, LONGEST_NAME = 4, 256  # ggml's own names have at most 64 bytes
ARCHITECTURE_KEY = "general.architecture"
_EARLY = 16  # keys among which it stands: writers put it first
_PIECE = 1 << 20  # bytes that are read at a time
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOAT32 = 6
_TEXT = 8
_ARRAY = 9
# ggml's types: name, elements of a block, its bytes. Those that nobody here decodes are known by name, to
# be refused by it.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}


@dataclass(frozen=True)
class Gguf:
    """One file: metadata (key -> number, bool, text or a list of one of them), tensors in the order of their
    data, and what is wrong with their byte ranges, one line each.
    """

    path: Path
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, TensorInfo] = field(repr=False)
    problems: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """`general.architecture`. Raises CheckpointError where the file does not say."""
        architecture = self.metadata.get(ARCHITECTURE_KEY)
        if not isinstance(architecture, str) or not architecture.isprintable():
            raise CheckpointError(f"{self.path}: its metadata names no general.architecture")
        return architecture


def read_gguf(path: Path) -> Gguf:
    """Metadata and tensors of a file.

    Raises CheckpointError (names the file) where its header makes no sense.
    """
    try:
        if not stat.S_ISREG((status := path.stat()).st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        with path.open("rb") as file:
            return _read(_Cursor(path, file, status.st_size))
    except OSError as error:
        raise CheckpointError(f"{path}: not readable ({error.strerror or error})") from None


def architecture(path: Path) -> str | None:
    """What `general.architecture` says, from the file's first metadata alone; None where they do not say or
    cannot be read.
    """
    try:
        if not stat.S_ISREG((status := path.stat()).st_mode):
            return None
        with path.open("rb") as file:
            cursor = _Cursor(path, file, status.st_size)
            _check_start(cursor)
            cursor.count("tensors", MOST_TENSORS)
            for _ in range(min(cursor.count("metadata keys", MOST_PAIRS), _EARLY)):
                key = cursor.name("metadata key")
                value = cursor.value(cursor.number("I"), key)
                if key == ARCHITECTURE_KEY:
                    if isinstance(value, str):
                        return value
                    return None
    except (OSError, CheckpointError):
        pass
    return None


def read_floats(info: TensorInfo) -> tuple[float, ...]:
    """The values of a small F32 tensor. Raises CheckpointError."""
    try:
        with info.file.open("rb") as file:
            file.seek(info.offset)
            data = file.read(info.nbytes)
    except OSError as error:
        raise CheckpointError(
            f"{info.file}: tensor '{info.name}' is not readable ({error.strerror or error})"
        ) from None
    if len(data) < info.nbytes:
        raise CheckpointError(f"{info.file}: truncated inside tensor '{info.name}'; fetch it again")
    return struct.unpack(f"<{info.nbytes // 4}f", data)


class _Cursor:
    """A file's beginning, read as far as it is asked for and never further than the limit."""

    def __init__(self, path: Path, file: BinaryIO, size: int):
        self.path = path
        self.file = file
        self.size = size
        self.data = bytearray()
        self.at = 0

    def take(self, count: int) -> int:
        """Where the next `count` bytes stand in `data`."""
        start = self.at
        end = self.at + count
        if end > len(self.data):
            self._fetch(end)
        self.at = end
        return start

    def _fetch(self, end: int) -> None:
        if end > self.size:
            raise CheckpointError(
                f"{self.path}: truncated: {self.size} bytes do not hold its header; fetch it again"
            )
        if end > HEADER_LIMIT:
            raise CheckpointError(
                f"{self.path}: its header claims more than {HEADER_LIMIT} bytes; so many are not read"
            )
        want = min(max(end, len(self.data) + _PIECE), self.size, HEADER_LIMIT)
        while len(self.data) < want:
            if not (piece := self.file.read(want - len(self.data))):
                raise CheckpointError(f"{self.path}: truncated while it was read; fetch it again")
            self.data += piece

    def number(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        return layout.unpack_from(self.data, self.take(layout.size))[0]

    def count(self, what: str, most: int) -> int:
        count: int = self.number("Q")
        if count > most:
            raise CheckpointError(f"{self.path}: its header claims {count} {what}; at most {most} are read")
        return count

    def text(self) -> str:
        count = self.number("Q")
        start = self.take(count)
        try:
            return self.data[start : start + count].decode()
        except UnicodeDecodeError:
            raise CheckpointError(
                f"{self.path}: a text in its header is not UTF-8; the file is damaged"
            ) from None

    def name(self, what: str) -> str:
        text = self.text()
        if (
            not text.isprintable() or not 0 < len(text) <= LONGEST_NAME
        ):  # messages are one line, and go to terminals
            raise CheckpointError(f"{self.path}: the {what} {text[:80]!r} is no name")
        return text

    def value(self, kind: int, key: str) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise CheckpointError(
                f"{self.path}: metadata '{key}' has a value of type {kind}, which is not known"
            )
        number = self.number(_SCALARS[kind])
        if kind == _FLOAT32:
            return _short(number)
        return number

    def _array(self, key: str) -> list[Any]:
        kind = self.number("I")
        count = self.count(f"elements of '{key}'", MOST_ELEMENTS)
        if kind == _TEXT:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise CheckpointError(
                f"{self.path}: metadata '{key}' is an array of type {kind}, which is not known"
            )
        layout = struct.Struct(f"<{count}{_SCALARS[kind]}")
        return list(layout.unpack_from(self.data, self.take(layout.size)))


def _short(number: float) -> float:
    """A float32 as the shortest decimal that means it: 0.4, as in the config it was made from, not
    0.4000000059604645.
    """
    if not math.isfinite(number):
        return number
    texts = (f"{number:.{digits}g}" for digits in range(6, 10))
    return next(
        (float(text) for text in texts if struct.pack("<f", float(text)) == struct.pack("<f", number)), number
    )


def _read(cursor: _Cursor) -> Gguf:
    _check_start(cursor)
    tensor_count = cursor.count("tensors", MOST_TENSORS)
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count("metadata keys", MOST_PAIRS)):
        key = cursor.name("metadata key")
        if key in metadata:
            raise CheckpointError(f"{cursor.path}: the metadata key '{key}' stands there twice")
        metadata[key] = cursor.value(cursor.number("I"), key)
    alignment = metadata.get("general.alignment", 32)
    if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        raise CheckpointError(
            f"{cursor.path}: general.alignment is {str(alignment)[:40]}; "
            "a power of two from 8 to 4096 is read"
        )
    entries = [_entry(cursor) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, dtype, shape, offset, nbytes in sorted(
        entries, key=lambda entry: (entry[3], entry[4], entry[0])
    ):
        if name in tensors:
            raise CheckpointError(f"{cursor.path}: the tensor '{name}' stands twice in the header")
        tensors[name] = TensorInfo(name, cursor.path, dtype, shape, start + offset, nbytes)
    problems = check_ranges(cursor.path, list(tensors.values()), start, cursor.size, alignment)
    return Gguf(cursor.path, metadata, tensors, tuple(problems))


def _check_start(cursor: _Cursor) -> None:
    path = cursor.path
    start = cursor.take(4)
    magic = bytes(cursor.data[start : start + 4])
    if magic == b"vers":
        raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; `git lfs pull` fetches that")
    if magic != b"GGUF":
        raise CheckpointError(f"{path}: not a GGUF file: it begins with {magic!r}")
    version = cursor.number("I")
    if version not in (2, 3):
        if version and not version & 0xFFFF:
            raise CheckpointError(f"{path}: a big-endian GGUF file; this build reads little-endian ones")
        raise CheckpointError(f"{path}: GGUF version {version}; this build reads versions 2 and 3")


def _entry(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int, int]:
    """(name, type, shape with its inputs last, offset from the start of the data, bytes) of one tensor."""
    name = cursor.name("tensor name")
    where = f"{cursor.path}: tensor '{name}'"
    if not 1 <= (dims := cursor.number("I")) <= MOST_DIMS:
        raise CheckpointError(f"{where}: {dims} dimensions; 1 to {MOST_DIMS} are read")
    sizes = [cursor.number("Q") for _ in range(dims)]
    kind = cursor.number("I")
    offset = cursor.number("Q")
    if kind not in TYPES:
        raise CheckpointError(f"{where}: its type {kind} is not known")
    dtype, elements, size = TYPES[kind]
    if not all(sizes) or math.prod(sizes) >= 2**63:
        raise CheckpointError(f"{where}: the shape {sizes} is not one of a tensor")
    if sizes[0] % elements:
        raise CheckpointError(f"{where}: rows of {sizes[0]} are no whole blocks of {dtype} ({elements})")
    return name, dtype, tuple(reversed(sizes)), offset, math.prod(sizes) // elements * size
