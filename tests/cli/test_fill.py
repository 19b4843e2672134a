"""`dgemma fill`: every byte around the gap, the marker, where the result goes."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.cli.files import as_in_file, check_writable, replace, seen
from dgemma.cli.fill import cut
from dgemma.cli.main import main
from dgemma.errors import NumericsError, ResourceError, UsageError

from .fakes import FakeModel, Terminal, pipe_in, remains

Serve = Callable[[FakeModel], FakeModel]
BOM = b"\xef\xbb\xbf"
TEXTS = st.text(alphabet=st.sampled_from("aß漢😀<fil>\r\n\t\x00\ufeff"), max_size=40).map(str.encode)


@given(before=TEXTS, after=TEXTS, gap=st.text(alphabet="xß\n", max_size=8))
def test_what_stands_around_the_marker_comes_back_byte_for_byte(
    before: bytes, after: bytes, gap: str
) -> None:
    data = before + b"<fill>" + after
    if data.find(b"<fill>", data.find(b"<fill>") + 1) >= 0:
        with pytest.raises(UsageError, match="more than once"):
            cut(data, b"<fill>", "X")
        return
    try:
        prefix, suffix = cut(data, b"<fill>", "X")
    except UsageError as error:
        assert "nothing but the marker" in str(error) and before in (b"", BOM) and not after
        return
    whole = prefix + as_in_file(gap, data) + suffix
    assert whole.startswith(before) and whole.endswith(after)
    middle = whole[len(before) : len(whole) - len(after)].decode()
    assert (
        middle.replace("\r\n", "\n") == gap
    )  # with the file's line ends, and otherwise what the model wrote


@given(TEXTS)
def test_the_model_is_shown_plain_line_ends_and_no_byte_order_mark(part: bytes) -> None:
    assert seen(part).encode() == part.removeprefix(BOM).replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "X has no marker '<fill>'"),
        (b"abc <FILL>", "X has no marker '<fill>'"),
        (b"a\n<fill>\nb\n<fill>", r"X has the marker '<fill>' more than once \(lines 2 and 4\)"),
        (b"<fill><fill>", "more than once"),
        (b"<fill>", "nothing but the marker"),
        (BOM + b"<fill>", "nothing but the marker"),
        (b"a<fill>\xff", "X is not UTF-8 text: byte 7 is 0xff"),
        ("a<fill>".encode("utf-16"), "X is not UTF-8 text: it begins as UTF-16 does"),
    ],
)
def test_a_file_that_cannot_be_filled_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cut(data, b"<fill>", "X")


def test_markers_that_overlap_themselves_count_twice() -> None:
    with pytest.raises(UsageError, match="more than once"):
        cut(b"x aaa", b"aa", "X")
    with pytest.raises(UsageError, match="the marker is empty"):
        cut(b"x", b"", "X")


def test_the_whole_file_goes_to_stdout(
    serve: Serve, folder: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model, path = serve(FakeModel(gap="x\ny")), tmp_path / "größe.txt"
    path.write_bytes(BOM + b"a\r\n  <fill>\r\nb")
    assert main(["fill", str(path), "-m", folder, "--seed", "2", "--t-min", "1"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == BOM + b"a\r\n  x\r\ny\r\nb" and path.read_bytes() == BOM + b"a\r\n  <fill>\r\nb"
    assert model.asked == [("fill", "a\n  ", "\nb", 2, {"widths": [8, 16, 32], "extra": [], "t_min": 1.0})]
    assert b"gap of 8 closed" in err and b"1000 ms per step" in err  # two passes for three candidates


@pytest.mark.parametrize(
    ("flags", "out"),
    [
        (["--only-gap"], b"GAP"),
        (["--marker", "a"], b"GAP<fill>b"),
        (["--marker", "fill>b", "-n", "3"], b"a<GAP"),
    ],
)
def test_flags_of_fill(
    flags: list[str], out: bytes, serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:  # fmt: skip
    model = serve(FakeModel())
    pipe_in(monkeypatch, b"a<fill>b")
    assert main(["fill", "-", "-m", folder, *flags]) == 0
    assert capsysbinary.readouterr().out == out
    assert model.asked[0][4] == {"widths": [3] if "-n" in flags else [8, 16, 32], "extra": []}


def test_other_files_are_context(
    serve: Serve,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, other = serve(FakeModel()), tmp_path / "other.py"
    other.write_bytes(BOM + b"x = 1\r\n")
    pipe_in(monkeypatch, b"a<fill>b")
    assert main(["fill", "-", "-m", folder, "--context-file", str(other), "--context-file", str(other)]) == 0
    assert model.asked[0][4]["extra"] == [("other.py", "x = 1\n")] * 2
    pipe_in(monkeypatch, b"a<fill>b")
    assert main(["fill", "-", "-m", folder, "--context-file", str(tmp_path / "none.py")]) == 2
    assert "none.py' cannot be read" in capsys.readouterr().err


def test_json_holds_the_gap(
    serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel())
    pipe_in(monkeypatch, b"a<fill>b")
    assert main(["fill", "-", "-m", folder, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["gap"], result["closed"], result["gap_width"], result["mean_log_prob"]) == (
        "GAP",
        True,
        8,
        -0.5,
    )


def test_in_place_writes_the_file_at_once_with_its_mode(
    serve: Serve, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel())
    path, link = tmp_path / "gap.sh", tmp_path / "link"
    path.write_bytes(b"a<fill>b")
    path.chmod(0o750)
    link.symlink_to(path)
    assert main(["fill", str(link), "--in-place", "-m", folder]) == 0
    assert capsys.readouterr().out == "" and link.is_symlink()
    assert path.read_bytes() == b"aGAPb" and stat.S_IMODE(path.stat().st_mode) == 0o750
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["gap.sh", "link", "model"]


def test_an_error_leaves_the_file_as_it_was(
    serve: Serve, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel(error=NumericsError("not finite")))
    path = tmp_path / "gap.txt"
    path.write_bytes(b"a<fill>b")
    assert main(["fill", str(path), "--in-place", "-m", folder]) == 6
    assert capsys.readouterr().out == "" and path.read_bytes() == b"a<fill>b"


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "gap.txt"
    path.write_bytes(b"edited")
    with pytest.raises(UsageError, match="was changed meanwhile"):
        replace(path, b"a<fill>b", b"aGAPb")
    assert path.read_bytes() == b"edited"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gap.txt"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device; it is as it was"):
        replace(path, b"old", b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.txt"], "'none.txt' cannot be read: No such file or directory"),
        (["."], "'.' cannot be read: Is a directory"),
        (["-", "--in-place"], "--in-place needs a file"),
        (["gap.txt", "--only-gap", "--json"], "--only-gap prints the gap alone"),
        (["gap.txt", "--only-gap", "--in-place"], "--only-gap prints the gap alone"),
        (["gap.txt", "--marker", ""], "the marker is empty"),
        (["gap.txt", "--eos-token-id", "1"], "No such option: --eos-token-id"),
        (["gap.txt", "-n", "0"], "--max-tokens is 0"),
    ],
)
def test_a_bad_request_is_refused(
    arguments: list[str], message: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "gap.txt").write_text("a<fill>b")
    monkeypatch.chdir(tmp_path)
    assert main(["fill", *arguments, "-m", folder]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_a_file_that_cannot_be_replaced_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gap.txt"
    path.write_text("a<fill>b")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everything
    with pytest.raises(UsageError, match="not writable"):
        check_writable(path, "'gap.txt'")


def test_on_a_terminal_the_gap_is_coloured_and_nothing_obeyed(
    serve: Serve, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(FakeModel(gap="[b]x\x1b[2J"))
    path, both = tmp_path / "gap.txt", Terminal()
    path.write_bytes(b"[red]a\r\n<fill>\r\nb")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, both)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["fill", str(path), "-m", folder]) == 0
    assert remains(both.text).split("\n")[-3:] == ["[red]a", "[b]x␛[2J", "b"]
    assert "\x1b[1;32m[b]x" in both.text and "gap 8 of 8/16/32, step 2/12" in both.text
