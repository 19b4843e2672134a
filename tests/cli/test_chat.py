"""`dgemma chat`: the conversation that is kept, the commands, the ways out."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable, Sequence

import pytest

from dgemma.cli.main import main
from dgemma.errors import UsageError

from .fakes import FakeModel, Terminal, pipe_in

Serve = Callable[[FakeModel], FakeModel]


@pytest.fixture
def piped(serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeModel, int]]:
    def talk(data: bytes, *flags: str, model: FakeModel | None = None) -> tuple[FakeModel, int]:
        model = serve(model or FakeModel("|channel|thought\nhm|end_channel|Yes.|end_turn|", chat_tuned=True))
        pipe_in(monkeypatch, data)
        return model, main(["chat", "-m", folder, *flags])

    return talk


def test_each_line_is_a_turn_of_one_conversation(
    piped: Callable[..., tuple[FakeModel, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    model, code = piped(
        b"one\r\n\ntwo\\\nthree\n", "--system", "Be brief.", "--thinking", "-n", "5", "--steps", "3"
    )
    system, one = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}
    answer, two = {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "two\nthree"}
    more = {"thinking": True, "max_denoising_steps": 3}
    assert code == 0
    assert model.asked == [
        ("chat", [system, one], 5, 0, more),
        ("chat", [system, one, answer, two], 5, 0, more),
    ]
    out, err = capsys.readouterr()
    assert out == "Yes.\nYes.\n" and "hm" not in out and "> " not in out + err


def test_json_is_one_object_per_answer(
    piped: Callable[..., tuple[FakeModel, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped(b"a\nb", "--json")[1] == 0
    replies = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(reply["content"], reply["thought"]) for reply in replies] == [("Yes.", "hm")] * 2


def test_commands(piped: Callable[..., tuple[FakeModel, int]], capsys: pytest.CaptureFixture[str]) -> None:
    model, code = piped(
        b"a\n/seed 7\n/seed\n/help\nb\n/clear\n/usr/bin is what?\n/exit\nnever\n", "--seed", "3"
    )
    assert code == 0
    assert [call[2:4] for call in model.asked] == [(None, 3), (None, 7), (None, 7)]
    assert [len(call[1]) for call in model.asked] == [1, 3, 1]
    assert model.asked[2][1][0]["content"] == "/usr/bin is what?"
    err = capsys.readouterr().err
    assert err.count("seed 7") == 2 and "/clear " in err and "the conversation is forgotten" in err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"/seed -1\n", "/seed is '-1'"),
        (b"/seed x\n", "/seed is 'x'"),
        (b"/max 0\n", "/max is '0'"),
        (b"/dance\n", "there is no command '/dance'"),
        (b"a\nb\xff\n", "a line on stdin is not UTF-8 text: byte 1 is 0xff"),
    ],
)
def test_a_bad_line_in_a_pipe_ends_the_chat(
    data: bytes, message: str, piped: Callable[..., tuple[FakeModel, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped(data)[1] == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"dgemma: {message}")


def test_an_untuned_model_is_named_as_such(
    piped: Callable[..., tuple[FakeModel, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped(b"", model=FakeModel())[1] == 0
    assert "not chat-tuned" in capsys.readouterr().err


@pytest.fixture
def typed(serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeModel, str]]:
    """A person at a terminal: lines typed, or exceptions that keys raise. -> the model, the terminal's text."""

    def talk(model: FakeModel, keys: Sequence[str | BaseException]) -> tuple[FakeModel, str]:
        serve(model)
        both, left = Terminal(), list(keys)

        def read(prompt: str) -> str:
            both.write(prompt)
            key = left.pop(0)
            if isinstance(key, BaseException):
                raise key
            return key

        monkeypatch.setattr(builtins, "input", read)
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, both)
        assert main(["chat", "-m", folder, "--no-live"]) == 0 and not left
        return model, both.text

    return talk


def test_ctrl_d_leaves_and_ctrl_c_drops_the_line(typed: Callable[..., tuple[FakeModel, str]]) -> None:
    keys = ["half\\", KeyboardInterrupt(), "whole", EOFError()]
    model, shown = typed(FakeModel("Yes.", chat_tuned=True), keys)
    assert [call[1][-1]["content"] for call in model.asked] == ["whole"]
    assert "> … \n/exit or Ctrl-D leaves\n> Yes.\n" in shown and shown.endswith("> \n")


def test_a_stopped_answer_is_kept_as_far_as_it_came(typed: Callable[..., tuple[FakeModel, str]]) -> None:
    model = FakeModel("part", "rest", chat_tuned=True, error=KeyboardInterrupt())  # type: ignore[arg-type]
    model, shown = typed(model, ["a", "b", "/exit"])
    assert [len(call[1]) for call in model.asked] == [1, 3]
    assert model.asked[1][1][1] == {"role": "assistant", "content": "part"}
    assert shown.count("part\nstopped: the text so far is kept, 4 tokens in 1 canvas\n") == 2


def test_an_answer_stopped_before_it_has_text_is_forgotten(
    typed: Callable[..., tuple[FakeModel, str]],
) -> None:
    model, shown = typed(FakeModel("x", chat_tuned=True, error=KeyboardInterrupt()), ["a", "b", "/exit"])  # type: ignore[arg-type]
    assert [len(call[1]) for call in model.asked] == [1, 1]
    assert shown.count("no canvas had settled, so there is no text; this turn is forgotten") == 2


def test_a_stopped_answer_ends_a_chat_in_a_pipe(
    piped: Callable[..., tuple[FakeModel, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    model = FakeModel("part", "rest", chat_tuned=True, error=KeyboardInterrupt())  # type: ignore[arg-type]
    assert piped(b"a\nb\n", model=model)[1] == 130
    assert capsys.readouterr().out == "part\n" and len(model.asked) == 1


def test_max_says_and_sets_how_long_answers_may_be(typed: Callable[..., tuple[FakeModel, str]]) -> None:
    model, shown = typed(FakeModel("x", chat_tuned=True), ["/max", "/max 7", "a", "/max", "/exit"])
    assert model.asked[0][2] == 7
    assert (
        "answers of at most 8,192 tokens, fewer where there is no room" in shown
        and shown.count("answers of at most 7 tokens\n") == 2
    )


def test_an_error_ends_its_turn_and_not_the_chat(typed: Callable[..., tuple[FakeModel, str]]) -> None:
    model = FakeModel("x", chat_tuned=True, error=UsageError("the prompt has 99 tokens"))
    model, shown = typed(model, ["a", "/dance", "b", "/exit"])
    assert len(model.asked) == 2 and shown.count("dgemma: the prompt has 99 tokens") == 2
    assert "dgemma: there is no command '/dance'" in shown


def test_thoughts_are_shown_dimmed_on_a_terminal(typed: Callable[..., tuple[FakeModel, str]]) -> None:
    model = FakeModel("|channel|thought\nhm|end_channel|Yes.|end_turn|", chat_tuned=True)
    assert "\x1b[2;3mhm\x1b[0m\nYes.\n" in typed(model, ["a", "/exit"])[1]
