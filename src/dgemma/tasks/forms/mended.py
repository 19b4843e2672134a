"""What a schema says beside its form, taken out before it is kept; and patterns with a look ahead, written
without one.

Remarks (an unknown `format`, a title, an example) are not the answer's form. `uniqueItems` cannot be kept by
a grammar. Both go, the latter with a note, and the same for a look-ahead that has no other spelling. What is
left means what it meant.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ...errors import UsageError
from .formats import FORMATS

REMARKS = ("title", "description", "default", "examples", "$comment", "readOnly", "writeOnly", "deprecated")
ONE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "not",
    "contains",
    "propertyNames",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
SEVERAL = ("prefixItems", "items", "allOf", "anyOf", "oneOf")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
MOST_NESTED = 200
LARGEST = 1.7976931348623157e308
CLASS = r"\[(?:\\.|[^\]\\])+\]"


def mended(schema: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """A schema without remarks, and notes of what is not kept. `name`: what errors call it. Raises
    UsageError.
    """
    notes: dict[str, None] = {}
    made = _mend(schema, name, notes, 0)
    _check_numbers(made, name, 0)
    return made, tuple(notes)


def _mend(schema: Any, name: str, notes: dict[str, None], depth: int) -> Any:
    if depth > MOST_NESTED:
        raise UsageError(f"{name} is nested more than {MOST_NESTED} deep")
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in NAMED and isinstance(value, dict):
            made[key] = {one: _mend(inner, name, notes, depth + 1) for one, inner in value.items()}
        elif key in SEVERAL and isinstance(value, list):
            made[key] = [_mend(inner, name, notes, depth + 1) for inner in value]
        elif key in ONE:
            made[key] = _mend(value, name, notes, depth + 1)
        elif key == "uniqueItems" and isinstance(value, bool):
            if value:
                notes["uniqueItems is not kept: an answer may name an item twice"] = None
        elif key == "format" and isinstance(value, str) and value not in FORMATS:
            if _may_be_text(schema):
                notes[f"the format '{value:.40}' is a remark and is not kept"] = None
        elif key not in REMARKS:
            made[key] = value
    return _without_look_ahead(made, notes)


def _may_be_text(schema: dict[str, Any]) -> bool:
    kinds = schema.get("type", "string")
    return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)


def _without_look_ahead(schema: dict[str, Any], notes: dict[str, None]) -> dict[str, Any]:
    """What a pattern looks ahead for is a pattern of its own beside it."""
    pattern = schema.get("pattern")
    if not isinstance(pattern, str) or not re.search(r"\(\?<?[=!]", pattern):
        return schema
    patterns, dropped = look_ahead_apart(pattern)
    if dropped:
        notes["the look-around of a pattern is not kept"] = None
    first, *others = patterns or [""]
    made = {key: value for key, value in schema.items() if key != "pattern"}
    if first:
        made["pattern"] = first
    if others:
        made["allOf"] = [*made.get("allOf", []), *({"pattern": one} for one in others)]
    return made


def look_ahead_apart(pattern: str) -> tuple[list[str], bool]:
    """Patterns that all hold where this one does, without its look-aheads, and whether one of these was lost.

    `^(?=A)B` is `^A` and `^B`. `^(?!^[...]*$)B` is `^B` and a character outside of the class.
    """
    patterns: list[str] = []
    dropped = False
    rest = pattern
    while rest.startswith(("^(?=", "^(?!")):
        inner = _group(rest[1:])
        if inner is None:
            return [], True
        text = inner[3:-1]
        rest = "^" + rest[1 + len(inner) :]
        if inner.startswith("(?="):
            patterns.append("^(?:" + text.removeprefix("^") + ")")
        elif match := re.fullmatch(rf"\^?({CLASS})[*+]\$", text):
            patterns.append(_inverse(match[1]))
        else:
            dropped = True
    if re.search(r"\(\?<?[=!]", rest):
        return [one for one in patterns if not re.search(r"\(\?<?[=!]", one)], True
    return [rest, *patterns], dropped


def _group(text: str) -> str | None:
    """The group that a text begins with."""
    depth = 0
    in_class = False
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif in_class:
            in_class = letter != "]"
        elif letter == "[":
            in_class = True
        elif letter == "(":
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                return text[: place + 1]
        place += 1
    return None


def _inverse(characters: str) -> str:
    if characters.startswith("[^"):
        return "[" + characters[2:]
    return "[^" + characters[1:]


def _check_numbers(value: Any, name: str, depth: int) -> None:
    if depth > 2 * MOST_NESTED:
        raise UsageError(f"{name} is nested too deeply")
    if isinstance(value, dict):
        for inner in value.values():
            _check_numbers(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner, name, depth + 1)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise UsageError(f"{name} holds a number beyond 1.8e308, which no JSON reader keeps")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} holds a number that is not finite")


def schema_of(value: Any, name: str) -> Any:
    """A schema from itself or from its JSON. Raises UsageError."""
    try:
        schema = value
        if isinstance(value, str):
            schema = json.loads(value)
    except (ValueError, RecursionError):
        raise UsageError(f"{name} is not JSON") from None
    if not isinstance(schema, dict | bool):
        raise UsageError(f"{name} must be an object")
    if schema is False:
        raise UsageError(f"{name} is false, which nothing fits")
    if schema is True:
        return {}
    return schema
