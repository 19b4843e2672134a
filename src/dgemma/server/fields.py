"""A body's bytes as JSON, and its fields as the struct of a route: laxer than both, where the meaning is
plain.

Clients send what their own servers ignore. Here, once for every route, null and neutral fields fall away
(config/neutral.py), a whole float stands for its integer, and half a character, which JavaScript leaves
where it cuts an emoji, is read as U+FFFD. Trap: JSON escapes are text like any other to whoever searches
the bytes; a backslash that is escaped itself begins none.
"""

from __future__ import annotations

import functools
import re
import types
import typing
from typing import Any

import msgspec

from ..config.neutral import effective, whole_number
from .jobs import RequestError

CONTAINERS = (dict, list)  # a union made for each value would take five times as long
ESCAPES = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u[dD][89a-fA-F]..|.)", re.DOTALL)
HALF = re.compile(rb"\\u[dD][89a-fA-F]..", re.DOTALL)
ENCODED_HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")  # in UTF-8 nothing valid begins so


def decode(body: bytes, kind: type[Any], max_depth: int) -> Any:
    """A body as the struct of its route.

    Raises RequestError 400 that names the field, never what stands in it.
    """
    try:
        raw = parse(body)
    except RecursionError:
        raise RequestError(400, f"the body is nested more than {max_depth} deep") from None
    except (msgspec.DecodeError, ValueError):
        raise RequestError(400, "the body is not JSON in UTF-8") from None
    if not isinstance(raw, dict):
        raise RequestError(400, "the body must be a JSON object")
    _check_depth(raw, max_depth)
    try:
        return as_struct(raw, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def _invalid(message: str) -> RequestError:
    """What to tell of a validation error, whose message may quote what was sent."""
    if message.startswith("Object contains unknown field"):
        name = message.split("`")[1][:64]
        return RequestError(400, f"'{name}' is not supported here", parameter=name)
    parameter = None
    if "`" in message:  # the path stands last: Expected `int`, got `str` - at `$.seed`
        parameter = message.rpartition("`")[0].rpartition("`")[2].removeprefix("$.")
    if message.startswith("Invalid enum value"):
        place = message.rfind(" - at")
        message = "Invalid value" + (message[place:] if place >= 0 else "")
    return RequestError(400, message, parameter=parameter)


def _check_depth(raw: Any, most: int) -> None:
    level = [raw]
    for _ in range(most):
        values = (value.values() if isinstance(value, dict) else value for value in level)
        level = [inner for inside in values for inner in inside if isinstance(inner, CONTAINERS)]
        if not level:
            return
    raise RequestError(400, f"the body is nested more than {most} deep")


def parse(body: bytes) -> Any:
    """The JSON value of a body. Raises msgspec.DecodeError, ValueError or RecursionError."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        mended = without_halves(body)
        if mended == body:
            raise
        return msgspec.json.decode(mended)


def without_halves(body: bytes) -> bytes:
    """JSON text with U+FFFD for each half of a surrogate pair that stands alone, escaped or encoded."""
    encoded = ENCODED_HALF.sub("\ufffd".encode(), body)
    return ESCAPES.sub(_whole_character, encoded)


def _whole_character(escape: re.Match[bytes]) -> bytes:
    if HALF.fullmatch(escape[0]):
        return b"\\ufffd"
    return escape[0]


def as_struct(raw: dict[str, Any], kind: type[Any]) -> Any:
    """The fields as a struct. Raises msgspec.ValidationError that names the first one that does not fit."""
    fields = _effective(raw, kind)
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        return msgspec.convert(_whole(fields, kind), kind)


def _effective(raw: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Without fields that change nothing, also of structs inside."""
    served = _types(kind)
    fields = effective(raw, served)
    for name, value in fields.items():
        inner = _struct(served.get(name))
        if inner is not None and isinstance(value, dict):
            fields[name] = _effective(value, inner)
    return fields


def _whole(value: Any, kind: Any) -> Any:
    """A value of some type, whole floats made integers where the type has integers and no floats."""
    options = _options(kind)
    if isinstance(value, float) and int in options and float not in options:
        return whole_number(value)
    if isinstance(value, list):
        member = _member(options)
        if member is None:
            return value
        return [_whole(one, member) for one in value]
    inner = _struct(kind)
    if inner is not None and isinstance(value, dict):
        known = _types(inner)
        return {name: _whole(one, known[name]) if name in known else one for name, one in value.items()}
    return value


def _member(options: tuple[Any, ...]) -> Any:
    """The type of a list's members, where some of the types are lists; else None."""
    members: list[Any] = []
    for option in options:
        if typing.get_origin(option) is list:
            members += typing.get_args(option)
    if members:
        return typing.Union[tuple(members)]  # noqa: UP007
    return None


@functools.cache
def _types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The types of a struct's fields, by name."""
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union; any other type is its own only one."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    """The struct among a type's options."""
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None
