"""--memory on every verb that loads a model: handed to dgemma.load(), told, or refused before torch is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dgemma.api
from dgemma.cli.main import main
from dgemma.hub.locate import EMBEDDED

REQUEST = {
    "custom_id": "1",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"prompt": "def f(", "max_tokens": 4},
}
VERBS = ("run", "chat", "fill", "batch", "bench", "verify", "eval")


class Loaded(Exception):
    """Nothing more has to happen."""


@pytest.fixture
def words(tmp_path: Path) -> dict[str, list[str]]:
    """A command line of each verb."""
    text, requests = tmp_path / "a.py", tmp_path / "in.jsonl"
    text.write_text("a = <fill>\n")
    requests.write_text(json.dumps(REQUEST) + "\n")
    return {
        "run": ["run", "x"], "chat": ["chat"], "fill": ["fill", str(text)], "batch": ["batch", str(requests), str(tmp_path / "out")],
        "bench": ["bench"], "verify": ["verify"], "eval": ["eval", str(text)],
    }  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_hands_on_its_memory(
    verb: str, words: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(*_: Any, **more: Any) -> None:
        asked.append(more.get("memory"))
        raise Loaded

    monkeypatch.setattr(dgemma.api, "load", load)
    for given in ([], ["--memory", "8GB"]):
        with pytest.raises(Loaded):
            main([*words[verb], *given])
    assert asked == [None, "8GB"]


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_memory_or_too_little_is_one_line(
    verb: str, words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for memory, code, why in (
        ("much", 2, "--memory is 'much'"),
        ("3MB", 5, "missing even where 6 layers stream"),
    ):
        assert main([*words[verb], "--device", "cpu", "--memory", memory]) == code
        told = capsys.readouterr()
        assert told.err.count("\n") == 1 and why in told.err and told.out == ""


def test_a_run_says_how_many_layers_stream_and_what_that_costs(capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(path.stat().st_size for path in EMBEDDED.glob("*.safetensors"))
    call = ["run", "def f(", "-n", "4", "--steps", "2", "--device", "cpu", "--dtype", "float32", "--memory"]
    assert main([*call, "1GB"]) == 0
    whole = capsys.readouterr()
    assert main([*call, str(4 * size)]) == 0
    tight = capsys.readouterr()
    assert tight.out == whole.out and "layers are read" in tight.err and "in every step" in tight.err
    assert "layers are read" not in whole.err


def test_random_weights_do_not_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shape", "140m", "--memory", "1GB"]) == 2
    assert "--memory is for a model" in capsys.readouterr().err
