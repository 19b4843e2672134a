"""What a request's parameters ask of an answer's text and form, made ready for the engine.

`stop`, `bad_words`, `json_schema`, `tool_choice` and their like become stop strings and one Grammar here, or
a UsageError that names what cannot be kept together. docs/sampling.md says what each means on a canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config import NO_RULES, DenoiseConfig, GenerationParams, TokenRules
from ..config.params import names_in
from ..engine.grammar import Grammar
from ..engine.runner import Runner
from ..errors import UsageError
from ..text.stream import StopFinder
from ..text.tokenizer import Tokenizer
from .bans import TextBans
from .called import Called, CallOr, required_call
from .forms.compiler import ALONE, Asker
from .structured import OutputConstraint, Turns, at_once, output_constraint
from .thoughts import ThoughtFirst

MOST_STOPS = 16


@dataclass(frozen=True)
class Tools:
    """What a chat says of calls: its tools, which of them must be called, and whether several may be."""

    tools: Sequence[dict[str, Any]] = ()
    choice: Any = None  # OpenAI's `tool_choice`
    parallel: bool | None = None  # False: the answer ends behind its first call

    def __post_init__(self) -> None:
        if not isinstance(self.parallel, bool | None):
            raise UsageError("parallel_tool_calls must be true or false", "parallel_tool_calls")


NO_TOOLS = Tools()


@dataclass(frozen=True)
class ResolvedParams:
    """What must hold of one answer, compiled."""

    rules: TokenRules = NO_RULES
    grammar: Grammar | None = None
    stop: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what of the form is not kept
    one_call: bool = False  # the answer ends behind its first tool call

    @property
    def is_constrained(self) -> bool:
        """Whether the answer has a form to keep, of which the shortest text may be empty."""
        return self.grammar is not None and not isinstance(self.grammar, TextBans)


def resolve_params(
    params: GenerationParams,
    tokenizer: Tokenizer,
    checkpoint: DenoiseConfig,
    *,
    thinking: bool = False,
    tools: Tools = NO_TOOLS,
    engine: Runner | None = None,
) -> ResolvedParams:
    """The parameters of a request, compiled. checkpoint: what holds where nothing is given.

    thinking: the answer may begin with a thought. engine: its requests wait for the compiler, and take turns
    with the search for the end of a form. Raises UsageError for what cannot be kept.
    """
    stops = _stops(params)
    ends = params.schedule(checkpoint).eos_token_id or ()
    compiler = _Compiler(tokenizer, ends, engine)
    grammar, notes = compiler.grammar(params, tools)
    if thinking and isinstance(grammar, OutputConstraint | Called | CallOr):
        grammar = ThoughtFirst(grammar, tokenizer)
    resolved = ResolvedParams(params.token_rules, grammar, stops, notes, tools.parallel is False)
    if params.min_tokens and resolved.is_constrained:
        raise UsageError(
            "min_tokens and a form of the answer contradict each other; let the form say how long it is"
        )
    return resolved


def _stops(params: GenerationParams) -> tuple[str, ...]:
    stops = tuple(params.stop)
    if isinstance(params.stop, str):
        stops = (params.stop,)
    StopFinder(stops)  # refuses what is no text
    if len(stops) > MOST_STOPS:
        raise UsageError(f"stop holds {len(stops)} texts; at most {MOST_STOPS} are looked for")
    return stops


class _Compiler:
    """Makes the one Grammar of an answer, which ends with one of `ends`."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int], engine: Runner | None):
        self.tokenizer = tokenizer
        self.ends = ends
        self.asker = ALONE
        self.turns: Turns = at_once
        if engine is not None:
            self.asker = Asker(engine.owner, engine.still_wanted)
            self.turns = engine.do

    def grammar(self, params: GenerationParams, tools: Tools) -> tuple[Grammar | None, tuple[str, ...]]:
        """What an answer may be, and notes of what is not kept."""
        grammar = self._constraint(params)
        constraint = None
        if isinstance(grammar, OutputConstraint):
            constraint = grammar
        is_either = constraint is not None and bool(tools.tools) and tools.choice in (None, "auto")
        call = self._call("required" if is_either else tools.choice, tools.tools)
        if call is None:
            return grammar, constraint.notes if constraint is not None else ()
        if constraint is not None and is_either:
            return CallOr(call, constraint), (*constraint.notes, *call.notes)
        if grammar is not None and constraint is None:
            raise UsageError(
                "a call that is asked for by tool_choice cannot keep bad_words; leave one of the two out"
            )
        return call, call.notes

    def _constraint(self, params: GenerationParams) -> OutputConstraint | TextBans | None:
        values = {name: getattr(params, name) for name in names_in("form")}
        given = [name for name, value in values.items() if value is not None]
        exclusive = given
        if params.bad_words:
            exclusive = [*given, "bad_words"]
        if len(exclusive) > 1:
            raise UsageError(f"{' and '.join(exclusive)} cannot be asked for together; choose one")
        if params.bad_words:
            return TextBans(params.bad_words, self.tokenizer)
        if not given:
            return None
        name = given[0]
        return output_constraint(name, values[name], self.tokenizer, self.ends, self.asker, self.turns)

    def _call(self, choice: Any, tools: Sequence[dict[str, Any]]) -> Called | None:
        return required_call(choice, tools, self.tokenizer, self.ends, self.asker, self.turns)


def response_format_params(response_format: Any) -> dict[str, Any]:
    """OpenAI's `response_format` as a parameter by name. Raises UsageError for a type that is not known."""
    kind = None
    if isinstance(response_format, dict):
        kind = response_format.get("type")
    if response_format is None or kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": _object_schema(response_format.get("schema"))}
    described = None
    if kind == "json_schema":
        described = response_format.get("json_schema")
    schema = None
    if isinstance(described, dict):
        schema = described.get("schema", described)
    if not isinstance(schema, dict):
        raise UsageError("response_format must be of type text, json_object, or json_schema with a schema")
    return {"json_schema": schema}


def _object_schema(schema: Any) -> Any:
    """The schema of a `json_object`: any object where it has none."""
    if schema is None or schema is True:
        return {"type": "object"}
    if not isinstance(schema, dict | bool):
        raise UsageError("response_format's schema must be an object")
    return schema
