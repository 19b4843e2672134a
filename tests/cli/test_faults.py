"""Faults a person can meet at the command line, found by a sweep: one line, a documented code, nothing on stdout."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dgemma.cli.main import main

from .fakes import FakeModel, pipe_in


@pytest.fixture
def refused(capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    """refused(code, arguments, words): the command line ends so, with one line that holds the words."""

    def check(code: int, arguments: list[str], *words: str) -> None:
        assert main(arguments) == code
        out, err = capsysbinary.readouterr()
        assert out == b"" and err.count(b"\n") == 1, err
        for word in ("dgemma: ", *words):
            assert word in err.decode()

    return check


def test_a_pipe_in_place_of_json_is_not_waited_for(refused: Any, folder: str) -> None:
    for name in ("generation_config.json", "config.json"):
        (Path(folder) / name).unlink()
        os.mkfifo(Path(folder) / name)
        refused(3, ["run", "a", "-m", folder], name, "not a regular file")


def test_a_link_to_nothing_is_not_a_folder_without_settings(refused: Any, folder: str) -> None:
    (Path(folder) / "generation_config.json").unlink()
    (Path(folder) / "generation_config.json").symlink_to("gone")
    refused(3, ["run", "a", "-m", folder], "generation_config.json", "no such file")


def test_a_model_without_a_tokenizer_is_refused_before_it_is_loaded(refused: Any, folder: str) -> None:
    (Path(folder) / "tokenizer.json").unlink()
    for verb in (["run", "a"], ["eval", __file__]):
        refused(3, [*verb, "-m", folder], "tokenizer.json")


def test_a_canvas_that_leaves_no_room_for_a_prompt(refused: Any, folder: str) -> None:
    path = Path(folder) / "config.json"
    raw = json.loads(path.read_text())
    raw["text_config"]["max_position_embeddings"] = raw["canvas_length"]
    path.write_text(json.dumps(raw))
    refused(3, ["run", "a", "-m", folder], "canvas_length 64", "max_position_embeddings 64")


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("", 2, "empty"),
        ("x" * 5000, 3, "no such folder"),
        ("/" + "x" * 300, 3, "too long"),
        ("~nobody-here/x", 3, "home"),
    ],
)
def test_names_that_no_file_system_takes(refused: Any, name: str, code: int, word: str) -> None:
    refused(code, ["run", "a", "-m", name], word)


def test_a_revision_of_a_folder_is_not_dropped(refused: Any, folder: str) -> None:
    refused(2, ["run", "a", "-m", folder, "--revision", "main"], "no revisions")
    refused(2, ["run", "a", "--revision", "main"], "no revisions")


def test_end_tokens_beyond_the_vocabulary(refused: Any, folder: str) -> None:
    refused(
        2, ["run", "a", "-m", folder, "--eos-token-id", "999999999"], "--eos-token-id 999999999", "end at 47"
    )
    refused(2, ["run", "a", "-m", folder, "--eos-token-id", "9" * 5000], "--eos-token-id is '999", "...")


@pytest.mark.parametrize("verb", [["run"], ["fill", "-"]])
def test_a_stdin_that_cannot_be_read(
    refused: Any, folder: str, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: Any) -> int:
            raise OSError(21, "Is a directory")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Broken())))
    refused(2, [*verb, "-m", folder], "stdin cannot be read", "Is a directory")


def test_notes_of_the_model_do_not_come_before_an_error(
    refused: Any, serve: Any, folder: str, tmp_path: Path
) -> None:
    from dgemma.errors import NumericsError

    serve(FakeModel("x", error=NumericsError("the logits are not finite")))
    refused(6, ["run", "a", "-m", folder], "not finite")
    (tmp_path / "f.txt").write_text("a<fill>b")
    refused(6, ["fill", str(tmp_path / "f.txt"), "-m", folder], "not finite")


def test_a_file_without_end_is_not_read_to_it(refused: Any, folder: str) -> None:
    for verb in ("fill", "eval"):
        refused(2, [verb, "/dev/zero", "-m", folder], "max_file_bytes")


def test_a_chat_line_without_end_and_a_seed_without_end(
    serve: Any, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for data, word in (
        (b"a" * 4_000_000, "max_prompt_characters"),
        (b"/seed " + b"9" * 5000, "seed is '999"),
    ):
        serve(FakeModel())
        pipe_in(monkeypatch, data)
        assert main(["chat", "-m", folder]) == 2
        assert word in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("verb", [["ls"], ["ls", "--json"], ["doctor"], ["doctor", "--json"]])
def test_a_stdout_that_is_closed(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(verb) == 2
    assert "stdout is closed" in capsys.readouterr().err


def test_a_reader_of_doctor_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    stdout = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["doctor"]) == 141
    stdout.close()  # onto /dev/null by now: an error here would be one at the end of the process


class Full(io.StringIO):
    """What /dev/full is, without its error at the end of the test."""

    asked = False

    def write(self, _: str) -> int:
        self.asked = True
        raise OSError(28, "No space left on device")


def test_a_stderr_that_is_full(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    full = Full()
    monkeypatch.setattr(sys, "stderr", full)
    assert main(["run", "", "-m", folder]) == 2 and full.asked


def test_the_longest_file_name_is_written_in_place(serve: Any, folder: str, tmp_path: Path) -> None:
    serve(FakeModel(gap="GAP"))
    path = tmp_path / ("n" * 255)
    path.write_text("a<fill>b")
    assert main(["fill", "--in-place", str(path), "-m", folder]) == 0
    assert path.read_text() == "aGAPb"


def test_doctor_names_a_tokenizer_without_a_first_token(tmp_path: Path) -> None:
    from dgemma.cli.doctor import examine
    from tests.helpers import tiny_checkpoint

    path = tiny_checkpoint(tmp_path / "m") / "tokenizer.json"
    path.write_text(path.read_text().replace("<bos>", "<nothing>"))
    assert any("<bos>" in problem for problem in examine(str(path.parent)).problems)


def test_devices_that_eval_does_not_run_on(refused: Any, folder: str) -> None:
    for device in ("meta", "mps", "foo"):
        refused(2, ["eval", __file__, "-m", folder, "--device", device], f"device '{device}'")


def test_train_refuses_its_folders_before_it_trains(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    run = ["train", "--run", str(tmp_path / "run")]
    refused(2, ["train", "--run", str(tmp_path / "file")], "--run", "file")
    refused(2, [*run, "--export", str(tmp_path / "file" / "x")], "--export")
    refused(2, [*run, "--export", str(tmp_path)], "--export", "other things")
    refused(3, [*run, "--start", "/no/such"], "/no/such")
    assert not (tmp_path / "run").exists()
