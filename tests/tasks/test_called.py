"""`tool_choice`: whatever model writes it, the answer is one call of a tool that was asked for, with arguments of its schema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

import dgemma
from dgemma.errors import UsageError
from dgemma.tasks.called import required_call
from tests.helpers import byte_tokenizer, tiny_checkpoint

PLACE = {
    "type": "object", "additionalProperties": False, "required": ["at", "list"],
    "properties": {"at": {"type": "string", "maxLength": 6}, "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": name, "parameters": PLACE}} for name in ("go.to", "look")]
ASKED = [{"role": "user", "content": "hi"}]
LOOK = {"type": "function", "function": {"name": "look"}}
BYTES = byte_tokenizer()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    return dgemma.load(
        tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=2048),
        dtype="float64",
    )


@pytest.mark.parametrize(("choice", "names"), [("required", {"go.to", "look"}), (LOOK, {"look"})])
@pytest.mark.parametrize("thinking", [False, True])
def test_the_answer_is_one_call_of_its_schema(
    model: dgemma.Model, choice: Any, names: set[str], thinking: bool
) -> None:
    for seed in range(3):
        for most in (40, 90):
            got = model.chat(ASKED, most, seed=seed, tools=TOOLS, tool_choice=choice, thinking=thinking)
            (call,) = got.tool_calls
            assert (
                call.name in names
                and not got.content
                and not got.malformed
                and len(got.generation.token_ids) <= most
            )
            jsonschema.validate(call.arguments, PLACE)


def test_the_twin_that_is_free_does_not_call(model: dgemma.Model) -> None:
    for choice in (None, "auto", "none"):
        assert not model.chat(ASKED, 40, seed=1, tools=TOOLS, tool_choice=choice).tool_calls


def test_with_none_the_model_is_told_of_no_tool(model: dgemma.Model) -> None:
    plain, told = model.chat(ASKED, 12, seed=1), model.chat(ASKED, 12, seed=1, tools=TOOLS)
    without = model.chat(ASKED, 12, seed=1, tools=TOOLS, tool_choice="none")
    assert (
        without.generation.token_ids == plain.generation.token_ids
        and without.generation.prompt_tokens == plain.generation.prompt_tokens
    )
    assert told.generation.prompt_tokens > plain.generation.prompt_tokens
    assert (
        model.chat(ASKED, 12, seed=1, tools=TOOLS, tool_choice="none", regex="a{2}").content == "aa"
    )  # a form has no tools beside it


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tools": None, "tool_choice": "required"}, "none of that name"), ({"tool_choice": "yes"}, "tool_choice must be"),
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "none of that name"),
        ({"tool_choice": LOOK, "bad_words": ["a"]}, "bad_words"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(model: dgemma.Model, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.chat(ASKED, 40, **{"tools": TOOLS} | more)


def test_a_walk_opens_closes_and_ends_once() -> None:
    special, called = BYTES.special, required_call(LOOK, TOOLS, BYTES, (1, 4))
    assert called is not None
    walk, text = called.begin(), BYTES.encode('call:look{"at":"x","list":[]}')
    assert walk.take(text) == 0 and walk.forced() == [special.tool_call] and walk.allowed().sum() == 1
    whole = [special.need("tool_call"), *text, special.need("end_tool_call"), 4]
    other = walk.copy()
    assert walk.take([*whole, 3]) == len(whole) and walk.ended and walk.closing() == []
    assert (
        not other.ended
        and other.take([*whole[:-1], 3]) == len(whole) - 1
        and other.forced() == [1]
        and other.allowed().sum() == 2
    )
    way = called.begin().closing()
    assert way is not None and called.begin().take(way) == len(way)
