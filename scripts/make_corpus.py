"""Packs the Python 3.11.7 standard library's own sources into data/: the text the shipped checkpoint is trained on.

Run by a maintainer, once per corpus: `python scripts/make_corpus.py [LIB]`, where LIB is the `lib/python3.11` folder
of an untouched 3.11.7 on Linux (default: the running interpreter's). The same folder gives the same bytes: names
sorted, times, owners and modes set to fixed values. It exits with 1 when the bytes are not those that
`train/corpus.py` expects.

What stays out, and why:
- `site-packages`, `lib-dynload`, `config-*`, `_sysconfigdata*`, `__pycache__`: not the library, or of this machine.
- `test`, `tests`, `idle_test`: twice the size of the rest, and a different kind of text (tables, odd input on purpose).
- generated tables: code pages of `encodings/` (anything with a decoding table), `pydoc_data` (757 kB of prose made from
  the manual), `html/entities.py`, `stringprep.py`, `re/_casefix.py`. A model learns nothing from 256-row tables, and a
  measurement over them says nothing about code.
- files with nothing in them.

Its trap: the bytes depend on liblzma's version too. A different hash with the same members is not a different corpus;
compare the members before you change the hash.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import sys
import sysconfig
import tarfile
from pathlib import Path

from dgemma.train.corpus import ARCHIVE, FOLDER, SHA256

DATA = Path(__file__).resolve().parents[1] / "data"
LICENCE = "LICENSE.txt"

_LEFT_OUT_FOLDERS = re.compile(r"site-packages|lib-dynload|config-.*|__pycache__|tests?|idle_test|pydoc_data")
_LEFT_OUT_FILES = re.compile(r"_sysconfigdata.*\.py|html/entities\.py|stringprep\.py|re/_casefix\.py")
# how a generated file of encodings/ gives itself away
_CODE_PAGE = re.compile(rb"gencodec|decoding_table|decoding_map")


def members(library: Path) -> dict[str, bytes]:
    """Path inside the library -> bytes, sorted by path: the sources that belong to the corpus, and the licence."""
    found = {LICENCE: (library / LICENCE).read_bytes()}
    for file in library.rglob("*.py"):
        path = file.relative_to(library)
        name = path.as_posix()
        if any(_LEFT_OUT_FOLDERS.fullmatch(part) for part in path.parts[:-1]) or _LEFT_OUT_FILES.fullmatch(name):
            continue
        text = file.read_bytes()
        if text.strip() and not (path.parts[0] == "encodings" and _CODE_PAGE.search(text)):
            found[name] = text
    return dict(sorted(found.items()))


def pack(files: dict[str, bytes]) -> bytes:
    """The files as a tar.xz under one top folder, with nothing in it that depends on when, where or by whom."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")  # a fresh TarInfo: owner 0, no names, mtime 0, mode 0644
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return lzma.compress(raw.getvalue(), check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME)


def main(arguments: list[str]) -> int:
    library = Path(arguments[0] if arguments else sysconfig.get_paths()["stdlib"]).expanduser()
    if not (library / LICENCE).is_file():
        print(f"{library}: no {LICENCE} there; name the lib/python3.11 folder of an installed 3.11.7", file=sys.stderr)
        return 2
    files = members(library)
    packed = pack(files)
    digest = hashlib.sha256(packed).hexdigest()
    size = sum(map(len, files.values()))
    print(f"{len(files)} files, {size:,} bytes, packed {len(packed):,} bytes, sha256 {digest}")
    if digest != SHA256:
        other = DATA / f"{ARCHIVE}.other"
        other.write_bytes(packed)
        print(f"not the corpus that train/corpus.py expects ({SHA256}); left at {other} to compare", file=sys.stderr)
        return 1
    (DATA / ARCHIVE).write_bytes(packed)
    (DATA / "LICENSE-python.txt").write_bytes(files[LICENCE])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
