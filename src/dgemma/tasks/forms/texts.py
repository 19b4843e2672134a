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
INTEGER = "-?(0|[1-9][0-9]*)"
DECIMAL = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"


def schema_texts(language: Language, schema: Any) -> Expression:
    """The language of a JSON schema.

    Raises Unread where a part of it is not read, Exhausted where it is too large.
    """
    try:
        reader = Reader(schema)
        texts = _Texts(language, reader)
        made = texts.of(reader.read(schema))
        texts.finish()
    except RecursionError:
        raise Unread("nested too deeply") from None
    except (TypeError, AttributeError, KeyError):
        # a keyword's value is of another type than it must be: the library says so
        raise Unread("a keyword that is not what it must be") from None
    return made


class _Texts:
    def __init__(self, language: Language, reader: Reader):
        self.language = language
        self.reader = reader
        self.rules: dict[str, Expression] = {}
        self.pending: list[tuple[Expression, Shape]] = []
        self._anything: Expression | None = None
        self._letters: dict[str, Expression] = {}
        self.comma = language.text(b",")
        self.quote = language.text(b'"')
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
            return self._truth(shape)
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

    def _truth(self, shape: Truth) -> Expression:
        if shape.value is None:
            return self.language.choice(self.language.text(b"false"), self.language.text(b"true"))
        return self.language.text(b"true" if shape.value else b"false")

    def finish(self) -> None:
        """Make what references name."""
        while self.pending:
            rule, shape = self.pending.pop()
            self.language.define(rule, self.of(shape))
        rules = [*self.rules.values()]
        if self._anything:
            rules.append(self._anything)
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
        is_one = bounds.low is not None and bounds.low == bounds.high
        if is_one and bounds.low is not None and not bounds.integer and bounds.step is None:
            if bounds.low_open or bounds.high_open:
                return self.language.nothing
            return self.language.text(plain_decimal(float(bounds.low)).encode())
        written = Written(bounds)
        if written.shortest() is None:
            return self.language.nothing
        return self.language.leaf(written)

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
        language = self.language
        most = shape.most
        rest = self.of(shape.items or Anything())
        first = list(map(self.of, shape.first))
        if most is not None:
            first = first[:most]
        for place, item in enumerate(first):
            if item is language.nothing:  # so no array is longer
                first = first[:place]
                most = place
                break
        if most is not None and most < shape.least:
            return language.nothing
        most_more = None
        if most is not None:
            most_more = most - len(first)
        tail = self._list(rest, max(0, shape.least - len(first)), most_more, bool(first))
        for place in range(len(first) - 1, -1, -1):
            item = first[place]
            if place:
                item = language.sequence(self.comma, item)
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
        most_behind = None
        if most is not None:
            most_behind = most - 1
        several = language.sequence(item, language.repeat(behind, max(0, least - 1), most_behind))
        if least:
            return several
        return language.maybe(several)

    def _object(self, shape: Object) -> Expression:
        if shape.most is not None and max(shape.least, len(shape.required)) > shape.most:
            return self.language.nothing
        names = [*shape.properties, *(name for name in shape.required if name not in shape.properties)]
        members: list[tuple[Expression, bool]] = []
        for name in names:
            value = self.of(self._property(shape, name))
            is_required = name in shape.required
            if value is not self.language.nothing or is_required:
                key = self.language.text(_quoted_name(name) + b":")
                members.append((self.language.sequence(key, value), is_required))
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
        taken = [language.text(_quoted_name(name)) for name in names]
        parts = []
        for pattern, value in shape.patterns.items():
            name = self._quote(expression(language, pattern, in_json=True, search=True, ascii_only=True))
            said = [taken[place] for place, one in enumerate(names) if self._matches(pattern, one)]
            parts.append(language.sequence(self._but(name, said), colon, self.of(value)))
            taken.append(name)
        others = self.of(shape.others or Anything())
        if others is not language.nothing:
            parts.append(language.sequence(self._but(self.any_name, taken), colon, others))
        return language.choice(*parts)

    def _but(self, name: Expression, taken: list[Expression]) -> Expression:
        """The names of a language that are none of those taken."""
        if not taken:
            return name
        return self.language.both(name, self.language.no(self.language.choice(*taken)))

    def _members(
        self, members: list[tuple[Expression, bool]], other: Expression, least: int, most: int | None
    ) -> Expression:
        """Members in their order, the others behind them; from `least` to `most` in all."""
        language = self.language
        counted = max(1, least, 0 if most is None else most)
        if counted * len(members) > MOST_STATES:
            raise Unread("an object with too many members")
        # what may follow, by how many members are written before (the last: so many or more)
        behind: list[Expression] = []
        for count in range(counted + 1):
            needed = max(0, least - count)
            if other is not language.nothing:
                behind.append(self._list(other, needed, None if most is None else most - count, count > 0))
            elif needed:
                behind.append(language.nothing)
            else:
                behind.append(language.empty)
        for member, is_required in reversed(members):
            behind = self._before(member, is_required, behind, most)
        return behind[0]

    def _before(
        self, member: Expression, is_required: bool, behind: list[Expression], most: int | None
    ) -> list[Expression]:
        """What may follow where this member is the next one; `behind`: the same where it is past."""
        language = self.language
        before = []
        for count, rest in enumerate(behind):
            after = behind[min(count + 1, len(behind) - 1)]
            if most is not None and count >= most:
                after = language.nothing
            if count:
                comma = self.comma
            else:
                comma = language.empty
            with_member = language.sequence(comma, member, after)
            before.append(with_member if is_required else language.choice(with_member, rest))
        return before


def _quoted_name(name: str) -> bytes:
    """A member's name in JSON."""
    return json.dumps(name, ensure_ascii=False).encode()
