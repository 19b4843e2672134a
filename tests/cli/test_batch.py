"""dgemma batch on the shipped model: answers by id, errors in their lines, and a killed run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dgemma
from dgemma.cli.main import main
from tests.helpers import tiny_checkpoint


def line(name: str, **body) -> dict:
    body = {"prompt": "import os", "max_tokens": 8, "max_denoising_steps": 4} | body
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body}


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def read(path: Path) -> dict[str, dict]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert len({answer["custom_id"] for answer in found}) == len(found)
    return {answer["custom_id"]: answer["response"] for answer in found}


def test_answers_are_those_of_each_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "max_denoising_steps": 4}}  # fmt: skip
    source = write(tmp_path / "in.jsonl", [line("a"), line("b", prompt="def f(", seed=3, max_tokens=70), chat])
    assert main(["batch", str(source), str(tmp_path / "out.jsonl"), "--dtype", "float64"]) == 0
    assert "3 requests" in capsys.readouterr().err
    told, model = read(tmp_path / "out.jsonl"), dgemma.load(dtype="float64")
    for name, prompt, seed, length in (("a", "import os", 0, 8), ("b", "def f(", 3, 70)):
        alone = model.generate(prompt, length, seed, max_denoising_steps=4)
        body = told[name]["body"]
        assert told[name]["status_code"] == 200 and body["choices"][0]["text"] == alone.text
        assert body["usage"]["completion_tokens"] == len(alone.token_ids) and body["dgemma"]["steps"] == alone.steps
    assert told["c"]["body"]["choices"][0]["message"]["role"] == "assistant"


def test_a_chat_may_hold_tools_that_it_does_not_offer(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    chats = {"plain": {}, "told": {"tools": tools}, "none": {"tools": tools, "tool_choice": "none"}}
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    source = write(tmp_path / "in.jsonl", [{"custom_id": name, "url": "/v1/chat/completions", "body": body | more} for name, more in chats.items()])
    model = tiny_checkpoint(tmp_path / "model")
    assert main(["batch", str(source), str(tmp_path / "out.jsonl"), "-m", str(model), "--dtype", "float64"]) == 0
    bodies = {name: answer["body"] for name, answer in read(tmp_path / "out.jsonl").items()}
    read_tokens = {name: body["usage"]["prompt_tokens"] for name, body in bodies.items()}
    assert read_tokens["none"] == read_tokens["plain"] < read_tokens["told"]
    assert bodies["none"]["choices"][0]["message"] == bodies["plain"]["choices"][0]["message"]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", [line("a"), line("b", seed=1), line("c", seed=2)]), tmp_path / "out.jsonl"
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
        "good": 200, "long": 400, "odd": 400, "twice": 400, "empty": 400,
    }  # fmt: skip
    assert "temprature" in told["odd"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no request"), ("{", "line 1: this is not JSON"), ('{"url": "/v1/completions"}', "custom_id"),
        ('{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "only POST"), ('{"custom_id": "a", "url": "/v1/completions"}', "body"),
        ('{"custom_id": "a", "url": "/v1/completions", "body": {}}\n' * 2, "line 2: custom_id 'a' was used before"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_batch_is_refused_before_anything_runs(tmp_path, capsys, text: str, says: str) -> None:
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


def test_an_output_that_is_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", [line("a")]), tmp_path / "notes.txt"
    target.write_text("dear diary\nno newline at the end")
    assert main(["batch", str(source), str(target)]) == 2
    assert "line 1: this is no answer of a batch" in capsys.readouterr().err
    assert target.read_text() == "dear diary\nno newline at the end"
