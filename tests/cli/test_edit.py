"""`dgemma edit`: every byte outside the changes, the question, where the result goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.cli.edit import _spans, splice
from dgemma.cli.files import as_in_file, seen
from dgemma.cli.main import main
from dgemma.errors import NumericsError, UsageError
from dgemma.tasks.events import Change

from .fakes import FakeModel, Terminal, pipe_in, remains

Serve = Callable[[FakeModel], FakeModel]
BOM = b"\xef\xbb\xbf"
FILE = BOM + b"one\r\ntwo\r\nthree"


@given(
    data=st.text(alphabet="aß漢\r\n\ufeff", min_size=1, max_size=30).map(str.encode),
    cuts=st.lists(st.integers(0, 30), min_size=2, max_size=6, unique=True),
    after=st.text(alphabet="xß\n", max_size=4),
)
def test_bytes_outside_the_changes_stay(data: bytes, cuts: list[int], after: str) -> None:
    text = seen(data)
    places = sorted(cut for cut in cuts if cut <= len(text))
    spans = [*zip(places[::2], places[1::2], strict=False)]
    changes = [Change(start, end, text[start:end], after, True) for start, end in spans]
    made = splice(data, changes)
    want, place = "", 0
    for start, end in spans:
        want, place = want + text[place:start] + as_in_file(after, data).decode(), end
    assert made[len(BOM) * data.startswith(BOM) :].replace(b"\r", b"").decode() == (
        want + text[place:]
    ).replace("\r", "")
    assert splice(data, []) == data
    kept = [Change(start, end, text[start:end], "\0", True) for start, end in spans]
    rest = splice(data, kept).split(b"\0")
    where = 0
    for part in rest:  # the bytes around the changes stand in the file, in their order
        where = data.index(part, where) + len(part)
    assert data.startswith(rest[0]) and data.endswith(rest[-1])


def test_spans_are_lines() -> None:
    assert _spans("a\nbc\nd", ["2"]) == [(2, 4)] and _spans("a\nbc\nd", ["2:3"]) == [(2, 6)]
    assert _spans("a\nbc\nd", ["3", "1:2"]) == [(0, 4), (5, 6)] and _spans("a", []) == []
    for bad in ("", "x", "2:", ":2", "1-2", "1:2:3", "٣:٤x"):
        with pytest.raises(UsageError, match="--span is"):
            _spans("a\nb", [bad])
    for overlapping in (["1:2", "2"], ["2", "2"], ["1:3", "2"]):
        with pytest.raises(UsageError, match="--span .* and --span .* overlap"):
            _spans("a\nb\nc", overlapping)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.txt"
    path.write_bytes(FILE)
    return path


def test_the_edited_text_goes_to_stdout_and_the_difference_to_stderr(
    serve: Serve, folder: str, file: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model = serve(FakeModel(gap="a\nb"))
    assert (
        main(
            [
                "edit",
                str(file),
                "be brief",
                "--span",
                "2",
                "--yes",
                "-m",
                folder,
                "--seed",
                "3",
                "--t-min",
                "1",
            ]
        )
        == 0
    )
    out, err = capsysbinary.readouterr()
    assert out == BOM + b"one\r\na\r\nb\r\nthree" and file.read_bytes() == FILE
    assert model.asked == [("edit", "one\ntwo\nthree", "be brief", 3, {"spans": [(4, 7)], "t_min": 1.0})]
    assert (
        b"-two\n+a\n+b\n" in err
        and b"+++ b/file.txt" in err
        and b"does not follow it" in err
        and b"1 span" in err
    )


@pytest.mark.parametrize(
    ("answer", "code", "written"), [(b"y\n", 0, True), (b"n\n", 1, False), (b"\n", 1, False), (b"", 1, False)]
)
def test_what_is_not_taken_is_not_written(
    answer: bytes, code: int, written: bool, serve: Serve, folder: str, file: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    serve(FakeModel(gap="TWO"))
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["edit", str(file), "x", "--span", "2:2", "--in-place", "-m", folder]) == code
    assert file.read_bytes() == (FILE.replace(b"two", b"TWO") if written else FILE)
    assert capsys.readouterr().out == ""


def test_nothing_is_asked_where_nothing_changed(
    serve: Serve, folder: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel(gap="two"))
    monkeypatch.setattr(sys, "stdin", Terminal(b""))
    assert main(["edit", str(file), "--span", "2", "--in-place", "-m", folder]) == 0
    assert "nothing changed" in capsys.readouterr().err and file.read_bytes() == FILE


def test_json_holds_the_difference_and_changes_nothing(
    serve: Serve, folder: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel(gap="TWO"))
    pipe_in(monkeypatch, b"")
    assert main(["edit", str(file), "x", "--span", "2", "--json", "-m", folder]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["text"] == "one\nTWO\nthree" and "+TWO\n" in result["diff"] and file.read_bytes() == FILE
    assert result["changes"] == [
        {"start": 4, "end": 7, "before": "two", "after": "TWO", "closed": True, "row": 0}
    ]


def test_what_is_piped_in_is_edited(
    serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model = serve(FakeModel(gap="X"))
    pipe_in(monkeypatch, b"a\nb\n")
    assert main(["edit", "-", "y", "-y", "-m", folder]) == 0
    assert capsysbinary.readouterr().out == b"X\nb\n" and model.asked[0][4] == {
        "spans": None
    }  # found by a first pass


def test_an_error_leaves_the_file_as_it_was(
    serve: Serve, folder: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel(error=NumericsError("not finite")))
    assert main(["edit", str(file), "x", "--span", "2", "--in-place", "--yes", "-m", folder]) == 6
    assert capsys.readouterr().out == "" and file.read_bytes() == FILE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.txt", "x", "-y"], "'none.txt' cannot be read"),
        (["-", "x", "--in-place", "-y"], "--in-place needs a file"),
        (["file.txt", "x"], "no terminal to ask on"),
        (["-", "x"], "no terminal to ask on"),
        (["file.txt", "x", "--json", "--in-place"], "no terminal to ask on"),
        (["file.txt", "-y"], "say what to change"),
        (["file.txt", "", "-y"], "the instruction is empty"),
        (["file.txt", "-y", "--span", "3:9"], "no lines 3:9; the text has 3"),
        (["file.txt", "-y", "--span", "b"], "--span is 'b'"),
        (["empty.txt", "x", "-y"], "'empty.txt' is empty"),
        (["bytes.bin", "x", "-y"], "is not UTF-8 text"),
        (["file.txt", "x", "-y", "-n", "3"], "No such option: -n"),
        (["file.txt", "x", "-y", "--t-min", "9"], "--t-max is 1.5"),
    ],
)
def test_a_bad_request_is_refused(
    arguments: list[str], message: str, folder: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty.txt").write_bytes(b"\r\n \n")
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)
    pipe_in(monkeypatch, b"abc")
    assert main(["edit", *arguments, "-m", folder]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_on_a_terminal_the_difference_is_coloured_and_nothing_obeyed(
    serve: Serve, folder: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(FakeModel(gap="[b]x\x1b[2J"))
    both = Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, both)
    monkeypatch.setattr(sys, "stdin", Terminal(b"y\n"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["edit", str(file), "--span", "2", "-m", folder]) == 0
    assert "\x1b[32m+[b]x" in both.text and "\x1b[31m-two" in both.text and "\x1b[2J" not in both.text
    assert remains(both.text).replace("\r", "").endswith("one\n[b]x␛[2J\nthree")
