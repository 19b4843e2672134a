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
from ..errors import UsageError
from ..text.stream import StopFinder
from ..text.tokenizer import Tokenizer
from .bans import TextBans
from .called import call_asked
from .structured import form
from .thoughts import ThoughtFirst

FORMS = ("json_schema", "regex", "grammar")
MOST_STOPS = 16


@dataclass(frozen=True)
class Terms:
    """What is asked of one answer."""

    rules: Rules = Rules()
    grammar: Grammar | None = None
    stop: tuple[str, ...] = ()

    @property
    def form(self) -> bool:
        """Whether its form is asked for, which may be nothing at all."""
        return self.grammar is not None and not isinstance(self.grammar, TextBans)

    @classmethod
    def take(
        cls, settings: dict[str, Any], tokenizer: Tokenizer, denoise: DenoiseConfig, thinking: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> Terms:  # fmt: skip
        """The terms among a request's settings, which are taken out. denoise: what holds where nothing is given.

        thinking: the answer may begin with a thought; tools: it may be a call, or must be one (`tool_choice`).
        """
        rules, stop = Rules.take(settings), settings.pop("stop", None)
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        StopFinder(stops)  # refuses what is no text
        if len(stops) > MOST_STOPS:
            raise UsageError(f"stop holds {len(stops)} texts; at most {MOST_STOPS} are looked for")
        ends = denoise.replace(eos_token_id=settings.get("eos_token_id", denoise.eos_token_id)).eos_token_id or ()
        grammar = _grammar(settings, tokenizer, ends, thinking)
        terms = cls(rules, grammar, stops)
        if rules.min_tokens and terms.form:
            raise UsageError("min_tokens and a form of the answer contradict each other; let the form say how long it is")
        if tools and terms.form:
            raise UsageError("tools and a form of the answer cannot be asked for together; leave one of the two out")
        if call := call_asked(settings.pop("tool_choice", None), tools, tokenizer, ends):
            if grammar:
                raise UsageError("a call that is asked for by tool_choice cannot keep bad_words; leave one of the two out")
            return cls(rules, ThoughtFirst(call, tokenizer) if thinking else call, stops)
        return terms


def _grammar(settings: dict[str, Any], tokenizer: Tokenizer, ends: Sequence[int], thinking: bool) -> Grammar | None:
    words = settings.pop("bad_words", None)
    forms = {name: value for name in FORMS if (value := settings.pop(name, None)) is not None}
    if len(forms) + bool(words) > 1:
        raise UsageError(f"{' and '.join([*forms, *['bad_words'] * bool(words)])} cannot be asked for together; choose one")
    for name, value in forms.items():
        found = form(name, value, tokenizer, ends)
        return ThoughtFirst(found, tokenizer) if thinking else found
    return TextBans(words, tokenizer) if words else None


def form_asked(response_format: Any) -> dict[str, Any]:
    """OpenAI's `response_format` as a setting by name. Raises UsageError for a type that is not known."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if response_format is None or kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    inner = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inner, dict) or not isinstance(schema := inner.get("schema", inner), dict):
        raise UsageError("response_format must be of type text, json_object, or json_schema with a schema")
    return {"json_schema": schema}
