"""The hashes of a checkpoint's files: SHA256SUMS in its folder, as `sha256sum` writes and checks it, and
comparing with them.

`pull` writes it from the hub's own hashes, `train` and `quantize` from what they wrote. A file that has
none there but links into the Hugging Face cache is compared with the name of its blob, which is its hash.
Trap: a list that was made here from files that were damaged already says that they are right; the messages
tell which list it was.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config.sizes import Progress
from ..errors import CheckpointError
from .disk import CHUNK, replace_text
from .gguf import GGUF

SUMS = "SHA256SUMS"
MOST = 1 << 20  # bytes of a list that are read
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_OURS = re.compile(r"model[\w.-]*\.safetensors|[\w.-]+\.json|tokenizer\.model|chat_template\.jinja")


@dataclass(frozen=True)
class Checked:
    """What `check_files` did. made: no hashes were known, so a list was made now."""

    files: int
    nbytes: int
    made: bool = False


def check_files(place: Path, progress: Progress | None = None, make: bool = True) -> Checked:
    """Compare the files of a checkpoint (a folder or a .gguf file) with their hashes.

    Where none are known, make a list for the next time, or raise CheckpointError where `make` is false.
    Raises CheckpointError that names the first file which is missing, unreadable or not what it was.
    """
    folder = place
    if not place.is_dir():
        folder = place.parent
    names = checkpoint_files(place)
    known = read_sums(folder) | _blob_hashes(folder, names)
    if place.is_dir() and (folder / SUMS).exists():
        names = sorted({*names, *(name for name in read_sums(folder) if not name.lower().endswith(GGUF))})
    if not any(name in known for name in names):
        if not make:
            raise CheckpointError(
                f"{place}: no hashes of its files are known; "
                "`dgemma verify --files` keeps a list for later checks"
            )
        sums = {name: digest(folder / name) for name in names}
        write_sums(folder, sums)
        return Checked(len(names), _nbytes(folder, names), made=True)
    chosen = [name for name in names if name in known]
    total = _nbytes(folder, chosen)
    done = 0
    faults = []
    for name in chosen:
        if progress is not None:
            progress(done, total, f"checking {name}")
        if fault := _fault(folder / name, known[name]):
            faults.append(fault)
        done += _nbytes(folder, [name])
    if faults:
        more = ""
        if len(faults) > 1:
            more = f" (and {len(faults) - 1} more files)"
        raise CheckpointError(f"{faults[0]}{more}; fetch it again (`dgemma pull` replaces what is damaged)")
    return Checked(len(chosen), total)


def checkpoint_files(place: Path) -> list[str]:
    """The names of a checkpoint's files: those of a folder that this build reads, or the one GGUF file and a
    tokenizer beside it.
    """
    if not place.is_dir():
        if (place.parent / "tokenizer.json").exists():
            beside = ["tokenizer.json"]
        else:
            beside = []
        return [place.name, *beside]
    return sorted(path.name for path in place.iterdir() if _OURS.fullmatch(path.name))


def _fault(path: Path, expected: str) -> str | None:
    try:
        if len(expected) == 40:
            actual = git_digest(path)
        else:
            actual = digest(path)
    except OSError as error:
        return f"{path}: not readable ({error.strerror or error})"
    if actual == expected:
        return None
    return f"{path}: is not what it was: its hash is {actual[:12]}..., expected {expected[:12]}..."


def _blob_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The hashes that links into the Hugging Face cache lead to by name; a list in the folder goes before
    them.
    """
    listed = read_sums(folder)
    blobs = {}
    for name in names:
        path = folder / name
        if name not in listed and path.is_symlink() and _HASH.fullmatch(blob := Path(os.readlink(path)).name):
            blobs[name] = blob
    return blobs


def read_sums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 in hex of what the folder's list names in this folder; empty without one.

    Raises CheckpointError.
    """
    path = folder / SUMS
    try:
        if not path.exists():
            return {}
        if not path.is_file() or path.stat().st_size > MOST:
            raise CheckpointError(f"{path}: no list of hashes; remove it")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    matches = [match for line in lines if (match := _LINE.fullmatch(line))]
    return {
        match[2]: match[1].lower()
        for match in matches
        if match[2].isprintable() and not re.search(r"[/\\]|^\.", match[2])
    }


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Put a list into a folder, whole or not at all, and on the disk when this returns."""
    replace_text(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def digest(path: Path) -> str:
    """SHA-256 of a file in hex; raises OSError."""
    return _hashed(path, hashlib.sha256())


def git_digest(path: Path) -> str:
    """The hash by which git, and so the hub, names a small file; raises OSError."""
    return _hashed(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def _hashed(path: Path, state: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            state.update(piece)
    return state.hexdigest()


def _nbytes(folder: Path, names: Iterable[str]) -> int:
    paths = [folder / name for name in names]
    return sum(path.stat().st_size for path in paths if path.is_file())
