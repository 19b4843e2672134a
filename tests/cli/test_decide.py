"""`dgemma decide`: questions from flags and files, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dgemma.cli.main import main

from .fakes import FakeModel, pipe_in

Serve = Callable[[FakeModel], FakeModel]


@pytest.mark.parametrize(
    ("flags", "question"),
    [
        (["--question", "Is it?"], {"type": "noul", "instructions": "Is it?"}),
        (["--choice", "a, b,c"], {"type": "choice", "criteria": ["a", "b", "c"]}),
        (
            ["-q", "How?", "--score", "bad,good"],
            {"type": "score", "instructions": "How?", "criteria": ["bad", "good"]},
        ),
    ],
)
def test_flags_ask_one_question(
    flags: list[str], question: dict, serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = serve(FakeModel())
    assert main(["decide", "it is", *flags, "-m", folder, "--seed", "3", "--steps", "2"]) == 0
    assert model.asked == [("decide", "it is", {"answer": question}, None, {"steps": 2, "seed": 3})]
    out, err = capsys.readouterr()
    assert (
        out == "answer: a (confidence 0.50)\n   0.750  a\n   0.250  b\n" and "7 tokens read, 2 steps" in err
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_asks_many(
    wrapped: bool,
    serve: Serve,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, questions = (
        serve(FakeModel()),
        {"a": {"type": "noul"}, "b": {"type": "choice", "criteria": {"x": None, "y": "z"}}},
    )
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions} if wrapped else questions))
    pipe_in(monkeypatch, b"the state")
    arguments = ["--file", str(tmp_path / "q.json"), "--instructions", "Judge.", "--json"]
    assert main(["decide", *arguments, "-m", folder]) == 0
    assert model.asked == [("decide", "the state", questions, "Judge.", {"steps": 1, "seed": 0})]
    result = json.loads(capsys.readouterr().out)
    assert result["answers"]["answer"] == {
        "type": "choice",
        "choice": "a",
        "probabilities": {"a": 0.75, "b": 0.25},
        "confidence": 0.5,
    }
    assert result["usage"] == {"input_tokens": 7, "output_tokens": 0, "steps": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "nothing is asked"),
        (["", "-q", "x"], "the prompt is empty"),
        (["x", "--choice", "a", "--score", "b"], "two questions"),
        (["x", "--file", "q.json", "-q", "x"], "--file holds the questions"),
        (["x", "--file", "none.json"], "cannot be read"),
        (["x", "--file", "q.json"], "is not JSON"),
        (["x", "-q", "y", "--choice", "a,,b"], "the label '' is no text"),
        (["x", "-q", "y", "--steps", "0"], "steps is 0"),
        (["x", "-q", "y", "--t-min", "1"], "No such option"),
        (["x", "-q", "y", "--seed", "-1"], "seed is -1"),
    ],
)
def test_a_bad_request_is_refused(
    arguments: list[str], message: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "q.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    assert main(["decide", *arguments, "-m", folder]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
