"""What a request may say of sampling and of the answer's form: our own parameters by their names, and those
that other servers know.

The fields are those of GenerationParams, which also checks their values (docs/parameters.md). What changes
nothing has fallen away before (server/fields.py). Knows no dialect. Trap: a struct that takes parameters is
made when it is decorated, so type checkers know only the fields that are written out in it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import msgspec

from ...config import GenerationParams
from ...config.params import PARAMS, names_in
from ...engine.requests import next_seed
from ...tasks.resolve import response_format_params
from ..jobs import RequestError

S = TypeVar("S", bound=msgspec.Struct)
TYPES = get_type_hints(GenerationParams)
SCHEDULE = tuple(name for name in names_in("schedule") if PARAMS[name].field)
RULES = tuple(name for name in names_in("tokens", "text") if PARAMS[name].field)


def with_params(*groups: str) -> Callable[[type[S]], type[S]]:
    """Give a struct a field for each parameter of some groups that a request may name.

    A field that the struct has already stays as it is.
    """

    def extend(struct: type[S]) -> type[S]:
        written = struct.__struct_fields__
        names = [name for name in names_in(*groups) if PARAMS[name].field and name not in written]
        extended = msgspec.defstruct(
            struct.__name__,
            [(name, _field_type(name), None) for name in names],
            bases=(struct,),
            kw_only=True,
            forbid_unknown_fields=True,
            module=struct.__module__,
            namespace={"__doc__": struct.__doc__},
        )
        return cast(type[S], extended)

    return extend


def _field_type(name: str) -> Any:
    param = PARAMS[name]
    kind = param.json or TYPES[name]
    return Annotated[kind | None, msgspec.Meta(description=param.help)]


@with_params("schedule", "tokens", "text")
class Sampling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields that all dialects of the OpenAI family share."""

    seed: int | None = None
    canvas_width: int | None = None
    stop: str | list[str] | None = None


@with_params("form")
class Formed(Sampling, kw_only=True):
    """The form of an answer, by the names that OpenAI, vLLM and llama-server have for it."""

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_choice: list[str] | None = None


# what asks for a form, of which a body may name one
FORMS = tuple(name for name in Formed.__struct_fields__ if name not in Sampling.__struct_fields__)


def params_of(body: Any) -> dict[str, Any]:
    """The parameters that a body's sampling fields are, by name."""
    values = {name: getattr(body, name, None) for name in (*SCHEDULE, *RULES)}
    return {name: value for name, value in values.items() if value is not None}


def constraint_of(body: Formed) -> dict[str, Any]:
    """The parameter that says what form the answer is to have: none, or one of `json_schema`, `regex` and
    `grammar`.

    Raises RequestError where several fields ask for one.
    """
    by_field = {"response_format": response_format_params(body.response_format)}
    for name in names_in("form"):
        value = getattr(body, name)
        if value is not None:
            by_field[name] = {name: value}
    for name, constraint_from in GUIDED.items():
        value = getattr(body, f"guided_{name}")
        if value is not None:
            by_field[f"guided_{name}"] = constraint_from(value)
    for name, value in (body.structured_outputs or {}).items():
        if value is None:
            continue
        if name not in GUIDED:
            raise unserved(f"structured_outputs.{name:.40}")
        by_field[f"structured_outputs.{name}"] = GUIDED[name](value)
    given = [name for name, constraint in by_field.items() if constraint]
    if len(given) > 1:
        message = f"{' and '.join(given)} cannot be asked for together; choose one"
        raise RequestError(400, message, parameter=given[1])
    if given:
        return by_field[given[0]]
    return {}


def _json_constraint(schema: Any) -> dict[str, Any]:
    return {"json_schema": schema}


def _regex_constraint(pattern: Any) -> dict[str, Any]:
    return {"regex": pattern}


def _grammar_constraint(grammar: Any) -> dict[str, Any]:
    return {"grammar": grammar}


def _choice_constraint(texts: Any) -> dict[str, Any]:
    is_list = isinstance(texts, list) and bool(texts)
    if not is_list or not all(isinstance(text, str) and text for text in texts):
        message = "guided_choice must be a list of texts of at least one character each"
        raise RequestError(400, message, parameter="guided_choice")
    return {"regex": "|".join(map(re.escape, texts))}


# by vLLM's names
GUIDED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "json": _json_constraint,
    "regex": _regex_constraint,
    "grammar": _grammar_constraint,
    "choice": _choice_constraint,
}


def unserved(name: str) -> RequestError:
    return RequestError(400, f"'{name}' is not supported yet; leave it out", parameter=name)


def seeds(seed: int | None, count: int) -> list[int]:
    """One for each of `count` answers; without a seed they are drawn, and told with the answer.

    The first is as it was given: one that is out of range is refused by name, never wrapped into it.
    """
    first = secrets.randbits(62) if seed is None else seed
    return [first, *(next_seed(first, place) for place in range(1, count))]
