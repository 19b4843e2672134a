"""What a request may say of sampling and of the answer's form: our own settings by their names, and those that other servers know.

api.Model takes them by name (docs/sampling.md says what each means), and checks them. Here are only the names, of settings and of a
form; values that change nothing have fallen away before (server/fields.py). Knows no dialect.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec

from ...tasks.terms import form_asked
from ..jobs import Refusal

OWN = (
    "preset", "max_denoising_steps", "t_min", "t_max", "entropy_bound", "stability_threshold", "confidence_threshold",
    "canvas_width", "ignore_after_end",
)  # fmt: skip

# What is asked of an answer's tokens and text, by the names that api.Model has for it too.
RULES = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "bad_words",
    "min_tokens", "stop",
)  # fmt: skip


class Sampling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields that all dialects of the OpenAI family share."""

    seed: int | None = None
    preset: str | None = None
    max_denoising_steps: int | None = None
    t_min: float | None = None
    t_max: float | None = None
    entropy_bound: float | None = None
    stability_threshold: int | None = None
    confidence_threshold: float | None = None
    canvas_width: int | None = None
    ignore_after_end: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None


class Formed(Sampling, kw_only=True):
    """The form of an answer, by the names that OpenAI, vLLM and llama-server have for it."""

    response_format: dict[str, Any] | None = None
    json_schema: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    grammar: str | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_choice: list[str] | None = None


def settings(body: Any) -> dict[str, Any]:
    """The keyword arguments that a body's sampling fields are for api.Model."""
    return {name: value for name in (*OWN, *RULES) if (value := getattr(body, name, None)) is not None}


def form(body: Formed) -> dict[str, Any]:
    """The same of the form that is asked for: none, or one of api.Model's `json_schema`, `regex` and `grammar`."""
    asked = {"response_format": form_asked(body.response_format)}
    asked |= {
        name: {name: value}
        for name in ("json_schema", "regex", "grammar")
        if (value := getattr(body, name)) is not None
    }
    guided = {name: value for name in GUIDED if (value := getattr(body, f"guided_{name}")) is not None}
    asked |= {f"guided_{name}": GUIDED[name](value) for name, value in guided.items()}
    for name, value in (body.structured_outputs or {}).items():
        if value is not None and name not in GUIDED:
            raise unserved(f"structured_outputs.{name:.40}")
        if value is not None:
            asked[f"structured_outputs.{name}"] = GUIDED[name](value)
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        raise Refusal(
            400, f"{' and '.join(given)} cannot be asked for together; choose one", parameter=given[1]
        )
    return asked[given[0]] if given else {}


def _choice(texts: Any) -> dict[str, Any]:
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise Refusal(
            400,
            "guided_choice must be a list of texts of at least one character each",
            parameter="guided_choice",
        )
    return {"regex": "|".join(map(re.escape, texts))}


# vLLM's names
GUIDED = {
    "json": lambda value: {"json_schema": value}, "regex": lambda value: {"regex": value},
    "grammar": lambda value: {"grammar": value}, "choice": _choice,
}  # fmt: skip


def unserved(name: str) -> Refusal:
    return Refusal(400, f"'{name}' is not supported yet; leave it out", parameter=name)


def seeds(seed: int | None, count: int) -> list[int]:
    """One for each of `count` answers; without a seed they are drawn, and told with the answer."""
    first = secrets.randbits(62) if seed is None else seed
    return [first + place for place in range(count)]
