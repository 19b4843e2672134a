"""The terms of an answer: what a request asks of its tokens, of its text and of its form, read from settings by name.

What clients send beside a prompt (`stop`, `bad_words`, `top_p`, `json_schema`, ...) becomes Rules, a Grammar and stop strings here, or a
UsageError that names it; what is left are settings of the sampler. docs/sampling.md says what each means on a canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config import DenoiseConfig, Rules
from ..engine.grammar import Grammar
from ..engine.runner import Runner
from ..errors import UsageError
from ..text.stream import StopFinder
from ..text.tokenizer import Tokenizer
from .bans import TextBans
from .called import Called, CallOr, call_asked
from .forms.compiler import ALONE, Asker
from .structured import Form, Turns, at_once, form
from .thoughts import ThoughtFirst

FORMS = ("json_schema", "regex", "grammar")
MOST_STOPS = 16


@dataclass(frozen=True)
class Terms:
    """What is asked of one answer."""

    rules: Rules = Rules()
    grammar: Grammar | None = None
    stop: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what of the form is not kept
    one_call: bool = False  # the answer ends behind its first tool call (`parallel_tool_calls` False)

    @property
    def form(self) -> bool:
        """Whether its form is asked for, which may be nothing at all."""
        return self.grammar is not None and not isinstance(self.grammar, TextBans)

    @classmethod
    def take(
        cls, settings: dict[str, Any], tokenizer: Tokenizer, denoise: DenoiseConfig, thinking: bool = False,
        tools: Sequence[dict[str, Any]] | None = None, engine: Runner | None = None,
    ) -> Terms:  # fmt: skip
        """The terms among a request's settings, which are taken out. denoise: what holds where nothing is given.

        thinking: the answer may begin with a thought; tools: it may be a call, or must be one (`tool_choice`). engine: whose requests wait for
        a form, and take turns with the search for its end.
        """
        rules, stop = Rules.take(settings), settings.pop("stop", None)
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        StopFinder(stops)  # refuses what is no text
        if len(stops) > MOST_STOPS:
            raise UsageError(f"stop holds {len(stops)} texts; at most {MOST_STOPS} are looked for")
        ends = (
            denoise.replace(eos_token_id=settings.get("eos_token_id", denoise.eos_token_id)).eos_token_id
            or ()
        )
        parallel = settings.pop("parallel_tool_calls", None)
        if not isinstance(parallel, bool | None):
            raise UsageError("parallel_tool_calls must be true or false", "parallel_tool_calls")
        asker = ALONE if engine is None else Asker(engine.owner, engine.still_wanted)
        turns = at_once if engine is None else engine.do
        grammar, notes = _grammar(settings, tokenizer, ends, asker, turns)
        asked_form = grammar if isinstance(grammar, Form) else None
        choice = settings.pop("tool_choice", None)
        either = asked_form is not None and bool(tools) and choice in (None, "auto")
        call = call_asked("required" if either else choice, tools, tokenizer, ends, asker, turns)
        if call is not None and asked_form is not None and either:
            grammar, notes = CallOr(call, asked_form), (*notes, *call.notes)
        elif call is not None:
            if grammar is not None and asked_form is None:
                raise UsageError(
                    "a call that is asked for by tool_choice cannot keep bad_words; leave one of the two out"
                )
            grammar, notes = call, call.notes
        if thinking and isinstance(grammar, Form | Called | CallOr):
            grammar = ThoughtFirst(grammar, tokenizer)
        terms = cls(rules, grammar, stops, notes, parallel is False)
        if rules.min_tokens and terms.form:
            raise UsageError(
                "min_tokens and a form of the answer contradict each other; let the form say how long it is"
            )
        return terms


def _grammar(
    settings: dict[str, Any], tokenizer: Tokenizer, ends: Sequence[int], asker: Asker, turns: Turns
) -> tuple[Grammar | None, tuple[str, ...]]:
    """What an answer may be, and notes of what is not kept."""
    words = settings.pop("bad_words", None)
    forms = {name: value for name in FORMS if (value := settings.pop(name, None)) is not None}
    if len(forms) + bool(words) > 1:
        raise UsageError(
            f"{' and '.join([*forms, *['bad_words'] * bool(words)])} cannot be asked for together; choose one"
        )
    for name, value in forms.items():
        found = form(name, value, tokenizer, ends, asker, turns)
        return found, found.notes
    return TextBans(words, tokenizer) if words else None, ()


def form_asked(response_format: Any) -> dict[str, Any]:
    """OpenAI's `response_format` as a setting by name. Raises UsageError for a type that is not known."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if response_format is None or kind == "text":
        return {}
    if kind == "json_object":
        schema = response_format.get("schema")
        if schema is not None and not isinstance(schema, dict | bool):
            raise UsageError("response_format's schema must be an object")
        return {"json_schema": {"type": "object"} if schema in (None, True) else schema}
    inner = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inner, dict) or not isinstance(schema := inner.get("schema", inner), dict):
        raise UsageError("response_format must be of type text, json_object, or json_schema with a schema")
    return {"json_schema": schema}
