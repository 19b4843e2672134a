"""Files and folders that are on the disk when a call returns, and the folders that may be written to.

Knows no tensors and never loads torch. Trap: a file is safe once it is synced, its name once its folder is;
a rename that comes before either may survive a power cut that its data does not.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.sizes import disk_size
from ..errors import ResourceError, UsageError

CHUNK = 1 << 24  # bytes that are read at a time
FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_HERE, _EXCHANGE = -100, 2  # renameat2's AT_FDCWD and RENAME_EXCHANGE


def check_target(folder: Path, replace: bool = False) -> None:
    """Raise UsageError where a checkpoint cannot be written to a folder: it must be new, or empty, or one to
    replace.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder}: not a folder; name a new one for the checkpoint")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not replace:
        raise UsageError(f"{folder}: not empty; name a new folder, or empty this one")
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder}: holds other things than a checkpoint, so it is not replaced; name a new folder"
        )


@contextmanager
def disk_errors(place: Path, fix: str) -> Iterator[None]:
    """A full disk as ResourceError, a place that may not be written as UsageError: one line with the path and
    what is free.

    fix: what to do then, after "make room". Other errors pass.
    """
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code in FULL:
            raise ResourceError(
                f"{place}: {os.strerror(code)}, {disk_size(free_bytes(place))} are free; make room, {fix}"
            ) from None
        if code in UNWRITABLE:
            raise UsageError(
                f"{place}: cannot be written ({os.strerror(code)}); name a folder where there may be files"
            ) from None
        raise


def _code(error: Exception) -> int | None:
    """The system's number of an error; safetensors keeps it in its text."""
    if isinstance(error, OSError):
        return error.errno
    if type(error).__name__ == "SafetensorError":
        return next((code for code in (*FULL, *UNWRITABLE) if f"(os error {code})" in str(error)), None)
    return None


def free_bytes(place: Path) -> int:
    """Free bytes of the disk that a path is on, or will be on."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """One JSON object, on the disk when this returns."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text as UTF-8, on the disk when this returns."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def replace_text(path: Path, text: str) -> None:
    """A text in a file's place, whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write_text(new, text)
        replace_file(new, path)
    finally:
        new.unlink(missing_ok=True)


def replace_file(new: Path, path: Path) -> None:
    """Give a synced file its name, in place of what has it; its name is on the disk when this returns."""
    os.replace(new, path)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """Put a file on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # an old or another C library
        return False
    status: int = call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return status == 0
