"""The texts of a schema's shapes: JSON as llguidance writes it, without blanks, as a language."""

from __future__ import annotations

import json
from typing import Any

from .characters import LAST, encoded, inverse, quoted, union
from .expressions import Unread, expression
from .formats import FORMATS
from .language import Expression, Language
from .numbers import Bounds, Written, plain_decimal
from .schema import (
    Anything,
    Array,
    Impossible,
    Null,
    Number,
    Object,
    OneOf,
    Reader,
    Reference,
    Shape,
    String,
    Truth,
)

MOST_STATES = 20_000  # of one object: its properties times how many of them are counted
INTEGER, DECIMAL = "-?(0|[1-9][0-9]*)", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"


def schema_texts(language: Language, schema: Any) -> Expression:
    """The language of a JSON schema. Raises Unread where a part of it is not read, Exhausted where it is too
    large.
    """
    try:
        reader = Reader(schema)
        texts = _Texts(language, reader)
        made = texts.of(reader.read(schema))
        texts.finish()
    except RecursionError:
        raise Unread("nested too deeply") from None
    except (
        TypeError,
        AttributeError,
        KeyError,
    ):  # a keyword's value is of another type than it must be: the library says so
        raise Unread("a keyword that is not what it must be") from None
    return made


class _Texts:
    def __init__(self, language: Language, reader: Reader):
        self.language, self.reader = language, reader
        self.rules: dict[str, Expression] = {}
        self.pending: list[tuple[Expression, Shape]] = []
        self._anything: Expression | None = None
        self._letters: dict[str, Expression] = {}
        self.comma, self.quote = language.text(b","), language.text(b'"')
        self.any_string = self._quote(language.repeat(quoted(language, [(0, LAST)])))
        self.any_name = self._quote(language.repeat(self._name_char()))

    def of(self, shape: Shape) -> Expression:
        language = self.language
        if isinstance(shape, Anything):
            return self.anything()
        if isinstance(shape, Impossible):
            return language.nothing
        if isinstance(shape, Null):
            return language.text(b"null")
        if isinstance(shape, Truth):
            names = [b"false", b"true"] if shape.value is None else [b"true" if shape.value else b"false"]
            return language.choice(*map(language.text, names))
        if isinstance(shape, Number):
            return self._number(shape.bounds)
        if isinstance(shape, String):
            return self._string(shape)
        if isinstance(shape, Array):
            return self._array(shape)
        if isinstance(shape, Object):
            return self._object(shape)
        if isinstance(shape, OneOf):
            return language.choice(*map(self.of, shape.options))
        assert isinstance(shape, Reference)
        return self._rule(shape.uri)

    def finish(self) -> None:
        """Make what references name."""
        while self.pending:
            rule, shape = self.pending.pop()
            self.language.define(rule, self.of(shape))
        rules = [*self.rules.values()] + ([self._anything] if self._anything else [])
        self.language.settle(rules)

    def _rule(self, uri: str) -> Expression:
        if uri not in self.rules:
            self.rules[uri] = self.language.rule()
            shape = self.reader.named.get(uri)
            if shape is None:
                raise Unread("a reference to nowhere")
            self.pending.append((self.rules[uri], shape))
        return self.rules[uri]

    def anything(self) -> Expression:
        if self._anything is None:
            self._anything = self.language.rule()
            shapes = [Null(), Truth(), Number(Bounds(False)), String(), Array(), Object()]
            self.language.define(self._anything, self.language.choice(*map(self.of, shapes)))
        return self._anything

    def _quote(self, text: Expression) -> Expression:
        return self.language.sequence(self.quote, text, self.quote)

    def _name_char(self) -> Expression:
        """A character of a name that the schema does not say: any escape is allowed there."""
        language = self.language
        plain = encoded(language, inverse(union([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)])))
        digit = expression(language, "[0-9a-fA-F]")
        code = language.sequence(language.text(b"u"), language.repeat(digit, 4, 4))
        letters = expression(language, r'["\\bfnrt]')
        return language.choice(plain, language.sequence(language.text(b"\\"), language.choice(letters, code)))

    def _number(self, bounds: Bounds) -> Expression:
        if bounds.plain:
            return expression(self.language, INTEGER if bounds.integer else DECIMAL)
        if (
            not bounds.integer
            and bounds.low is not None
            and bounds.low == bounds.high
            and bounds.step is None
        ):
            exact = not (bounds.low_open or bounds.high_open)
            return (
                self.language.text(plain_decimal(float(bounds.low)).encode())
                if exact
                else self.language.nothing
            )
        written = Written(bounds)
        return self.language.nothing if written.shortest() is None else self.language.leaf(written)

    def _string(self, shape: String) -> Expression:
        language = self.language
        parts = [self._rule_of_text(kind, text) for kind, text in shape.rules]
        if shape.least or shape.most is not None:
            if shape.most is not None and shape.least > shape.most:
                return language.nothing
            parts.append(language.repeat(quoted(language, [(0, LAST)]), shape.least, shape.most))
        if not parts:
            return self.any_string
        return self._quote(language.both(*parts))

    def _rule_of_text(self, kind: str, text: str) -> Expression:
        if not isinstance(text, str):
            raise Unread("a rule of a string that is no text")
        if kind == "literal":
            return self.language.sequence(*map(self._letter, text))
        if kind == "format":
            if text not in FORMATS:
                raise Unread("a format that is not kept")
            return expression(self.language, FORMATS[text], in_json=True)
        return expression(self.language, text, in_json=True, search=True, ascii_only=True)

    def _letter(self, letter: str) -> Expression:
        """One character of a string that is said."""
        if letter not in self._letters:
            self._letters[letter] = quoted(self.language, [(ord(letter), ord(letter))])
        return self._letters[letter]

    def _array(self, shape: Array) -> Expression:
        language, most = self.language, shape.most
        rest = self.of(shape.items or Anything())
        first = list(map(self.of, shape.first))
        if most is not None:
            first = first[:most]
        for place, item in enumerate(first):
            if item is language.nothing:
                first, most = first[:place], place
                break
        if most is not None and most < shape.least:
            return language.nothing
        more = None if most is None else most - len(first)
        tail = self._list(rest, max(0, shape.least - len(first)), more, bool(first))
        for place in range(len(first) - 1, -1, -1):
            item = first[place] if place == 0 else language.sequence(self.comma, first[place])
            tail = language.sequence(item, tail)
            if place >= shape.least:
                tail = language.maybe(tail)
        return language.sequence(language.text(b"["), tail, language.text(b"]"))

    def _list(self, item: Expression, least: int, most: int | None, begun: bool) -> Expression:
        """So many items with commas between them. begun: something stands before the first."""
        language = self.language
        behind = language.sequence(self.comma, item)
        if begun:
            return language.repeat(behind, least, most)
        if most == 0:
            return language.empty
        rest = language.repeat(behind, max(0, least - 1), None if most is None else most - 1)
        several = language.sequence(item, rest)
        return several if least else language.maybe(several)

    def _object(self, shape: Object) -> Expression:
        if shape.most is not None and max(shape.least, len(shape.required)) > shape.most:
            return self.language.nothing
        names = [*shape.properties, *(name for name in shape.required if name not in shape.properties)]
        members: list[tuple[Expression, bool]] = []
        for name in names:
            value = self.of(self._property(shape, name))
            needed = name in shape.required
            if value is not self.language.nothing or needed:
                key = self.language.text(json.dumps(name, ensure_ascii=False).encode() + b":")
                members.append((self.language.sequence(key, value), needed))
        inner = self._members(members, self._other_members(shape, names), shape.least, shape.most)
        return self.language.sequence(self.language.text(b"{"), inner, self.language.text(b"}"))

    def _property(self, shape: Object, name: str) -> Shape:
        if name in shape.properties:
            return shape.properties[name]
        for pattern, value in shape.patterns.items():
            if self._matches(pattern, name):
                return value
        return shape.others or Anything()

    def _matches(self, pattern: str, name: str) -> bool:
        texts = expression(self.language, pattern, search=True, ascii_only=True)
        return self.language.walk(texts, name.encode()).nullable

    def _other_members(self, shape: Object, names: list[str]) -> Expression:
        """A member whose name the schema does not say."""
        language = self.language
        colon = language.text(b":")
        taken = [language.text(json.dumps(name, ensure_ascii=False).encode()) for name in names]
        parts = []
        for pattern, value in shape.patterns.items():
            name = self._quote(expression(language, pattern, in_json=True, search=True, ascii_only=True))
            here = [taken[place] for place, one in enumerate(names) if self._matches(pattern, one)]
            free = language.both(name, language.no(language.choice(*here))) if here else name
            parts.append(language.sequence(free, colon, self.of(value)))
            taken.append(name)
        others = self.of(shape.others or Anything())
        if others is not language.nothing:
            name = (
                language.both(self.any_name, language.no(language.choice(*taken))) if taken else self.any_name
            )
            parts.append(language.sequence(name, colon, others))
        return language.choice(*parts)

    def _members(
        self, members: list[tuple[Expression, bool]], other: Expression, least: int, most: int | None
    ) -> Expression:
        """Members in their order, the others behind them; from `least` to `most` in all."""
        language = self.language
        counted = max(1, least, 0 if most is None else most)
        if counted * len(members) > MOST_STATES:
            raise Unread("an object with too many members")
        behind: list[
            Expression
        ] = []  # what may follow, by how many members stand before (the last: so many or more)
        for count in range(counted + 1):
            room = None if most is None else most - count
            need = max(0, least - count)
            if other is language.nothing:
                behind.append(language.nothing if need else language.empty)
            else:
                behind.append(self._list(other, need, room, count > 0))
        for member, needed in reversed(members):
            behind = self._before(member, needed, behind, most)
        return behind[0]

    def _before(
        self, member: Expression, needed: bool, behind: list[Expression], most: int | None
    ) -> list[Expression]:
        language, found = self.language, []
        for count, rest in enumerate(behind):
            after = behind[min(count + 1, len(behind) - 1)]
            if most is not None and count >= most:
                after = language.nothing
            comma = self.comma if count else language.empty
            taken = language.sequence(comma, member, after)
            found.append(taken if needed else language.choice(taken, rest))
        return found
