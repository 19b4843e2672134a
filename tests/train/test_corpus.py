"""The corpus: the right bytes or a clear refusal, whole families on one side, and no code that stands on both."""

import hashlib
import importlib.util
import io
import os
import re
import tarfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from dgemma.errors import UsageError
from dgemma.train import corpus as corpus_module
from dgemma.train.corpus import ARCHIVE, FOLDER, TRAIN_ONLY, TWINS, Corpus, family, find_archive, load, split

ROOT = Path(__file__).resolve().parents[2]
RUN = 8  # lines


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_corpus", ROOT / "scripts" / "make_corpus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def size(files: dict[str, str]) -> int:
    return sum(len(text.encode()) for text in files.values())


def runs(text: str) -> set[int]:
    """Hashes of all runs of eight lines, indentation and blank lines aside."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {hash(tuple(lines[start : start + RUN])) for start in range(len(lines) - RUN + 1)}


def worst_overlap(split_text: Corpus) -> float:
    """The largest share of a held-out file's runs that the train side has too."""
    known = set().union(*map(runs, split_text.train.values()))
    shares = {path: len(own & known) / len(own) for path, text in split_text.held_out.items() if (own := runs(text))}
    return max(shares.values())


# --- the split of the real archive ---


def test_sides_share_no_family_and_lose_no_file(corpus):
    assert not {family(path) for path in corpus.train} & {family(path) for path in corpus.held_out}
    with tarfile.open(find_archive()) as archive:
        names = {entry.name.removeprefix(f"{FOLDER}/") for entry in archive}
    assert names == {*corpus.train, *corpus.held_out, "LICENSE.txt"}


def test_packages_stay_whole(corpus):
    for package in ("encodings", "tkinter", "email", "concurrent", "idlelib"):
        sides = [any(path.startswith(package + "/") for path in side) for side in (corpus.train, corpus.held_out)]
        assert sorted(sides) == [False, True], package


def test_held_out_is_large_and_mixed_enough_to_measure_with(corpus):
    share = size(corpus.held_out) / (size(corpus.held_out) + size(corpus.train))
    assert 0.075 < share <= 0.08
    sizes = sorted(len(text) for text in corpus.held_out.values())
    assert len(sizes) >= 25 and sizes[0] < 2_000 and sizes[-1] > 50_000
    lines = [line.strip() for text in corpus.held_out.values() for line in text.splitlines()]
    assert sum(8 <= len(line) <= 80 and not line.startswith("#") for line in lines) >= 500
    assert not TRAIN_ONLY & {family(path) for path in corpus.held_out}


def test_no_near_twin_across_the_sides(corpus):
    assert worst_overlap(corpus) <= 0.01


def test_the_overlap_measure_sees_a_renamed_copy(corpus):
    copied = {**corpus.train, "copy.py": corpus.held_out["heapq.py"].replace("\n\n", "\n").replace("\n    ", "\n  ")}
    assert worst_overlap(Corpus(copied, corpus.held_out)) > 0.9


def near_families(corpus: Corpus, twins: tuple[tuple[str, ...], ...]) -> dict[tuple[str, str], int]:
    """Pairs of families with three or more runs of eight lines in common, and how many."""
    owners: dict[int, set[str]] = {}
    for path, text in {**corpus.train, **corpus.held_out}.items():
        for run in runs(text):
            owners.setdefault(run, set()).add(family(path, twins))
    shared = Counter(pair for names in owners.values() for pair in combinations(sorted(names), 2))
    return {pair: count for pair, count in shared.items() if count >= 3}


def test_the_list_of_twins_is_complete(corpus):
    assert near_families(corpus, TWINS) == {}


def test_without_the_list_the_twins_are_found(corpus):
    found = near_families(corpus, ())
    assert {("chunk", "wave"), ("distutils", "sysconfig"), ("lib2to3", "tokenize"), ("bz2", "lzma")} <= set(found)


def test_the_choice_depends_on_nothing_but_names_and_sizes(corpus):
    everything = {**corpus.train, **corpus.held_out}
    again = split({path: "#" * len(text.encode()) for path, text in reversed(everything.items())})
    assert list(again.held_out) == list(corpus.held_out) and list(again.train) == list(corpus.train)


# --- families ---


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("_pydecimal.py", "decimal.py"),
        ("_pyio.py", "io.py"),
        ("_strptime.py", "datetime.py"),
        ("_weakrefset.py", "weakref.py"),
        ("tkinter/ttk.py", "tkinter/__init__.py"),
        ("lib2to3/pgen2/tokenize.py", "tokenize.py"),
        ("sre_compile.py", "re/_compiler.py"),
    ],
)
def test_twins_are_one_family(left, right):
    assert family(left) == family(right)


def test_unlike_modules_are_not_one_family():
    assert family("json/decoder.py") != family("jsonish.py") and family("heapq.py") != family("bisect.py")


def test_no_module_stands_in_two_groups_of_twins():
    names = [name for group in TWINS for name in group]
    assert len(names) == len(set(names))


# --- the file ---


def archive_of(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return path


def test_a_changed_byte_is_refused_and_named(tmp_path):
    damaged = bytearray(find_archive().read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path = tmp_path / ARCHIVE
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match=f"{ARCHIVE}.*damaged"):
        load(path)
    with pytest.raises(UsageError, match="not an archive"):  # and without the hash, the checksum of xz still sees it
        load(path, sha256=None)


def test_another_archive_needs_the_check_switched_off(tmp_path):
    path = archive_of({"a.py": b"a = 1\n", "LICENSE.txt": b"free"}, tmp_path / "own.tar.xz")
    with pytest.raises(UsageError, match="another file"):
        load(path)
    assert load(path, sha256=None).train == {"a.py": "a = 1\n"}


@pytest.mark.parametrize("files", [{}, {"notes.txt": b"x"}, {"a.py": b"\xff\xfe"}])
def test_archives_without_readable_sources(tmp_path, files):
    with pytest.raises(UsageError, match="own.tar.xz"):
        load(archive_of(files, tmp_path / "own.tar.xz"), sha256=None)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "no.tar.xz", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            load(path)


def test_without_a_clone_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "__file__", str(tmp_path / "a" / "b" / "c" / "corpus.py"))
    with pytest.raises(UsageError, match="clone.*--corpus"):
        load()


def test_the_licence_is_the_archives_own():
    with tarfile.open(find_archive()) as archive:
        inside = archive.extractfile(f"{FOLDER}/LICENSE.txt").read()
    assert inside == (ROOT / "data" / "LICENSE-python.txt").read_bytes()


def test_the_notice_keeps_the_copyright_line_of_the_licence():
    licence, notice = (ROOT / "data" / "LICENSE-python.txt", ROOT / "src" / "dgemma" / "embedded" / "NOTICE")
    line = re.search(r'"(Copyright \(c\) 2001,.*?All Rights Reserved)"', " ".join(licence.read_text().split()))
    assert line and line[1] in " ".join(notice.read_text().split())


# --- the script that makes it ---


def library(root: Path) -> Path:
    for name, text in {
        "LICENSE.txt": "free", "heapq.py": "def push(): ...\n", "json/__init__.py": "x = 1\n", "empty.py": "\n",
        "test/test_heapq.py": "a", "json/tests/test_a.py": "a", "site-packages/other.py": "a",
        "_sysconfigdata__linux.py": "a", "config-3.11-x/config.py": "a", "encodings/cp037.py": "decoding_table = 1",
        "encodings/utf_8.py": "x", "html/entities.py": "a", "latest.py": "b", "notes.md": "c",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_members_leave_out_what_the_head_of_the_script_says(script, tmp_path):
    kept = script.members(library(tmp_path))
    assert list(kept) == ["LICENSE.txt", "encodings/utf_8.py", "heapq.py", "json/__init__.py", "latest.py"]


def test_packing_depends_on_contents_alone(script, tmp_path):
    first, second = library(tmp_path / "one"), library(tmp_path / "two")
    os.utime(second / "heapq.py", (1, 1))
    (second / "latest.py").chmod(0o600)
    packed = script.pack(script.members(first))
    assert packed == script.pack(script.members(second))
    (second / "heapq.py").write_text("def push(): pass\n")
    assert packed != script.pack(script.members(second))


def test_the_script_refuses_another_library_and_keeps_the_archive(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "DATA", tmp_path)
    assert script.main([str(library(tmp_path / "lib"))]) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"{ARCHIVE}.other"]
    assert script.main([str(tmp_path)]) == 2
    assert "LICENSE.txt" in capsys.readouterr().err


def test_packed_archive_has_the_recorded_hash():
    assert hashlib.sha256(find_archive().read_bytes()).hexdigest() == corpus_module.SHA256
