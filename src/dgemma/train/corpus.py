"""The training text: one archive of the Python standard library's sources, split into train and held out.

Knows files and families of modules; refuses to know tokens, canvases and torch. The archive is kept in the repository
under data/ (2 MB) and is not in the wheel: it is made by scripts/make_corpus.py and recognised by its hash.

The trap: a split by file would leak. The library holds the same code several times over (wave and sunau, sysconfig and
distutils, tokenize and lib2to3), so whole families change sides together, and twins are merged first. A test measures
the lines that the two sides still share.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

ARCHIVE = "python-3.11.7-stdlib.tar.xz"
FOLDER = "python-3.11.7-stdlib"  # the one folder inside the archive
SHA256 = "ca60281d330427a58275adc8ccf20f9911175d046e58872e789f6bc03e406d68"

HELD_OUT_SHARE = 0.08  # of the bytes
# A held-out family is at most this share of the bytes (250 kB), so that no single style decides a measurement.
LARGEST_SHARE = 0.025
_SALT = "dgemma held out 1"

# Families that share code or are one module in two implementations. All pairs with three or more common runs of eight
# lines are here (a test looks for more), the others come from knowing the library.
TWINS = (
    ("aifc", "chunk", "sunau", "wave"),
    ("imghdr", "sndhdr"),
    ("bz2", "gzip", "lzma", "compression"),
    ("lib2to3", "tokenize", "token", "pickle", "pickletools", "compat_pickle"),
    ("distutils", "sysconfig", "shutil", "site", "sitebuiltins", "ctypes", "osx_support", "aix_support"),
    ("profile", "cProfile", "pstats"),
    ("xml", "xmlrpc", "pydoc", "inspect"),
    ("asyncore", "asynchat", "smtpd"),
    ("turtle", "turtledemo", "sqlite3"),
    ("ftplib", "imaplib", "nntplib", "poplib", "smtplib"),
    ("io", "pyio"),
    ("decimal", "pydecimal"),
    ("datetime", "strptime"),
    ("abc", "py_abc", "collections", "collections_abc"),
    ("posixpath", "ntpath", "genericpath", "nturl2path"),
    ("re", "sre_compile", "sre_constants", "sre_parse"),
    ("importlib", "imp", "zipimport"),
    ("threading", "threading_local"),
    ("weakref", "weakrefset"),
    ("hello", "phello"),
)
# Never held out, because a score over them would say little about code: encodings is forty codecs of forty near-equal
# lines, one file measured forty times; most of locale is two generated tables.
TRAIN_ONLY = frozenset({"encodings", "locale"})


@dataclass(frozen=True)
class Corpus:
    """Both sides of the split: path inside the library (`json/decoder.py`) -> text, sorted by path."""

    train: dict[str, str]
    held_out: dict[str, str]


def find_archive() -> Path:
    """The archive in the repository this package runs from. Raises UsageError where there is none (a wheel)."""
    path = Path(__file__).resolve().parents[3] / "data" / ARCHIVE
    if not path.is_file():
        raise UsageError(f"{path}: the training text is not there; run from a clone of the repository or pass --corpus")
    return path


def load(path: Path | str | None = None, sha256: str | None = SHA256) -> Corpus:
    """Read the archive into memory (10 MB of text, 0.3 s) and split it.

    `sha256=None` accepts any archive of the same form. Raises UsageError for a missing, damaged or different file.
    """
    path = find_archive() if path is None else Path(path)
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the training text cannot be read ({error.strerror or error})") from None
    found = hashlib.sha256(packed).hexdigest()
    if sha256 is not None and found != sha256:
        raise UsageError(f"{path}: damaged or another file (sha256 {found}, expected {sha256}); fetch it again")
    return split(_read(packed, path))


def _read(packed: bytes, path: Path) -> dict[str, str]:
    files = {}
    try:
        # unpacked as a whole first: tarfile alone stops at a damaged header without ever meeting the checksum behind it
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed)), mode="r:") as archive:
            for entry in archive:
                name = entry.name.removeprefix(f"{FOLDER}/")
                if entry.isfile() and name.endswith(".py"):
                    files[name] = archive.extractfile(entry).read().decode("utf-8")  # type: ignore[union-attr]
    except (tarfile.TarError, lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not an archive of UTF-8 Python sources ({error})") from None
    if not files:
        raise UsageError(f"{path}: no Python sources in it; expected {FOLDER}/*.py")
    return dict(sorted(files.items()))


def family(path: str, twins: tuple[tuple[str, ...], ...] = TWINS) -> str:
    """What changes sides together: the top-level package or module of a path, twins under their first name."""
    stem = path.split("/")[0].removesuffix(".py").strip("_")
    return next((group[0] for group in twins if stem in group), stem)


def split(files: dict[str, str], twins: tuple[tuple[str, ...], ...] = TWINS) -> Corpus:
    """Hold out whole families, in the order of a salted hash of their names, until 8 % of the bytes are reached."""
    sizes: dict[str, int] = {}
    for path, text in files.items():
        name = family(path, twins)
        sizes[name] = sizes.get(name, 0) + len(text.encode())
    total = sum(sizes.values())
    held: set[str] = set()
    taken = 0
    for name in sorted(sizes, key=_rank):
        if name not in TRAIN_ONLY and sizes[name] <= min(LARGEST_SHARE * total, HELD_OUT_SHARE * total - taken):
            held.add(name)
            taken += sizes[name]
    sides: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for path in sorted(files):
        sides[family(path, twins) in held][path] = files[path]
    return Corpus(train=sides[0], held_out=sides[1])


def _rank(name: str) -> str:
    return hashlib.sha256(f"{_SALT}:{name}".encode()).hexdigest()
