"""Forms that servers were seen to fail at: each is kept, in the room that clients give it, whatever is drawn;
and what is not kept is told.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import pytest
import torch

from dgemma.config import DenoiseConfig, GenerationParams
from dgemma.engine.grammar import Grammar, project
from dgemma.errors import ResourceError, UsageError
from dgemma.tasks.called import Called, CallOr
from dgemma.tasks.forms import compiler
from dgemma.tasks.forms.compiler import Asker, Compiler
from dgemma.tasks.resolve import ResolvedParams, Tools, resolve_params, response_format_params
from dgemma.tasks.structured import output_constraint
from dgemma.text.tokenizer import Tokenizer
from tests.helpers import byte_tokenizer

ENDS = (1, 4)
TOKENS: Tokenizer = byte_tokenizer([("a", "b"), ("f", "o"), ("fo", "o"), ("1", ","), ('"', ":"), ("a", "a")])
WIDTH = 32
MULTIPLE = {"type": "integer", "multipleOf": 2**31}  # the library never comes to its end


def text_under(grammar: Grammar, max_tokens: int, seed: int = 0, tokenizer: Tokenizer = TOKENS) -> str:
    """An answer of random logits, canvas by canvas; the control tokens in it are left out."""
    noise = torch.Generator().manual_seed(seed)
    walk, ids = grammar.begin(), []
    while not walk.ended:
        left = max_tokens - len(ids)
        assert left > 0, "not closed in time"
        rows = torch.randn(min(WIDTH, left), tokenizer.vocab_size, generator=noise)
        project(walk, rows, left, ENDS, 0)
        taken = rows.argmax(-1).tolist()
        count = walk.take(taken)
        assert walk.ended or count == len(taken), "a canvas left its form"
        ids += taken[:count]
    return b"".join(
        b"" if token in tokenizer.control_ids else tokenizer.token_bytes(token) for token in ids
    ).decode()


def schema(kind: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": kind},
        "required": ["a"],
        "additionalProperties": False,
    } | more


def fits(value: dict[str, Any]) -> Callable[[str], Any]:
    return lambda text: jsonschema.validate(
        json.loads(text), value, format_checker=jsonschema.FormatChecker()
    )


def matches(pattern: str) -> Callable[[str], Any]:
    return lambda text: re.fullmatch(pattern, text) or pytest.fail(text)


def schema_case(value: dict[str, Any], room: int) -> tuple[dict[str, Any], int, Callable[[str], Any]]:
    return {"json_schema": value}, room, fits(value)


REMARKS = ("password", "decimal", "regex", "json-pointer", "idn-email")
CASES = [
    schema_case(schema({"type": "string", "format": "email"}), 40),
    schema_case(schema({"type": "string", "pattern": "foo"}), 64),
    schema_case(schema({"type": "string", "pattern": "^.*foo.*$"}), 64),
    schema_case(schema({"type": "string", "pattern": "end$"}), 64),
    schema_case(schema({"type": "array", "items": {"type": "integer"}, "minItems": 20}), 256),
    ({"regex": "<answer>.*</answer>"}, 64, matches("<answer>.*</answer>")),
    schema_case(schema({"type": "string", "pattern": "\\.py$"}), 64),
    schema_case({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2}, 96),
    ({"regex": "Thought: [^\\n]*\\nAction: (a|b)\\n"}, 64, matches("Thought: [^\\n]*\\nAction: [ab]\\n")),
    ({"regex": "```[a-z]*\\n(.|\\n)*\\n```"}, 64, matches("(?s)```[a-z]*\\n.*\\n```")),
    schema_case(schema({"type": "string", "pattern": "^\\S+@\\S+$"}), 64),
    *(
        ({"json_schema": schema({"type": "string", "format": name})}, 80, fits(schema({"type": "string"})))
        for name in REMARKS
    ),
    schema_case(schema({"type": "array", "items": {"type": "integer"}, "uniqueItems": False}), 64),
    ({"json_schema": schema({"type": "array", "items": {}, "uniqueItems": True})}, 64, json.loads),
    schema_case(
        schema(
            {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]}
        ),
        64,
    ),
    schema_case(schema({"type": "string", "pattern": r"^(?=.*[A-Z])(?=.*\d).{8,}$"}), 64),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("asked", "room", "check"),
    CASES,
    ids=lambda value: json.dumps(value)[:70] if isinstance(value, dict) else "",
)
def test_a_form_is_kept_in_the_room_it_has(
    asked: dict[str, Any], room: int, check: Callable[[str], Any], seed: int
) -> None:
    name, value = next(iter(asked.items()))
    made = output_constraint(name, value, TOKENS, ENDS)
    check(text_under(made, room, seed))
    check(text_under(made, len(made.begin().closing() or ()), seed))  # in the least room that is known


def resolved(settings: dict[str, Any], tools: Sequence[dict[str, Any]] | None = None) -> ResolvedParams:
    choice = settings.pop("tool_choice", None)
    params = GenerationParams().replace(**settings)
    checkpoint = DenoiseConfig(eos_token_id=ENDS)
    return resolve_params(params, TOKENS, checkpoint, tools=Tools(tools or (), choice))


def test_what_is_not_kept_is_told() -> None:
    value = schema({"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "password"}})
    notes = resolved({"json_schema": value}).notes
    assert len(notes) == 2 and "uniqueItems" in notes[0] and "password" in notes[1]
    assert resolved({"json_schema": schema({"type": "string", "format": "date"})}).notes == ()
    assert (
        "anyOf"
        in resolved(
            {"json_schema": {"oneOf": [schema({"type": "integer"}), schema({"type": "number"})]}}
        ).notes[0]
    )


def test_a_schema_beside_json_object_is_kept() -> None:
    value = schema({"type": "integer"})
    asked = response_format_params({"type": "json_object", "schema": value})
    fits(value)(text_under(output_constraint("json_schema", asked["json_schema"], TOKENS, ENDS), 40))
    assert (
        response_format_params({"type": "json_object"})
        == response_format_params({"type": "json_object", "schema": None})
        == {"json_schema": {"type": "object"}}
    )
    with pytest.raises(UsageError, match="schema"):
        response_format_params({"type": "json_object", "schema": "x"})


EITHER = {
    "oneOf": [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
    ]
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": EITHER}}]


@pytest.mark.parametrize("seed", range(3))
def test_parameters_may_be_one_of_several_schemas(seed: int) -> None:
    called = resolved({"tool_choice": "required"}, TOOLS)
    assert isinstance(called.grammar, Called) and "oneOf" in called.notes[0]
    text = text_under(called.grammar, 90, seed)
    arguments = json.loads(text.removeprefix("call:look"))
    assert "a" in arguments or "b" in arguments


def test_beside_tools_an_answer_is_a_call_or_has_the_form() -> None:
    value = schema({"type": "integer"})
    grammar = resolved({"json_schema": value}, TOOLS).grammar
    assert isinstance(grammar, CallOr)
    opening = TOKENS.special.need("tool_call")
    allowed = grammar.begin().allowed()
    assert {i for i in range(len(allowed)) if allowed[i]} == {opening, *TOKENS.encode("{")}
    call, answer = grammar.begin(), grammar.begin()
    assert (
        call.take([opening]) == 1
        and TOKENS.decode(call.forced()).startswith("call:look{")
        and answer.take(TOKENS.encode('{"a":1')) > 1
    )
    for walk in (call, answer, grammar.begin()):
        way = walk.closing()
        assert way is not None and walk.copy().take(way) == len(way)
    assert isinstance(resolved({"json_schema": value, "tool_choice": "required"}, TOOLS).grammar, Called)


def test_errors_hold_nothing_of_the_engine() -> None:
    tools = [
        {
            "type": "function",
            "function": {"name": "look", "parameters": {"properties": {"a": {"not": {"const": "canary"}}}}},
        }
    ]
    for settings, given in (
        ({"json_schema": {"not": {"const": "canary"}}}, None),
        ({"regex": "(canary"}, None),
        ({"tool_choice": "required"}, tools),
    ):
        with pytest.raises(UsageError) as raised:
            resolved(settings, given)
        assert not any(
            word in str(raised.value)
            for word in ("<state>", "<grammar>", "lark", "given0", "traceback", "\n")
        )


def test_a_contradiction_is_said_to_be_one() -> None:
    with pytest.raises(UsageError, match="(?i)unsatisfiable|contradicts itself|cannot be kept"):
        output_constraint("json_schema", {"type": "string", "pattern": "^a$", "minLength": 3}, TOKENS, ENDS)


@pytest.fixture
def fresh() -> Any:
    pieces = [b"" if i in TOKENS.control_ids else TOKENS.token_bytes(i) for i in range(TOKENS.vocab_size)]
    made = Compiler(pieces, sorted(TOKENS.control_ids), 1, None)
    yield made
    made.close()


def source(value: dict[str, Any]) -> str:
    import llguidance

    return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(value))


@pytest.mark.skipif(compiler.sys.platform == "win32", reason="a limit of the processor's time")
def test_what_never_compiles_ends_its_child_and_nothing_else(fresh: Compiler) -> None:
    fresh.check(source({"type": "integer"}), "json_schema", Asker())
    child = fresh._child
    assert child is not None and child.alive
    for _ in range(2):  # the second time it is known
        with pytest.raises(UsageError, match="2 seconds"):
            fresh.check(source(MULTIPLE), "json_schema", Asker())
    assert not child.alive
    assert fresh.check(source({"type": "string"}), "json_schema", Asker()).warnings == ()


def test_who_leaves_is_not_compiled_for(fresh: Compiler) -> None:
    fresh.check(source({"type": "integer"}), "json_schema", Asker())
    child, begun = fresh._child, time.monotonic()

    class Gone(Exception):
        pass

    def still_wanted() -> None:
        if time.monotonic() > begun + 0.2:
            raise Gone

    with pytest.raises(Gone):
        fresh.check(source(MULTIPLE), "json_schema", Asker("x", still_wanted))
    assert child is not None and not child.alive
    assert fresh.check(source({"type": "null"}), "json_schema", Asker()).warnings == ()


def test_a_client_whose_forms_cost_much_waits_and_others_do_not(
    fresh: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "MOST_A_MINUTE", 0.0)
    fresh._charge("client x", 9.0)
    with pytest.raises(ResourceError, match="last minute"):
        fresh.check(source({"type": "integer"}), "json_schema", Asker("client x"))
    assert fresh.check(source({"type": "integer"}), "json_schema", Asker("client y"))
    assert fresh.check(
        source({"type": "integer"}), "json_schema", Asker("client x")
    )  # it is compiled already
