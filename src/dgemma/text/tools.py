"""The tool syntax, written: declarations, calls and results between their control tokens (calls.py reads it).

Refuses to know turns and roles. What it writes is a list of pieces: text, and ids of control tokens; the text
is encoded later, so nothing in a tool's name, schema, arguments or result can become a control token.

Trap: keys are written bare and sorted without regard to case, as the checkpoints were trained; JSON order is
lost. And a schema is not copied: only what the checkpoints know is written, and its type comes last, in
capitals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import UsageError
from .calls import MAX_DEPTH, TOOL_NAME
from .schemas import plain
from .tokenizer import ControlIds

Piece = str | int  # text still to be encoded, or the id of a control token


def declaration(tool: Any, special: ControlIds, where: str) -> list[Piece]:
    """Pieces that declare one tool in the OpenAI shape `{type: function, function: {name, description,
    parameters}}`.

    Raises UsageError, naming `where`, for another shape, and for a checkpoint without the tool tokens.
    """
    is_function = isinstance(tool, Mapping) and tool.get("type") == "function"
    function = None
    if is_function:
        function = tool.get("function")
    if not isinstance(function, Mapping):
        raise UsageError(
            f"{where}: a tool must look like {{'type': 'function', 'function': {{'name': ...}}}}"
        )
    name = checked_name(function.get("name"), where)
    writer = _Writer(special, where)
    fields = {"description": writer.string(function.get("description") or "")}
    if parameters := plain(function.get("parameters")):
        fields["parameters"] = writer.schema(parameters, 0, top=True)
    return [special.need("tool"), f"declaration:{name}", *_braces(fields), special.need("end_tool")]


def call(name: str, arguments: Mapping[str, Any], special: ControlIds, where: str) -> list[Piece]:
    """Pieces of one call by the model. Raises UsageError for arguments that are not plain JSON values."""
    written = _Writer(special, where).value(arguments, 0)
    return [
        special.need("tool_call"),
        f"call:{checked_name(name, where)}",
        *written,
        special.need("end_tool_call"),
    ]


def result(name: str, text: str, special: ControlIds, where: str) -> list[Piece]:
    """Pieces of what one tool answered: always a text, as the OpenAI shape has it."""
    written = _Writer(special, where).value({"value": text}, 0)
    opening: list[Piece] = [special.need("tool_response"), f"response:{checked_name(name, where)}"]
    return [*opening, *written, special.need("end_tool_response")]


def checked_name(name: Any, where: str) -> str:
    """A tool's name that can be written and read back, or UsageError."""
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise UsageError(
            f"{where}: a tool's name must be a word without spaces, quotes or brackets, not {name!r:.40}"
        )
    return name


def _bare(name: str) -> list[Piece]:
    return [name]


def _braces(fields: Mapping[str, list[Piece]], key: Callable[[str], list[Piece]] = _bare) -> list[Piece]:
    """`{name:value,...}` in the order given; `key` writes a name."""
    members = [[*key(name), ":", *value] for name, value in fields.items()]
    return ["{", *_with_commas(members), "}"]


def _brackets(members: Sequence[list[Piece]]) -> list[Piece]:
    """`[value,...]`."""
    return ["[", *_with_commas(members), "]"]


def _with_commas(members: Sequence[list[Piece]]) -> list[Piece]:
    pieces: list[Piece] = []
    for number, member in enumerate(members):
        pieces.append("," if number else "")
        pieces += member
    return pieces


class _Resolved(NamedTuple):
    """A schema whose union of options is brought to what the notation can say."""

    schema: Mapping[str, Any]
    kinds: list[str]  # in capitals; without null
    nullable: bool
    options: list[Any]  # that are left, for `anyOf`


class _Writer:
    """Writes JSON values and schemas as pieces; every string goes between two quote tokens.

    Errors name the place and the kind of a value, never the value: prompts do not belong in messages or logs.
    """

    def __init__(self, special: ControlIds, where: str):
        self._quote = special.need("quote")
        self._where = where

    def _fail(self, what: str) -> UsageError:
        return UsageError(f"{self._where}: {what}")

    def string(self, text: Any) -> list[Piece]:
        if not isinstance(text, str):
            raise self._fail(f"a text was expected, not {type(text).__name__}")
        return [self._quote, text, self._quote]

    def value(self, value: Any, depth: int, quote_keys: bool = False) -> list[Piece]:
        """A JSON value. Keys are bare in calls and results, and quoted where a schema holds a value."""
        if depth > MAX_DEPTH:
            raise self._fail(f"values are nested more than {MAX_DEPTH} deep")
        if isinstance(value, str):
            return self.string(value)
        if value is None or isinstance(value, (bool, int)):
            return [json.dumps(value)]
        if isinstance(value, float) and math.isfinite(value):
            return [repr(value)]
        if isinstance(value, Mapping):
            fields = {key: self.value(member, depth + 1, quote_keys) for key, member in self._sorted(value)}
            if quote_keys:
                return _braces(fields, self.string)
            return _braces(fields)
        if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            return _brackets([self.value(member, depth + 1, quote_keys) for member in value])
        what = value
        if not isinstance(value, float):
            what = type(value).__name__
        raise self._fail(f"{what} is not a JSON value")

    def _sorted(self, mapping: Mapping[Any, Any]) -> list[tuple[str, Any]]:
        if odd := [key for key in mapping if not isinstance(key, str)]:
            raise self._fail(f"keys must be texts, not {type(odd[0]).__name__}")
        return sorted(mapping.items(), key=lambda item: item[0].lower())

    def schema(self, raw: Any, depth: int, top: bool = False) -> list[Piece]:
        """One plain JSON schema (schemas.py); at the top, that of all the parameters, its description is left
        out.

        The published layout knows description, a text's enum, items, nullable, properties, required and one
        type. What it cannot say stands beside these in the same notation: any enum, `anyOf`, `prefixItems`,
        and a list of types.
        """
        if depth > MAX_DEPTH:
            raise self._fail(f"schemas are nested more than {MAX_DEPTH} deep")
        schema, kinds, nullable, options = self._resolve(raw)
        if top and not kinds and not options:
            kinds = ["OBJECT"]
        fields: dict[str, list[Piece]] = {}
        if options:
            fields["anyOf"] = _brackets([self.schema(option, depth + 1) for option in options])
        if schema.get("description") and not top:
            fields["description"] = self.string(schema["description"])
        if enum := _enum(schema):
            fields["enum"] = self.value(enum, depth, quote_keys=True)
            kinds = kinds or _kinds_of(enum)
        if "ARRAY" in kinds and schema.get("items"):
            fields["items"] = self._items(schema["items"], depth + 1)
        if nullable and not top:
            fields["nullable"] = ["true"]
        if "ARRAY" in kinds and isinstance(schema.get("prefixItems"), list):
            members = [self.schema(member, depth + 1) for member in schema["prefixItems"]]
            fields["prefixItems"] = _brackets(members)
        if "OBJECT" in kinds and (schema.get("properties") or not (top or options)):
            fields["properties"] = self._properties(schema.get("properties") or {}, depth + 1)
        if "OBJECT" in kinds and schema.get("required"):
            fields["required"] = self.value(schema["required"], depth)
        fields["type"] = self.value(kinds, depth) if len(kinds) > 1 else self.string("".join(kinds))
        return _braces(fields)

    def _properties(self, raw: Any, depth: int) -> list[Piece]:
        if not isinstance(raw, Mapping):
            raise self._fail(f"properties must map names to schemas, not {type(raw).__name__}")
        return _braces({name: self.schema(schema, depth) for name, schema in self._sorted(raw)})

    def _items(self, raw: Any, depth: int) -> list[Piece]:
        """The schema of a list's members: unlike others, every key is written, and all in sorted order."""
        if not isinstance(raw, Mapping):
            raise self._fail(f"the items of a list must be a schema, not {type(raw).__name__}")
        fields: dict[str, list[Piece]] = {}
        for key, value in self._sorted(raw):
            if key == "properties":
                fields[key] = self._properties(value, depth + 1)
            elif key == "type":
                fields[key] = self.value(_in_capitals(value), depth)
            elif value is not None:
                fields[key] = self.value(value, depth, quote_keys=True)
        return _braces(fields)

    def _resolve(self, raw: Any) -> _Resolved:
        """A schema without the options that another keyword can say.

        An option of a union that is null makes it nullable. A union of one other option is that option. One
        of plain types is a list of types, one of values an enum; of any other the options are left.
        """
        if not isinstance(raw, Mapping):
            raise self._fail(f"a schema must be an object, not {type(raw).__name__}")
        schema = raw
        all_options = _options(raw)
        options = [option for option in all_options if not _is_null(option)]
        nullable = bool(raw.get("nullable")) or len(options) < len(all_options)
        if len(options) == 1 and isinstance(options[0], Mapping):
            schema = {**options[0], **raw}
            options = _options(options[0])  # a union may be wrapped in another
        values = [_enum(option) if isinstance(option, Mapping) else None for option in options]
        if options and all(values):
            schema = {"enum": [one for listed in values for one in listed or ()], **schema}
            options = []
        kinds, has_null = self._kinds(schema)
        nullable = nullable or (has_null and len(kinds) > 0)
        if has_null and not kinds:
            kinds = ["NULL"]
        if options and all(map(_is_plain_type, options)):
            kinds = self._kinds_of_options(options)
            options = []
        elif options and not kinds:
            kinds = self._kinds_of_options(options)
        return _Resolved(schema, list(dict.fromkeys(kinds)), nullable, options)

    def _kinds_of_options(self, options: Sequence[Any]) -> list[str]:
        kinds: list[str] = []
        for option in options:
            if isinstance(option, Mapping):
                kinds += self._kinds(option)[0]
        return kinds

    def _kinds(self, schema: Mapping[str, Any]) -> tuple[list[str], bool]:
        """The TYPES that a schema names but for null, and whether it names that."""
        kinds = schema.get("type")
        if not kinds:
            kinds = []
            if "properties" in schema:
                kinds = ["object"]
        if isinstance(kinds, str):
            kinds = [kinds]
        if not isinstance(kinds, Sequence) or not all(isinstance(one, str) for one in kinds):
            raise self._fail(f"a type must be a text, not {type(kinds).__name__}")
        return [one.upper() for one in kinds if one != "null"], "null" in kinds


def _options(schema: Mapping[str, Any]) -> list[Any]:
    """The options of a union that no type is given for."""
    options = schema.get("anyOf") or schema.get("oneOf")
    if "type" in schema or not isinstance(options, list | tuple):
        return []
    return list(options)


def _in_capitals(kinds: Any) -> str | list[str]:
    """A type, or a list of them, as the notation writes it."""
    if isinstance(kinds, str):
        return kinds.upper()
    return [str(kind).upper() for kind in kinds or ()]


def _is_null(option: Any) -> bool:
    return isinstance(option, Mapping) and option.get("type") == "null"


def _is_plain_type(option: Any) -> bool:
    return isinstance(option, Mapping) and option.keys() <= {"type", "title"}


def _enum(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema allows, where it lists them."""
    if isinstance(schema.get("enum"), list | tuple):
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    return None


def _kinds_of(values: Sequence[Any]) -> list[str]:
    """The TYPES of JSON values, each once."""
    names = {bool: "BOOLEAN", int: "INTEGER", float: "NUMBER", str: "STRING", dict: "OBJECT", list: "ARRAY"}
    return list(dict.fromkeys(names[type(value)] for value in values if type(value) in names))
