"""Answers of a given form: whatever model writes them, they have it, and are closed in time."""

from __future__ import annotations

import json
import re
import sys
import tracemalloc

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dgemma
from dgemma.errors import UsageError
from dgemma.tasks.bans import TextBans
from dgemma.tasks.structured import output_constraint
from dgemma.text.tokenizer import Tokenizer
from tests.helpers import byte_tokenizer, tiny_checkpoint
from tests.tasks.schemas import schemas

ENDS = (1, 4)
BYTES = byte_tokenizer([("a", "b")])
PERSON = {
    "type": "object", "additionalProperties": False, "required": ["name", "age"],
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    # float64: company must not round another way
    return dgemma.load(
        tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=2048),
        dtype="float64",
    )


def answer(model: dgemma.Model, max_tokens: int = 60, **more) -> str:
    """Its text; the reason why it ended is part of what is asked."""
    got = model.generate("abc", max_tokens, eos_token_id=ENDS, **more)
    assert got.finish_reason == "stop" and len(got.token_ids) <= max_tokens
    return got.text


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_tokens", [25, 31, 60])
def test_an_answer_has_its_schema_whatever_its_length(
    model: dgemma.Model, seed: int, max_tokens: int
) -> None:
    jsonschema.validate(json.loads(answer(model, max_tokens, json_schema=PERSON, seed=seed)), PERSON)


@pytest.mark.parametrize("expression", ["[a-c]{3}-[0-9]{2,9}", "(ab)*c", "x?", "\\p{Lu}+", "é{4}"])
def test_an_answer_matches_its_expression(model: dgemma.Model, expression: str) -> None:
    text = answer(model, 30, regex=expression)
    assert re.fullmatch(expression.replace("\\p{Lu}", "[^\\W\\d_a-z]"), text)


def test_an_answer_is_of_its_grammar(model: dgemma.Model) -> None:
    text = answer(model, 40, grammar='start: pair\npair: "(" pair ")" | WORD\nWORD: /[a-z]+/')
    assert re.fullmatch(r"\(*[a-z]+\)*", text) and text.count("(") == text.count(")")


def test_the_twin_without_a_form_does_not_have_it(model: dgemma.Model) -> None:
    with pytest.raises(ValueError):
        json.loads(model.generate("abc", 60).text)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schemas(), st.integers(0, 2**32))
def test_every_reply_validates_300_times(model: dgemma.Model, schema: dict, seed: int) -> None:
    jsonschema.validate(json.loads(answer(model, 400, json_schema=schema, seed=seed)), schema)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schemas(), st.integers(0, 2**32), st.integers(0, 40))
def test_every_reply_validates(model: dgemma.Model, schema: dict, seed: int, room: int) -> None:
    """The shortest way that is known, and some tokens more."""
    need = len(output_constraint("json_schema", schema, model.tokenizer, ENDS).begin().closing() or [])
    jsonschema.validate(json.loads(answer(model, need + room, json_schema=schema, seed=seed)), schema)


def test_a_schema_that_says_nothing_may_be_written_as_true(model: dgemma.Model) -> None:
    assert answer(model, 60, json_schema=True, seed=1) == answer(model, 60, json_schema={}, seed=1)


def test_a_long_way_to_the_end_takes_memory_once() -> None:
    """Remembered at each of its places by what was taken before, these 4,000 tokens took 148 MB."""
    tracemalloc.start()
    walk = output_constraint("regex", "a{4000}b", BYTES, ENDS).begin()
    way = walk.closing()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert way is not None and len(way) > 4000 and peak < 2**24
    walk.take(way[:1500])
    assert walk.closing() == way[1500:] and len(walk.constraint.ways) == 1


def test_what_cannot_be_closed_in_time_is_refused(model: dgemma.Model) -> None:
    with pytest.raises(UsageError, match="cannot be closed within 10 tokens"):
        model.generate("abc", 10, eos_token_id=ENDS, json_schema=PERSON)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "Unsatisfiable"),
        ({"json_schema": {"not": {"type": "null"}}}, "Unimplemented"),
        ({"json_schema": "{"}, "not JSON"),
        ({"json_schema": [1]}, "must be an object"),
        ({"json_schema": False}, "nothing fits"),
        ({"regex": "["}, "regex cannot be kept"),
        ({"regex": "a{20000}"}, "shortest answer that was found takes 20001"),
        ({"regex": ""}, "at least one character"),
        ({"grammar": "start: nothing"}, "grammar cannot be kept"),
        ({"regex": "a", "grammar": 'start: "a"'}, "cannot be asked for together"),
        ({"regex": "a", "min_tokens": 3}, "contradict"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(model: dgemma.Model, asked: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate("abc", 20, eos_token_id=ENDS, **asked)
    with pytest.raises(UsageError, match="end token"):
        model.generate("abc", 20, eos_token_id=None, regex="a")


def test_a_missing_library_is_named_with_its_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"needs the package 'llguidance'.* install .*\[serve\]"):
        output_constraint("regex", "a", BYTES, ENDS)


def test_control_tokens_are_no_text() -> None:
    walk = output_constraint("regex", ".*", BYTES, ENDS).begin()
    allowed = walk.allowed()
    assert {i for i in BYTES.control_ids if allowed[i]} == {*ENDS} and allowed.sum() > 150
    assert walk.take([BYTES.special.need("pad")]) == 0


def test_a_walk_takes_what_is_allowed_and_ends_once() -> None:
    walk = output_constraint("regex", "ab?c", BYTES, ENDS).begin()
    ids = BYTES.encode("axc")
    other = walk.copy()
    assert walk.take(ids) == 1 and other.taken == ()
    assert walk.take(BYTES.encode("c")) == 1 and not walk.ended
    assert walk.forced() == [ENDS[0]] and walk.take([ENDS[1], 3]) == 1 and walk.ended
    assert other.take([ENDS[0]]) == 0


@given(
    st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3),
    st.text("abcd", max_size=12),
    st.integers(0, 5),
)
def test_bans_know_every_way_to_write_a_text(words: list[str], text: str, cut: int) -> None:
    """Token by token, whatever the tokens; the mask says what a step says."""
    tokenizer: Tokenizer = BYTES
    walk = TextBans(words, tokenizer).begin()
    written = b""
    for token in tokenizer.encode(text):
        allowed = bool(walk.allowed()[token])
        bad = any(word.encode() in written + tokenizer.token_bytes(token) for word in words)
        assert allowed == (not bad) == bool(walk.copy().take([token]))
        if bad:
            break
        walk.take([token])
        written += tokenizer.token_bytes(token)


def test_banned_texts_do_not_occur(model: dgemma.Model) -> None:
    plain = model.generate("abc", 60, seed=2).text
    words = sorted({plain[i : i + 2] for i in range(0, 40, 3)} | {plain[5]})
    words = [word for word in words if "\N{REPLACEMENT CHARACTER}" not in word]
    text = model.generate("abc", 60, seed=2, bad_words=words).text
    assert words and not [word for word in words if word in text]


def test_a_form_in_company_is_the_form_alone(model: dgemma.Model) -> None:
    asked = [{"json_schema": PERSON, "seed": 1}, {"seed": 2}, {"regex": "[ab]{5}", "seed": 3}]
    alone = [model.generate("abc", 40, eos_token_id=ENDS, **one).text for one in asked]
    streams = [model.stream("abc", 40, eos_token_id=ENDS, **one) for one in asked]
    last: dict[int, str] = {}
    while streams and any(streams):
        for i, events in enumerate(streams):
            if events is not None and (event := next(events, None)) is not None:
                last[i] = getattr(event, "text", "")
            else:
                streams[i] = None
    assert [last[i] for i in range(3)] == alone
