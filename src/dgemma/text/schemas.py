"""JSON Schemas made plain before a tool is declared: references resolved, and what has two spellings brought to one.

The model is told what a reference leads to, since it cannot look it up. Schemas without references, booleans, tuples and `allOf`
come back equal. Trap: references may lead back to themselves, or double at each step; both are cut at the type alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

MOST_TEXT = 100_000  # characters of referenced schemas in one declaration
MOST_NESTED = 16  # references inside each other
SCHEMAS = ("items", "additionalProperties", "contains", "not")  # keywords that hold a schema
LISTS = ("anyOf", "oneOf", "prefixItems")  # and lists of schemas
DEFINITIONS = ("$defs", "definitions")


def plain(schema: Any) -> Any:
    """A schema without `$ref`, `$defs`, `allOf`, booleans and lists as `items`. What is no schema comes back as it is."""
    return _Plain(schema).read(schema, ())


class _Plain:
    def __init__(self, root: Any):
        self._root, self._left = root, MOST_TEXT

    def read(self, raw: Any, refs: tuple[str, ...]) -> Any:
        """`refs`: the references that led here. None stands for a schema that allows nothing."""
        if isinstance(raw, bool):
            return {} if raw else None
        if not isinstance(raw, Mapping):
            return raw
        if isinstance(raw.get("$ref"), str):
            rest = {name: value for name, value in raw.items() if name != "$ref"}
            return _merged([self._target(raw["$ref"], refs), self.read(rest, refs)])
        if isinstance(raw.get("allOf"), list):
            rest = {name: value for name, value in raw.items() if name != "allOf"}
            return _merged([*(self.read(part, refs) for part in raw["allOf"]), self.read(rest, refs)])
        found = {name: self._member(name, value, refs) for name, value in raw.items() if name not in DEFINITIONS}
        if isinstance(raw.get("items"), list):
            found["prefixItems"] = found.pop("items")
        return {name: value for name, value in found.items() if value is not None or raw.get(name) is None}

    def _member(self, name: str, value: Any, refs: tuple[str, ...]) -> Any:
        if name == "properties" and isinstance(value, Mapping):
            members = {key: self.read(schema, refs) for key, schema in value.items()}
            return {key: schema for key, schema in members.items() if schema is not None}
        if (name in LISTS or name == "items") and isinstance(value, list):
            return [schema for schema in (self.read(one, refs) for one in value) if schema is not None]
        if name == "items" and isinstance(value, bool):
            return None
        return self.read(value, refs) if name in SCHEMAS and isinstance(value, Mapping) else value

    def _target(self, ref: str, refs: tuple[str, ...]) -> Any:
        target = _found(self._root, ref)
        if not isinstance(target, Mapping):
            return {} if target is not False else None
        if ref in refs or len(refs) >= MOST_NESTED or self._left <= 0:
            return {"type": target["type"]} if "type" in target else {}
        self._left -= 10 + _length(target)
        return self.read(target, (*refs, ref))


def _found(root: Any, ref: str) -> Any:
    """What a reference into the same document leads to; None for any other, and for one that leads nowhere."""
    if ref != "#" and not ref.startswith("#/"):
        return None
    found = root
    for step in ref.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and len(name) < 9 and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _merged(schemas: Iterable[Any]) -> Any:
    """One schema for several that hold together: a later one's keywords win, properties and required add up."""
    merged: dict[str, Any] = {}
    for schema in schemas:
        if schema is None:
            return None
        if not isinstance(schema, Mapping):
            continue
        properties, required = merged.get("properties"), merged.get("required")
        merged.update(schema)
        if isinstance(properties, Mapping) and isinstance(schema.get("properties"), Mapping):
            merged["properties"] = {**properties, **schema["properties"]}
        if isinstance(required, list) and isinstance(schema.get("required"), list):
            merged["required"] = [*required, *(name for name in schema["required"] if name not in required)]
    return merged


def _length(value: Any) -> int:
    """The characters of all texts in a value, names included."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_length(name) + _length(member) for name, member in value.items())
    if isinstance(value, Sequence):
        return sum(map(_length, value))
    return 0
