"""Files and folders that are on the disk when a call returns, and the folders that may be written to.

Knows no tensors and never loads torch. Trap: a file is safe once it is synced, its name once its folder is.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

from ..errors import UsageError

CHUNK = 1 << 24  # bytes that are read at a time


def check_target(folder: Path, replace: bool = False) -> None:
    """Raise UsageError where a checkpoint cannot be written to a folder: it must be new, or empty, or one to replace."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder}: not a folder; name a new one for the checkpoint")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not replace:
        raise UsageError(f"{folder}: not empty; name a new folder, or empty this one")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: holds other things than a checkpoint, so it is not replaced; name a new folder")


def write_json(path: Path, value: dict) -> None:
    """One JSON object, on the disk when this returns."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text as UTF-8, on the disk when this returns."""
    path.write_text(text, encoding="utf-8")
    sync(path)


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


def checksum(path: Path) -> int:
    """CRC-32 of a file; raises OSError."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found = zlib.crc32(chunk, found)
    return found
