"""`dgemma run`: what reaches the model, what reaches stdout, what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.cli.main import main
from dgemma.cli.screen import summary
from dgemma.errors import LengthError, NumericsError, ResourceError
from dgemma.tasks.events import Generation
from dgemma.tasks.output_parser import OutputParser
from dgemma.text.channels import split

from .fakes import FakeModel, Terminal, pipe_in, remains
from .fakes import split as split_call

Serve = Callable[[FakeModel], FakeModel]


def test_a_pipe_gets_the_answer_and_stderr_the_rest(
    serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = serve(FakeModel("one\n", "two"))
    assert (
        main(["run", "say", "-m", folder, "-n", "9", "--seed", "4", "--steps", "5", "--dtype", "float32"])
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err.splitlines()[:2] == ["note: vision is not used yet", "note: cut at 256 tokens"]
    assert err.splitlines()[2].startswith("7 tokens in 2 canvases, 4 steps (2.0 per canvas), 500 ms per step")
    assert err.splitlines()[2].endswith(", on CPU, float32")
    assert model.asked == [("stream", "say", 9, 4, {"max_denoising_steps": 5})]
    assert model.loaded == ((folder, None, "float32"), {"revision": None, "warmup": 0, "memory": None})  # type: ignore[attr-defined]


def test_token_by_token_is_asked_of_the_model(
    serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = serve(FakeModel("one"))
    assert main(["run", "say", "-m", folder, "-n", "9", "--autoregressive"]) == 0
    assert model.asked[0][-1] == {"autoregressive": True}


def test_a_summary_token_by_token_counts_no_canvases() -> None:
    generation = Generation("abc", [1, 2, 3], [1, 1, 1], "length", 2, 0, 0.3, 0.1, autoregressive=True)
    assert (
        summary(generation, 3)
        == "3 tokens, one by one, 100 ms per token, 10.0 tokens/s, ended by --max-tokens"
    )


def test_a_final_newline_is_not_doubled_and_bytes_are_kept(
    serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model = serve(FakeModel("Größe\r\n\x1b[0m 漢\n"))
    pipe_in(monkeypatch, b"viel\n")
    assert main(["run", "-m", folder]) == 0
    assert capsysbinary.readouterr().out == "Größe\r\n\x1b[0m 漢\n".encode()
    assert model.asked[0][1] == "viel\n"


def test_json_is_one_object_with_everything(
    serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel("Grö\nße"))
    assert main(["run", "x", "-m", folder, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1 and result["text"] == "Grö\nße" and result["notes"] == ["cut at 256 tokens"]
    assert {"token_ids", "steps", "finish_reason", "tokens_per_forward", "seed"} <= set(result)
    assert err == "note: vision is not used yet\n"


def test_a_chat_turn_gives_its_content_alone(
    serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = serve(FakeModel("|channel|thought\nhm", "m|end_channel|Yes.|end_turn|", chat_tuned=True))
    assert main(["run", "is it?\n", "-m", folder, "--system", "Be brief.", "--thinking"]) == 0
    assert capsys.readouterr().out == "Yes.\n"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "is it?"}]
    assert model.asked == [("chat", messages, None, 0, {"thinking": True})]
    assert main(["run", "is it?", "-m", folder, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["content"], result["thought"]) == ("Yes.", "hmm")


def test_raw_continues_the_text_of_a_chat_tuned_model(
    serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = serve(FakeModel("on", chat_tuned=True))
    assert main(["run", "go ", "--raw", "-m", folder]) == 0
    assert capsys.readouterr().out == "on\n" and model.asked[0][:2] == ("stream", "go ")


@pytest.mark.parametrize("flags", [["--system", "x"], ["--thinking"]])
def test_chat_flags_are_refused_where_there_is_no_chat(
    flags: list[str], serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = serve(FakeModel())
    assert main(["run", "x", "-m", folder, *flags]) == 2
    assert "not chat-tuned" in capsys.readouterr().err
    assert main(["run", "x", "-m", folder, "--raw", *flags]) == 2
    assert "--raw" in capsys.readouterr().err and model.asked == []


def test_an_error_in_a_later_canvas_leaves_nothing_half_written(
    serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FakeModel("good", "bad", error=NumericsError("not finite")))
    assert main(["run", "x", "-m", folder]) == 6
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("dgemma: not finite\n") and "Traceback" not in err


def test_an_empty_answer_is_said(serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    serve(FakeModel("|eos|"))
    assert main(["run", "x", "-m", folder]) == 0
    out, err = capsys.readouterr()
    assert out == "\n" and "note: the answer is empty; another --seed may help" in err


def test_an_interrupt_leaves_with_130(serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    serve(FakeModel("one", "two", error=KeyboardInterrupt()))  # type: ignore[arg-type]
    assert main(["run", "x", "-m", folder, "--json"]) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("stopped: the answer was not finished, so there is no JSON of it\n")
    assert main(["run", "x", "-m", folder]) == 130
    out, err = capsys.readouterr()
    assert out == "one\n" and err.endswith("stopped: the text so far is kept, 3 tokens in 1 canvas\n")
    serve(FakeModel("one", error=KeyboardInterrupt()))  # type: ignore[arg-type]
    assert main(["run", "x", "-m", folder]) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("stopped: no canvas had settled, so there is no text\n")


def test_a_chat_tuned_model_answers_as_long_as_the_service_lets_it(
    serve: Serve, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for tuned, length in ((True, 8192), (False, 256)):
        model = serve(FakeModel("x", chat_tuned=tuned))
        assert main(["run", "x", "-m", folder]) == 0
        assert model.denoise.max_new_tokens == length and model.asked[0][2] is None
    capsys.readouterr()
    for error, most in (
        (LengthError("max_tokens 8192 leaves the model's positions", 192), 192),
        (ResourceError("no room"), 512),
    ):
        model = serve(Tight(error, most))
        assert main(["run", "x", "-m", folder]) == 0
        assert model.asked[-1][2] == most
        told = capsys.readouterr().err
        assert f"cut at {most} tokens, all that there is room for" in told
        assert (
            main(["run", "x", "-m", folder, "-n", "9999"]) == error.exit_code
        )  # a length that was asked for is not cut
        capsys.readouterr()


class Tight(FakeModel):
    """A chat-tuned model with room for `most` tokens."""

    def __init__(self, error: Exception, most: int):
        super().__init__("x", chat_tuned=True)
        self.refusal, self.most = error, most

    def stream_chat(self, messages: Any, params: Any = None, **more: Any):
        if (split_call(params, more)[0] or self.denoise.max_new_tokens) > self.most:
            raise self.refusal
        return self._cut(super().stream_chat(messages, params, **more))

    def _cut(self, events: Any):
        for event in events:
            yield (
                dataclasses.replace(event, finish_reason="length", notes=[])
                if hasattr(event, "finish_reason")
                else event
            )


def test_a_terminal_gets_the_answer_once(serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(FakeModel("\n    one\n", "    two"))
    both = Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, both)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["run", "def f():", "-m", folder]) == 0
    shown = remains(both.text).split("\n")
    assert shown[:4] == ["def f():", "    one", "    two", "note: vision is not used yet"]
    assert shown[4] == "note: cut at 256 tokens" and shown[5].startswith("16 tokens in 2 canvases")
    assert both.text.count("two") == 1 and "step 2/12" in both.text


def test_no_live_shows_no_canvas(serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(FakeModel("one", "two"))
    both = Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, both)
    assert main(["run", "x", "-m", folder, "--no-live"]) == 0
    assert "\x1b" not in both.text and "onetwo\n" in both.text


REPLY = "|channel|thought\nGrö漢|end_channel|Ja|tool_call|call:f{a:1}|end_tool_call| – ß|end_turn|"


@given(cuts=st.lists(st.integers(min_value=0, max_value=60)))
def test_parsed_parts_are_the_reply_however_it_was_cut(cuts: list[int]) -> None:
    model = FakeModel()
    ids = model.ids_of(REPLY)
    parser, parts = OutputParser(model.tokenizer), []
    edges = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    for start, end in itertools.pairwise(edges):
        parts += parser.feed(ids[start:end])
    parts += parser.finish()
    heard: dict[str, Any] = {"thought": "", "content": ""}
    for channel, text in parts:
        heard[channel] += text
    whole = split(ids, model.tokenizer)
    assert (heard["thought"], heard["content"]) == (whole.thought, whole.content) == ("Grö漢", "Ja – ß")
