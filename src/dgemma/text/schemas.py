"""JSON Schemas made plain before a tool is declared: references resolved, and what has two spellings brought
to one.

The model reads what a reference leads to, since it cannot look it up. Schemas without references, booleans,
tuples and `allOf` come back equal.

Trap: references may lead back to themselves, or double at each step; both are cut at the type alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from .calls import MAX_DEPTH

MOST_TEXT = 100_000  # characters of referenced schemas in one declaration
MOST_NESTED = 16  # references inside each other
SCHEMAS = ("items", "additionalProperties", "contains", "not")  # keywords that hold a schema
LISTS = ("anyOf", "oneOf", "prefixItems")  # and lists of schemas
DEFINITIONS = ("$defs", "definitions")


def plain(schema: Any) -> Any:
    """A schema without `$ref`, `$defs`, `allOf`, booleans and lists as `items`.

    What is no schema comes back as it is.
    """
    return _Plain(schema).read(schema, (), 0)


class _Plain:
    def __init__(self, root: Any):
        self._root = root
        self._left = MOST_TEXT  # characters of references that may still be read

    def read(self, raw: Any, refs: tuple[str, ...], depth: int) -> Any:
        """`refs`: the references that led here. None stands for a schema that allows nothing."""
        if isinstance(raw, bool):
            if raw:
                return {}
            return None
        if not isinstance(raw, Mapping):
            return raw
        if depth > MAX_DEPTH:  # without references whoever writes it says so
            if refs:
                return {}
            return raw
        if isinstance(raw.get("$ref"), str):
            target = self._target(raw["$ref"], refs, depth + 1)
            return _merged([target, self.read(_without(raw, "$ref"), refs, depth + 1)])
        if isinstance(raw.get("allOf"), list):
            parts = [self.read(part, refs, depth + 1) for part in raw["allOf"]]
            return _merged([*parts, self.read(_without(raw, "allOf"), refs, depth + 1)])
        members = {
            name: self._member(name, value, refs, depth + 1)
            for name, value in raw.items()
            if name not in DEFINITIONS
        }
        if isinstance(raw.get("items"), list):
            members["prefixItems"] = members.pop("items")
        # a member of None was null before, or is a schema that allows nothing
        return {name: value for name, value in members.items() if value is not None or raw.get(name) is None}

    def _member(self, name: str, value: Any, refs: tuple[str, ...], depth: int) -> Any:
        if name == "properties" and isinstance(value, Mapping):
            members = {key: self.read(schema, refs, depth) for key, schema in value.items()}
            return {key: schema for key, schema in members.items() if schema is not None}
        if (name in LISTS or name == "items") and isinstance(value, list):
            schemas = [self.read(one, refs, depth) for one in value]
            return [schema for schema in schemas if schema is not None]
        if name == "items" and isinstance(value, bool):
            return None
        if name in SCHEMAS and isinstance(value, Mapping):
            return self.read(value, refs, depth)
        return value

    def _target(self, ref: str, refs: tuple[str, ...], depth: int) -> Any:
        target = _lookup(self._root, ref)
        if target is False:
            return None
        if not isinstance(target, Mapping):
            return {}
        if ref in refs or len(refs) >= MOST_NESTED or self._left <= 0:
            if "type" in target:
                return {"type": target["type"]}
            return {}
        self._left -= 10 + _length(target)
        return self.read(target, (*refs, ref), depth)


def _without(schema: Mapping[str, Any], keyword: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != keyword}


def _lookup(root: Any, ref: str) -> Any:
    """What a reference into the same document leads to; None for any other, and for one to nowhere."""
    if ref != "#" and not ref.startswith("#/"):
        return None
    target = root
    for step in ref.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping):
            target = target.get(name)
        elif isinstance(target, list) and _is_index(name, target):
            target = target[int(name)]
        else:
            return None
    return target


def _is_index(name: str, values: Sequence[Any]) -> bool:
    return name.isdecimal() and len(name) < 9 and int(name) < len(values)


def _merged(schemas: Iterable[Any]) -> Any:
    """One schema for several that hold together.

    A later one's keywords win; properties and required add up.
    """
    merged: dict[str, Any] = {}
    for schema in schemas:
        if schema is None:
            return None
        if not isinstance(schema, Mapping):
            continue
        properties = merged.get("properties")
        required = merged.get("required")
        merged.update(schema)
        if isinstance(properties, Mapping) and isinstance(schema.get("properties"), Mapping):
            merged["properties"] = {**properties, **schema["properties"]}
        if isinstance(required, list) and isinstance(schema.get("required"), list):
            merged["required"] = [*required, *(name for name in schema["required"] if name not in required)]
    return merged


def _length(value: Any) -> int:
    """The characters of all texts in a value, names included."""
    total = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, Sequence) and not isinstance(one, bytes | bytearray):
            waiting += one
    return total
