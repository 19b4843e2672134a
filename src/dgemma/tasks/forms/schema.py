"""JSON schemas as languages: every text that a schema allows, as llguidance writes it.

Two steps. `read` makes of a schema one Shape: references followed, `allOf` and what stands beside `anyOf`
merged. `language_of` makes of a Shape the texts that have it. Raises Unread for what is not read here; the
form is then kept all the same, but its end is searched for.

Trap: properties come in the order in which the schema names them, so merging goes through its keywords in the
order in which they stand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from .expressions import Unread
from .numbers import I64, Bounds

MOST_SHAPES = 20_000
TYPES = ("null", "boolean", "number", "string", "array", "object")
# keywords that bring whole schemas to their place
PLACED = ("const", "enum", "allOf", "anyOf", "oneOf", "$ref")
REMARKS = frozenset(
    (
        "$anchor $defs definitions $schema $id id $comment title description default readOnly writeOnly "
        "examples contentMediaType contentEncoding x-guidance deprecated"
    ).split()
)


class Shape:
    """What a value may be."""


@dataclass(frozen=True)
class Anything(Shape):
    pass


@dataclass(frozen=True)
class Impossible(Shape):
    pass


@dataclass(frozen=True)
class Null(Shape):
    pass


@dataclass(frozen=True)
class Truth(Shape):
    value: bool | None = None


@dataclass(frozen=True)
class Number(Shape):
    bounds: Bounds


@dataclass(frozen=True)
class String(Shape):
    least: int = 0
    most: int | None = None
    rules: tuple[tuple[str, str], ...] = ()  # ("pattern" | "format" | "literal", text): all of them hold


@dataclass(frozen=True)
class Array(Shape):
    least: int = 0
    most: int | None = None
    first: tuple[Shape, ...] = ()
    items: Shape | None = None


@dataclass(frozen=True)
class Object(Shape):
    properties: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    patterns: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    others: Shape | None = None
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class OneOf(Shape):
    options: tuple[Shape, ...]


@dataclass(frozen=True)
class Reference(Shape):
    uri: str


class Reader:
    """One schema: its shapes, and those that its references name."""

    def __init__(self, root: Any):
        self.root = root
        self.named: dict[str, Shape | None] = {}  # None: being read
        self._made = 0

    def read(self, schema: Any) -> Shape:
        self._made += 1
        if self._made > MOST_SHAPES:
            raise Unread("too large")
        if isinstance(schema, bool):
            if schema:
                return Anything()
            return Impossible()
        if not isinstance(schema, dict):
            raise Unread("a schema that is no object")
        shape: Shape = Anything()
        plain: dict[str, Any] = {}
        for name, value in schema.items():
            if name in PLACED:
                shape = self._merge_plain(shape, plain, schema)
                plain = {}
                shape = self._placed(shape, name, value)
            elif name not in REMARKS:
                plain[name] = value
                if name == "additionalProperties" and "properties" not in plain and "properties" in schema:
                    plain["properties"] = dict.fromkeys(schema["properties"], True)
                if name == "items" and "prefixItems" not in plain and "prefixItems" in schema:
                    plain["prefixItems"] = [True] * len(schema["prefixItems"])
        return self._merge_plain(shape, plain, schema)

    def _merge_plain(self, shape: Shape, plain: dict[str, Any], schema: dict[str, Any]) -> Shape:
        if not plain:
            return shape
        if "type" in schema:
            plain["type"] = schema["type"]
        kinds = plain.get("type", TYPES)
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        return self.merge(shape, _one_of(self._of_type(kind, plain) for kind in kinds))

    def _placed(self, shape: Shape, name: str, value: Any) -> Shape:
        if name == "const":
            return self.merge(shape, _constant(value))
        if name == "enum":
            return self.merge(shape, _one_of(map(_constant, value)))
        if name in ("anyOf", "oneOf"):
            return self.merge(shape, _one_of(map(self.read, value)))
        if name == "allOf":
            for one in value:
                shape = self.merge(shape, self.read(one))
            return shape
        self._define(value)
        reference = Reference(value)
        if isinstance(shape, Anything):
            return reference
        return self.merge(shape, reference)

    def _define(self, uri: str) -> None:
        if uri in self.named:
            return
        self.named[uri] = None
        self.named[uri] = self.read(self._find(uri))

    def _find(self, uri: str) -> Any:
        if not isinstance(uri, str) or not (uri == "#" or uri.startswith("#/")):
            raise Unread("a reference that leaves the schema")
        place = self.root
        for part in uri.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            try:
                place = place[int(key)] if isinstance(place, list) else place[key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise Unread("a reference to nowhere") from None
        return place

    # one type

    def _of_type(self, kind: str, plain: dict[str, Any]) -> Shape:
        if kind == "null":
            return Null()
        if kind == "boolean":
            return Truth()
        if kind in ("number", "integer"):
            return _number(plain, kind == "integer")
        if kind == "string":
            rules = [(name, plain[name]) for name in ("pattern", "format") if name in plain]
            return String(_whole(plain.get("minLength", 0)), _whole(plain.get("maxLength")), tuple(rules))
        if kind == "array":
            return self._array(plain)
        if kind == "object":
            return self._object(plain)
        raise Unread("a type that is not known")

    def _array(self, plain: dict[str, Any]) -> Shape:
        first = plain.get("prefixItems")
        items = plain.get("items")
        if isinstance(items, list):  # as older drafts have it
            first = items
            items = plain.get("additionalItems")
        elif "additionalItems" in plain:
            first = None
        shapes = tuple(map(self.read, first or ()))
        return Array(
            _whole(plain.get("minItems", 0)),
            _whole(plain.get("maxItems")),
            shapes,
            None if items is None else self.read(items),
        )

    def _object(self, plain: dict[str, Any]) -> Shape:
        properties = {name: self.read(one) for name, one in plain.get("properties", {}).items()}
        patterns = {name: self.read(one) for name, one in plain.get("patternProperties", {}).items()}
        others = None
        if "additionalProperties" in plain:
            others = self.read(plain["additionalProperties"])
        required = tuple(dict.fromkeys(plain.get("required", ())))
        return Object(
            properties,
            patterns,
            others,
            required,
            _whole(plain.get("minProperties", 0)),
            _whole(plain.get("maxProperties")),
        )

    # two shapes at once

    def merge(self, a: Shape, b: Shape) -> Shape:
        """What has both shapes."""
        self._made += 1
        if self._made > MOST_SHAPES:
            raise Unread("too large")
        if isinstance(a, Anything):
            return b
        if isinstance(b, Anything):
            return a
        if isinstance(a, Impossible) or isinstance(b, Impossible):
            return Impossible()
        if isinstance(a, Reference) or isinstance(b, Reference):
            return self.merge(self._resolved(a), self._resolved(b))
        if isinstance(a, OneOf):
            return _one_of(self.merge(one, b) for one in a.options)
        if isinstance(b, OneOf):
            return _one_of(self.merge(a, one) for one in b.options)
        if type(a) is not type(b):
            return Impossible()
        return self._merge_alike(a, b)

    def _resolved(self, shape: Shape) -> Shape:
        while isinstance(shape, Reference):
            self._define(shape.uri)
            target = self.named[shape.uri]
            if target is None:
                raise Unread("a circular reference with keywords beside it")
            shape = target
        return shape

    def _merge_alike(self, a: Any, b: Any) -> Shape:
        if isinstance(a, Null):
            return a
        if isinstance(a, Truth):
            if None not in (a.value, b.value) and a.value != b.value:
                return Impossible()
            return a if b.value is None else b
        if isinstance(a, Number):
            return _both_numbers(a.bounds, b.bounds)
        if isinstance(a, String):
            return String(max(a.least, b.least), _lesser(a.most, b.most), (*a.rules, *b.rules))
        if isinstance(a, Array):
            return self._both_arrays(a, b)
        return self._both_objects(a, b)

    def _merge_maybe(self, a: Shape | None, b: Shape | None) -> Shape | None:
        if a is None:
            return b
        if b is None:
            return a
        return self.merge(a, b)

    def _both_arrays(self, a: Array, b: Array) -> Shape:
        count = max(len(a.first), len(b.first))
        pairs = ((_item(a, place), _item(b, place)) for place in range(count))
        first = tuple(self.merge(*pair) for pair in pairs)
        return Array(
            max(a.least, b.least), _lesser(a.most, b.most), first, self._merge_maybe(a.items, b.items)
        )

    def _both_objects(self, a: Object, b: Object) -> Shape:
        if a.patterns or b.patterns:
            raise Unread("patternProperties that are merged")
        properties = {
            name: self.merge(one, b.properties.get(name, b.others or Anything()))
            for name, one in a.properties.items()
        }
        for name, one in b.properties.items():
            if name not in properties:
                properties[name] = self.merge(a.others or Anything(), one)
        required = tuple(dict.fromkeys((*a.required, *b.required)))
        return Object(
            properties,
            {},
            self._merge_maybe(a.others, b.others),
            required,
            max(a.least, b.least),
            _lesser(a.most, b.most),
        )


def _item(array: Array, place: int) -> Shape:
    if place < len(array.first):
        return array.first[place]
    return array.items or Anything()


def _one_of(shapes: Iterable[Shape]) -> Shape:
    options: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, Anything):
            return shape
        if isinstance(shape, OneOf):
            options += shape.options
        elif not isinstance(shape, Impossible):
            options.append(shape)
    if len(options) == 1:
        return options[0]
    if options:
        return OneOf(tuple(options))
    return Impossible()


def _whole(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unread("a count that is no number")
    if value < 0 or value != int(value):
        raise Unread("a count that is no number")
    return int(value)


def _lesser(a: int | None, b: int | None) -> int | None:
    if a is None:
        return b
    if b is None:
        return a
    return min(a, b)


def _exact(value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unread("a bound that is no number")
    try:
        return Fraction(float(value))
    except (OverflowError, ValueError):
        raise Unread("a number beyond all bounds") from None


def _number(plain: dict[str, Any], integer: bool) -> Number:
    """Bounds of both drafts: numbers, or whether the plain bound itself is left out."""
    lows = _bounds(plain.get("minimum"), plain.get("exclusiveMinimum"))
    highs = _bounds(plain.get("maximum"), plain.get("exclusiveMaximum"))
    low, low_open = _greatest(lows)
    high, high_open = _least(highs)
    step = plain.get("multipleOf")
    exact_step = None
    if step is not None:
        exact_step = Fraction(repr(abs(float(_exact(step)))))
    return Number(Bounds(integer, low, high, low_open, high_open, exact_step))


Bound = tuple[Fraction, bool]  # and whether it is left out


def _bounds(bound: Any, exclusive: Any) -> list[Bound]:
    """What `minimum` and `exclusiveMinimum` say, or the same two of the maximum."""
    bounds: list[Bound] = []
    if bound is not None:
        bounds.append((_exact(bound), False))
    if exclusive is True:
        exclusive = bound
    if exclusive is not None and exclusive is not False:
        bounds.append((_exact(exclusive), True))
    return bounds


def _greatest(lows: list[Bound]) -> tuple[Fraction | None, bool]:
    """The narrowest of lower bounds; of equal ones that which is left out."""
    return max(lows, default=(None, False))


def _least(highs: list[Bound]) -> tuple[Fraction | None, bool]:
    """The narrowest of upper bounds; of equal ones that which is left out."""
    return min(highs, key=lambda bound: (bound[0], not bound[1]), default=(None, False))


def _both_numbers(a: Bounds, b: Bounds) -> Number:
    low, low_open = _greatest([(one.low, one.low_open) for one in (a, b) if one.low is not None])
    high, high_open = _least([(one.high, one.high_open) for one in (a, b) if one.high is not None])
    step = _common_step([one.step for one in (a, b) if one.step is not None])
    return Number(Bounds(a.integer or b.integer, low, high, low_open, high_open, step))


def _common_step(steps: list[Fraction]) -> Fraction | None:
    if len(steps) < 2:
        if steps:
            return steps[0]
        return None
    a, b = steps
    scale = math.lcm(a.denominator, b.denominator)
    return Fraction(math.lcm(int(a * scale), int(b * scale)), scale)


def _constant(value: Any) -> Shape:
    if value is None:
        return Null()
    if isinstance(value, bool):
        return Truth(value)
    if isinstance(value, int | float):
        exact = _exact(value)
        return Number(Bounds(isinstance(value, int) and I64[0] <= value <= I64[1], exact, exact))
    if isinstance(value, str):
        return String(rules=(("literal", value),))
    if isinstance(value, list):
        return Array(len(value), len(value), tuple(map(_constant, value)), Impossible())
    return Object({name: _constant(one) for name, one in value.items()}, {}, Impossible(), tuple(value))
