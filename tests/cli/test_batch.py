"""dgemma batch on the shipped model: answers by id, errors in their lines, and a killed run that goes on."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgemma
from dgemma.cli.batch import Output, finished, only_writer
from dgemma.cli.main import main
from tests.helpers import tiny_checkpoint


def line(name: str, **body) -> dict:
    body = {"prompt": "import os", "max_tokens": 8, "max_denoising_steps": 4} | body
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body}


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def read(path: Path) -> dict[str, dict]:
    found = [json.loads(text) for text in path.read_text().split("\n") if text]
    assert len({answer["custom_id"] for answer in found}) == len(found)
    return {answer["custom_id"]: answer["response"] for answer in found}


def test_answers_are_those_of_each_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "max_denoising_steps": 4}}  # fmt: skip
    source = write(
        tmp_path / "in.jsonl", [line("a"), line("b", prompt="def f(", seed=3, max_tokens=70), chat]
    )
    assert main(["batch", str(source), str(tmp_path / "out.jsonl"), "--dtype", "float64"]) == 0
    assert "3 requests" in capsys.readouterr().err
    told, model = read(tmp_path / "out.jsonl"), dgemma.load(dtype="float64")
    for name, prompt, seed, length in (("a", "import os", 0, 8), ("b", "def f(", 3, 70)):
        alone = model.generate(prompt, length, seed=seed, max_denoising_steps=4)
        body = told[name]["body"]
        assert told[name]["status_code"] == 200 and body["choices"][0]["text"] == alone.text
        assert body["usage"]["completion_tokens"] == len(alone.token_ids)
        assert body["usage"]["steps"] == sum(alone.steps) and body["dgemma"]["seeds"] == [seed]
    assert told["c"]["body"]["choices"][0]["message"]["role"] == "assistant"


def test_a_chat_may_hold_tools_that_it_does_not_offer(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    chats = {"plain": {}, "told": {"tools": tools}, "none": {"tools": tools, "tool_choice": "none"}}
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    source = write(
        tmp_path / "in.jsonl",
        [
            {"custom_id": name, "url": "/v1/chat/completions", "body": body | more}
            for name, more in chats.items()
        ],
    )
    model = tiny_checkpoint(tmp_path / "model")
    assert (
        main(["batch", str(source), str(tmp_path / "out.jsonl"), "-m", str(model), "--dtype", "float64"]) == 0
    )
    bodies = {name: answer["body"] for name, answer in read(tmp_path / "out.jsonl").items()}
    read_tokens = {name: body["usage"]["prompt_tokens"] for name, body in bodies.items()}
    assert read_tokens["none"] == read_tokens["plain"] < read_tokens["told"]
    assert bodies["none"]["choices"][0]["message"] == bodies["plain"]["choices"][0]["message"]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = (
        write(tmp_path / "in.jsonl", [line("a"), line("b", seed=1), line("c", seed=2)]),
        tmp_path / "out.jsonl",
    )
    assert main(["batch", str(source), str(target)]) == 0
    whole = target.read_bytes()
    kept = whole[: whole.index(b"\n") + 1]
    target.write_bytes(kept + whole[len(kept) : len(kept) + 40])  # one answer, and the beginning of another
    capsys.readouterr()
    assert main(["batch", str(source), str(target)]) == 0
    assert "2 requests" in capsys.readouterr().err
    assert target.read_bytes().startswith(kept) and set(read(target)) == {"a", "b", "c"}
    assert main(["batch", str(source), str(target)]) == 0
    assert "all 3 requests are answered" in capsys.readouterr().err


def test_a_request_that_cannot_be_served_has_its_error_in_its_line(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [
        line("good"), line("long", max_tokens=0), line("odd", temprature=1), line("twice", n=2), line("empty", prompt=""),
    ])  # fmt: skip
    assert main(["batch", str(source), str(tmp_path / "out.jsonl")]) == 0
    told = read(tmp_path / "out.jsonl")
    assert {name: answer["status_code"] for name, answer in told.items()} == {
        "good": 200, "long": 400, "odd": 400, "twice": 200, "empty": 400,
    }  # fmt: skip
    assert len(told["twice"]["body"]["choices"]) == 2
    assert "temprature" in told["odd"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no request"), ("{", "line 1: this is not JSON"), ('{"url": "/v1/completions"}', "custom_id"),
        ('{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "only POST"), ('{"custom_id": "a", "url": "/v1/completions"}', "body"),
        ('{"custom_id": "a", "url": "/v1/completions", "body": {}}\n' * 2, "line 2: custom_id 'a' was used before"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_batch_is_refused_before_anything_runs(
    tmp_path, capsys, text: str, says: str
) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 2
    told = capsys.readouterr().err
    assert says in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path, capsys) -> None:
    source = write(tmp_path / "in.jsonl", [line("a")])
    for target in (tmp_path / "nowhere" / "out.jsonl", tmp_path):
        assert main(["batch", str(source), str(target)]) == 2
        told = capsys.readouterr().err
        assert len(told.strip().splitlines()) == 1 and str(target) in told


def test_an_output_that_is_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write(tmp_path / "in.jsonl", [line("a")]), tmp_path / "notes.txt"
    target.write_text("dear diary\nno newline at the end")
    assert main(["batch", str(source), str(target)]) == 2
    assert "line 1: this is no answer of a batch" in capsys.readouterr().err
    assert target.read_text() == "dear diary\nno newline at the end"


def test_lines_end_at_a_line_feed_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = [
        "a\u2028b",
        "a\u2029b",
        "a\u0085b",
        "a\x0bb",
        "a\x0cb",
        "a\x1cb",
        "\r",
        "\ud800",
        "\ud801",
        "?",
        "\ufffd",
        '"',
        "\\ud800",
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    for escaped in (True, False):  # written as escapes, and as they are
        text = "".join(json.dumps(line(name, max_tokens=1), ensure_ascii=escaped) + "\r\n" for name in odd)
        source.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8", "backslashreplace") + b"\n\n")
        target.unlink(missing_ok=True)
        assert main(["batch", str(source), str(target)]) == 0
        assert f"{len(odd)} requests" in capsys.readouterr().err
        assert set(read(target)) == set(odd)
        assert len(target.read_text().splitlines()) == len(odd)  # for readers that cut elsewhere, too
        before = target.read_bytes()
        assert main(["batch", str(source), str(target)]) == 0
        assert "are answered" in capsys.readouterr().err and target.read_bytes() == before


@given(st.lists(st.text(st.characters(exclude_categories=()), min_size=1), min_size=1, unique=True))
def test_whatever_an_id_is_it_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    target = tmp_path_factory.mktemp("out") / "out.jsonl"
    with Output(target, 0, len(names)) as output:
        for name in names:
            output.append({"custom_id": name, "response": {}})
    assert finished(target) == set(names)


def test_two_runs_at_once_and_the_second_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", [line("a")]), tmp_path / "out.jsonl"
    with only_writer(target):
        assert main(["batch", str(source), str(target)]) == 2
        told = capsys.readouterr().err
        assert "being written by another `dgemma batch`" in told and len(told.splitlines()) == 1
        assert not target.exists()
        assert main(["batch", str(source), str(tmp_path / "other.jsonl")]) == 0
    assert main(["batch", str(source), str(target)]) == 0


def test_a_file_of_requests_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.jsonl", [line("a")])
    before = source.read_bytes()
    assert main(["batch", str(source), str(source)]) == 2
    assert "no answer of a batch" in capsys.readouterr().err and source.read_bytes() == before


class FullDisk:
    """A file whose disk takes `room` bytes more; `written` is what it took."""

    def __init__(self, file: Any, room: int):
        self._file, self._room = file, room

    def write(self, data: memoryview) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._file.write(data[: self._room])
        self._room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_says_how_many_answers_are_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(number) for number in range(5)]
    source, target = (
        write(tmp_path / "in.jsonl", [line(name, max_tokens=1) for name in names]),
        tmp_path / "out.jsonl",
    )
    enter = Output.__enter__

    def nearly_full(output: Output) -> Output:
        enter(output)
        output._file = FullDisk(output._file, 900)  # type: ignore[assignment]
        return output

    with monkeypatch.context() as patch:
        patch.setattr(Output, "__enter__", nearly_full)
        assert main(["batch", str(source), str(target)]) == 5
    told = capsys.readouterr().err.splitlines()[-1]
    safe = len(read(target))
    assert 0 < safe < 5 and target.read_bytes().endswith(b"\n")
    assert str(target) in told and f"{safe} of 5 requests are answered" in told and "make room" in told
    assert main(["batch", str(source), str(target)]) == 0
    assert set(read(target)) == set(names) and f"{5 - safe} requests" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = (
        write(tmp_path / "in.jsonl", [line(name, max_tokens=1) for name in "abc"]),
        tmp_path / "out.jsonl",
    )
    append = Output.append

    def once(output: Output, answer: dict) -> None:
        append(output, answer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Output, "append", once)
        assert main(["batch", str(source), str(target)]) == 130
    assert "stopped: 1 of 3 requests are answered" in capsys.readouterr().err
    assert main(["batch", str(source), str(target)]) == 0
    assert set(read(target)) == set("abc")


def test_a_text_in_another_encoding_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(line("a")), encoding="utf-16")
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 2
    assert "UTF-16" in capsys.readouterr().err
