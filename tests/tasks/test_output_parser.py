"""Stop strings and tool calls of an answer, from an engine that says what it is told to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.config import NO_RULES, DenoiseConfig, TokenRules
from dgemma.engine.requests import CommitRecord, LogProbs, Record, Request
from dgemma.tasks.chat import reply
from dgemma.tasks.events import Committed, Generation
from dgemma.tasks.generate import stream
from dgemma.tasks.output_parser import OutputParser
from dgemma.tasks.resolve import ResolvedParams
from dgemma.text.calls import ToolCall
from tests.helpers import byte_tokenizer
from tests.text.test_turns import ids_of

TOKENIZER = byte_tokenizer()
CALL, BROKEN = '<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>', "<|tool_call>call:f{a:oh}<tool_call|>"
F = ToolCall("f", {"a": "x"})


class Says:
    """An engine whose requests are answered in turn with given ids, in canvases of a width; notes what it was asked."""

    def __init__(self, *answers: str, width: int = 1000):
        self.answers, self.width, self.asked, self.told = [ids_of(answer) for answer in answers], width, [], 0

    def check(self, request: Request) -> None:
        pass

    def run(self, requests: list[Request]) -> Iterator[Record]:
        self.asked += requests
        ids = self.answers[len(self.asked) - 1]
        for number, start in enumerate(range(0, len(ids), self.width)):
            self.told += 1
            part, last = ids[start : start + self.width], start + self.width >= len(ids)
            yield CommitRecord(0, number, 1, part, part, "stop" if last else None)


class Scores(Says):
    """The same, with log-probabilities."""

    def run(self, requests: list[Request]) -> Iterator[Record]:
        for record in super().run(requests):
            yield dataclasses.replace(record, logprobs=(LogProbs(-1.0, [], []),) * len(record.token_ids))


def events(
    engine: Says, rules: TokenRules = NO_RULES, stops: Sequence[str] = (), one_call: bool = False, **more
) -> tuple[list[Committed], Generation]:
    request = Request((2, 20), 500, 7, DenoiseConfig(), rules=rules)
    *committed, last = stream(
        engine, TOKENIZER, request, resolved=ResolvedParams(stop=tuple(stops), one_call=one_call), **more
    )  # type: ignore[arg-type]
    return committed, last


@pytest.mark.parametrize("width", [1, 3, 5, 100])
def test_an_answer_ends_before_its_stop_string_and_nothing_more_is_run(width: int) -> None:
    engine = Says("one two STOP three four five", width=width)
    committed, last = events(engine, stops=("STOP", "five"))
    assert last.text == "one two " == "".join(one.text for one in committed)
    assert last.finish_reason == "stop" and last.stop == "STOP"
    assert TOKENIZER.decode(last.token_ids) == "one two STOP" and engine.told == -(-12 // width)


@given(
    st.text("abS", min_size=1, max_size=30),
    st.lists(st.text("abS", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(1, 9),
)
def test_no_part_of_a_stop_string_is_ever_shown(text: str, stops: list[str], width: int) -> None:
    committed, last = events(Says("x" + text, "x" + text, width=width), stops=stops)
    cut = min(
        [(place, place + len(stop)) for stop in stops if (place := ("x" + text).find(stop)) >= 0],
        key=lambda pair: pair[1],
        default=None,
    )
    shown = "".join(one.text for one in committed)
    assert shown == last.text and not [stop for stop in stops if stop in shown]
    assert ("x" + text).startswith(shown) and (cut is not None or shown == "x" + text)


def test_thought_content_and_calls_of_one_canvas_are_told_apart() -> None:
    committed, last = events(
        Says(f"<|channel>thought\nhm STOP\n<channel|>Hi.{CALL}Bye<turn|><pad><pad>"),
        channels=True,
        stops=("STOP",),
    )
    assert [part for one in committed for part in one.parts] == [
        ("thought", "hm STOP\n"),
        ("content", "Hi.Bye"),
    ]
    got = reply(TOKENIZER, last)
    assert (got.thought, got.content, got.tool_calls, got.malformed) == ("hm STOP", "Hi.Bye", [F], [])


@pytest.mark.parametrize("width", [1, 4, 100])
def test_a_stop_string_is_looked_for_in_the_content_alone(width: int) -> None:
    _, last = events(
        Says(f"<|channel>thought\nEND<channel|>a END b{CALL}", width=width), channels=True, stops=("END",)
    )
    got = reply(TOKENIZER, last)
    assert (got.thought, got.content, got.tool_calls) == ("END", "a ", [])


@pytest.mark.parametrize("width", [1, 4, 100])
def test_a_call_that_cannot_be_read_is_settled_again_from_its_opening(width: int) -> None:
    engine = Says(f"Hi.{CALL}{BROKEN}never told", 'call:f{a:<|"|>x<|"|>}<tool_call|>Bye', width=width)
    committed, last = events(engine, channels=True)
    got = reply(TOKENIZER, last)
    assert (got.content, got.tool_calls, got.malformed) == ("Hi.Bye", [F, F], [])
    assert len(engine.asked) == 2 and engine.asked[1].seed == 8
    assert engine.asked[1].prompt_ids == (2, 20, *ids_of(f"Hi.{CALL}<|tool_call>"))
    assert "settled again: 1" in last.notes[0]
    outside = OutputParser(TOKENIZER)
    parts = [part for one in committed for part in outside.feed(one.token_ids)] + outside.finish()
    assert "".join(text for _, text in parts) == "Hi.Bye" == "".join(
        one.text for one in committed
    ) and outside.calls == [F, F]


def test_after_two_more_attempts_it_is_reported() -> None:
    engine = Says(f"Hi.{BROKEN}", "call:g{<tool_call|>", "call:h{<tool_call|>Bye")
    _, last = events(engine, channels=True)
    got = reply(TOKENIZER, last)
    assert (got.content, got.tool_calls, got.malformed) == ("Hi.Bye", [], ["call:h{"])
    assert len(engine.asked) == 3 and "settled again: 2" in last.notes[0]


@pytest.mark.parametrize("width", [1, 3, 100])
@pytest.mark.parametrize("channels", [False, True])
def test_a_stop_string_that_comes_first_leaves_an_empty_answer_with_its_seed(
    width: int, channels: bool
) -> None:
    engine = Scores("\n  return 1", "never asked for", width=width)
    committed, last = events(engine, stops=("\n",), channels=channels, rules=TokenRules(logprobs=True))
    assert (last.text, last.finish_reason, last.stop, last.seed, last.notes) == (
        "",
        "stop",
        "\n",
        7,
        [],
    ) and len(engine.asked) == 1
    assert "".join(one.text for one in committed) == "" and not any(one.logprobs for one in committed)


def test_only_where_the_model_said_nothing_is_an_answer_drawn_again() -> None:
    engine = Says(" \n", "text STOP")
    _, last = events(engine, stops=("STOP",))
    assert (last.text, last.seed) == ("text ", 8) and "drawn with the next seed" in last.notes[0]
    _, last = events(Says(" \n", "text"), goes_on=True)
    assert (last.text, last.seed, last.notes) == (" \n", 7, [])


@pytest.mark.parametrize("width", [1, 4, 100])
def test_one_call_ends_the_answer(width: int) -> None:
    engine = Says(f"Hi ST{CALL}{CALL}Bye", width=width)
    committed, last = events(engine, channels=True, one_call=True, stops=("STOP",))
    got = reply(TOKENIZER, last)
    assert (got.content, got.tool_calls, last.finish_reason) == ("Hi ST", [F], "stop") and len(
        last.token_ids
    ) == len(ids_of(f"Hi ST{CALL}"))
    assert (
        sum((one.calls for one in committed), []) == [F] and "".join(one.text for one in committed) == "Hi ST"
    )
    assert engine.told == -(-len(last.token_ids) // width)
    again = Says(f"Hi{BROKEN}", f'call:f{{a:<|"|>x<|"|>}}<tool_call|>{CALL}')
    assert (
        reply(TOKENIZER, events(again, channels=True, one_call=True)[1]).tool_calls == [F]
        and len(again.asked) == 2
    )


def test_a_reply_that_is_a_call_is_not_empty() -> None:
    engine = Says(CALL)
    assert reply(TOKENIZER, events(engine, channels=True)[1]).tool_calls == [F] and len(engine.asked) == 1


@given(
    st.text("abSé€", min_size=1, max_size=20),
    st.lists(st.text("abSé", min_size=1, max_size=3), max_size=2),
    st.integers(1, 9),
    st.booleans(),
)
def test_log_probabilities_go_with_the_text_that_was_told(
    text: str, stops: list[str], width: int, channels: bool
) -> None:
    told, text = [], "x" + text
    committed, last = events(
        Scores(text, text, width=width), stops=stops, channels=channels, rules=TokenRules(logprobs=True)
    )
    for one in committed:
        told += one.logprobs
        data = b"".join(TOKENIZER.token_bytes(token.token_id) for token in told)
        shown = last.text.encode()[: len(data)]
        assert data == shown and all(
            token.start == len(last.text.encode()[:n].decode(errors="ignore")) for n, token in enumerate(told)
        )
    assert len(last.logprobs or ()) == len(last.token_ids)
    assert [token for token in last.logprobs or () if token.start is not None] == told and (
        last.stop or data == last.text.encode()
    )
