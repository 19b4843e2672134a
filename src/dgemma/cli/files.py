"""Files that are changed in place: read as bytes, shown to a model as text, and replaced at once or not at
all.

Knows no task. Trap: the model knows "\\n" alone, so it is shown that, and what it writes gets the file's own
line ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import ResourceError, UsageError
from .flags import BOM, MAX_FILE_BYTES, from_stdin, read_file


def read(path: Path | None, name: str) -> bytes:
    if path is not None:
        return read_file(path, name)
    if len(data := from_stdin(MAX_FILE_BYTES + 1)) > MAX_FILE_BYTES:
        raise UsageError(f"{name} has more than {MAX_FILE_BYTES} bytes; max_file_bytes is {MAX_FILE_BYTES}")
    return data


def seen(part: bytes) -> str:
    """Text as the model is shown it: without a byte order mark, and with plain line ends."""
    return part.decode("utf-8").removeprefix(BOM).replace("\r\n", "\n")


def as_in_file(text: str, data: bytes) -> bytes:
    """Generated text as UTF-8, with the line ends that most lines of the file have."""
    if 2 * data.count(b"\r\n") > data.count(b"\n"):
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    return text.encode("utf-8", "replace")


def append_whole(file: IO[bytes], data: bytes) -> None:
    """Append to a file that has no buffer: all of it, or nothing where the disk is full. Raises OSError."""
    rest = memoryview(data)
    start = os.fstat(file.fileno()).st_size
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with suppress(OSError):  # what cannot be cut off now is seen by whoever reads the file
            file.truncate(start)
        raise


def check_writable(path: Path, name: str) -> None:
    """Say before the work is done that its result could not be written."""
    target = path.resolve()
    if not (os.access(target, os.W_OK) and os.access(target.parent, os.W_OK)):
        raise UsageError(f"{name} cannot be replaced: it or its folder is not writable")


def replace(path: Path, expected: bytes, data: bytes) -> None:
    """Put `data` in a file's place at once, its mode kept; a link keeps pointing to it.

    Raises UsageError when the file is not what it was (`expected`), ResourceError when there is no room.
    """
    target = path.resolve()
    if read(target, f"'{path}'") != expected:
        raise UsageError(f"'{path}' was changed meanwhile; nothing was written")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".dgemma-", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, temporary)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise ResourceError(f"'{path}' could not be written: {error.strerror}; it is as it was") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
