"""Grammars in Lark's notation, as llguidance has it, made languages: rules, terminals, texts, expressions,
counts, and JSON schemas.

Refuses with Unread what it does not read (`%ignore`, attributes, special tokens, rules that begin with each
other in a circle): such a grammar is kept all the same, but its ends are searched for. A rule that begins
with itself is read as what may follow it, repeated.

Trap: the library cuts a text into terminals, the longest first; here a grammar is plain concatenation, which
may allow more. So its ways are tried on the library's matcher.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .expressions import Unread, expression
from .language import Expression, Language
from .texts import schema_texts

TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|\#[^\n]*|%llguidance\s*\{\s*\})
    |(?P<text>"(?:\\.|[^"\\\n])*")(?P<text_flags>i?)
    |(?P<regex>/(?:\\.|[^/\\\n])+/)(?P<regex_flags>[a-z]*)
    |(?P<json>%json\b)|(?P<statement>%[a-z]+)
    |(?P<name>[!?]*[A-Za-z_][A-Za-z0-9_-]*)|(?P<number>\d+)
    |(?P<sign>\.\.|->|[:|()\[\]{}?*+~&,.=])""",
    re.VERBOSE,
)
MOST_ROUNDS = 100  # until it is known which rules may be empty


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    flags: str = ""
    first: bool = False  # on its line
    value: Any = None  # a schema


def grammar_texts(language: Language, text: str) -> Expression:
    """The language of a grammar's `start`. Raises Unread, Exhausted."""
    try:
        grammar = _Grammar(_tokens(text))
        return grammar.language_of(language)
    except RecursionError:
        raise Unread("nested too deeply") from None


def compact_json(text: str) -> str:
    """The same grammar, whose JSON is written without blanks where it does not say how."""
    decoder = json.JSONDecoder()
    place = 0
    parts: list[str] = []
    for match in re.finditer(r"%json\s*(?=\{)", text):
        if match.start() < place:
            continue
        try:
            schema, end = decoder.raw_decode(text, match.end())
        except ValueError:
            break
        schema.setdefault("x-guidance", {"whitespace_flexible": False})
        parts += [text[place : match.end()], json.dumps(schema)]
        place = end
    return "".join(parts) + text[place:]


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    place = 0
    first = True
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise Unread("a sign that is not read")
        kind = match.lastgroup or ""
        place = match.end()
        if kind == "blank":
            first = first or "\n" in match[0]
            continue
        kind = kind.removesuffix("_flags")
        flags = ""
        if kind in ("text", "regex"):
            flags = match[f"{kind}_flags"]
        value = None
        if kind == "json":
            value, place = _schema(text, place)
        tokens.append(Token(kind, match[kind], flags, first, value))
        first = False
    return tokens


def _schema(text: str, place: int) -> tuple[Any, int]:
    while place < len(text) and text[place].isspace():
        place += 1
    try:
        return json.JSONDecoder().raw_decode(text, place)
    except ValueError:
        raise Unread("a schema that is no JSON") from None


Node = Callable[["_Build"], Expression]


class _Build:
    """One attempt to make a language: what its rules are, and which of them are taken to be nullable."""

    def __init__(self, language: Language, nullable: dict[str, bool]):
        self.language = language
        self.rules = {name: language.rule(is_nullable) for name, is_nullable in nullable.items()}


def _begins_rule(token: Token, name: str) -> bool:
    return token.kind == "name" and token.first and token.text.lstrip("!?") == name


class _Grammar:
    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.place = 0
        # by rule: what each alternative begins with, itself, the rest
        self.bodies: dict[str, list[tuple[str | None, Node, Node]]] = {}
        while self.place < len(tokens):
            self._rule()

    def language_of(self, language: Language) -> Expression:
        nullable = dict.fromkeys(self.bodies, False)
        if "start" not in nullable:
            raise Unread("no rule of the name start")
        for _ in range(MOST_ROUNDS):
            build = _Build(language, nullable)
            made = {name: self._body(build, name) for name in self.bodies}
            made_nullable = {name: body.nullable for name, body in made.items()}
            if made_nullable == nullable:
                break
            nullable = made_nullable
        else:
            raise Unread("it is not known which rules may be empty")
        for name, body in made.items():
            language.define(build.rules[name], body)
        done: dict[Expression, bool] = {}
        for rule in build.rules.values():
            _refuse_circles(rule, done)
        language.settle([*build.rules.values()])
        return build.rules["start"]

    def _body(self, build: _Build, name: str) -> Expression:
        """The alternatives of a rule.

        Those that begin with the rule itself may follow the others, any number of times.
        """
        plain: list[Expression] = []
        behind: list[Expression] = []
        for first, whole, rest in self.bodies[name]:
            if first == name:
                behind.append(rest(build))
            else:
                plain.append(whole(build))
        language = build.language
        begun = language.choice(*plain)
        if not behind:
            return begun
        return language.sequence(begun, language.repeat(language.choice(*behind)))

    # reading

    def _peek(self, offset: int = 0) -> Token:
        place = self.place + offset
        if place < len(self.tokens):
            return self.tokens[place]
        return Token("end", "")

    def _next(self) -> Token:
        token = self._peek()
        self.place += 1
        return token

    def _skip(self, sign: str) -> bool:
        if self._peek().kind == "sign" and self._peek().text == sign:
            self.place += 1
            return True
        return False

    def _rule(self) -> None:
        token = self._next()
        if token.kind != "name" or not self._skip(":"):
            raise Unread("a statement or a rule with attributes")
        name = token.text.lstrip("!?")
        if name in self.bodies:
            raise Unread("a rule that stands twice")
        self.bodies[name] = []
        while True:
            self.bodies[name].append(self._sequence())
            if not self._skip("|"):
                break

    def _ends(self) -> bool:
        token = self._peek()
        if token.kind == "end" or (token.kind == "sign" and token.text in "|)]"):
            return True
        begins_rule = (
            token.kind == "name" and self._peek(1).kind == "sign" and self._peek(1).text in (":", ".", "[")
        )
        return token.first and (begins_rule or token.kind == "statement")

    def _sequence(self) -> tuple[str | None, Node, Node]:
        parts: list[Node] = []
        token = self._peek()
        behind = self._peek(1)
        is_counted = behind.kind == "sign" and behind.text in "?*+~{"
        first = None
        if token.kind == "name" and not is_counted:
            first = token.text
        while not self._ends():
            if self._skip("->"):
                self._next()
                break
            parts.append(self._item())
        return first, _joined(parts), _joined(parts[1:])

    def _item(self) -> Node:
        part = self._atom()
        while (token := self._peek()).kind == "sign" and token.text in "?*+~{":
            part = _repeated(part, *self._count())
        return part

    def _count(self) -> tuple[int, int | None]:
        sign = self._next().text
        if sign == "?":
            return 0, 1
        if sign in "*+":
            return int(sign == "+"), None
        least = 0
        if self._peek().kind == "number":
            least = int(self._next().text)
        most: int | None = least
        if self._skip("..") or self._skip(","):
            most = None
            if self._peek().kind == "number":
                most = int(self._next().text)
        if sign == "{" and not self._skip("}"):
            raise Unread("a count that is not closed")
        return least, most

    def _atom(self) -> Node:
        token = self._next()
        if token.kind == "name":
            name = token.text
            if name not in self.bodies and not any(_begins_rule(one, name) for one in self.tokens):
                raise Unread("a rule that is not there")
            return lambda build: build.rules[name]
        if token.kind == "text":
            return self._text(token)
        if token.kind == "regex":
            flags = ""
            if token.flags:
                flags = f"(?{token.flags})"
            pattern = flags + token.text[1:-1].replace("\\/", "/")
            return lambda build: expression(build.language, pattern)
        if token.kind == "json":
            schema = token.value
            if not isinstance(schema, dict) or schema.get("x-guidance", {}).get("whitespace_flexible", True):
                raise Unread("JSON with blanks")
            return lambda build: schema_texts(build.language, schema)
        if token.kind == "sign" and token.text in "([":
            return self._group(is_optional=token.text == "[")
        raise Unread("a part that is not read")

    def _group(self, is_optional: bool) -> Node:
        alternatives = [self._sequence()[1]]
        while self._skip("|"):
            alternatives.append(self._sequence()[1])
        if not self._skip("]" if is_optional else ")"):
            raise Unread("a group that is not closed")
        group = _either(alternatives)
        if is_optional:
            return _repeated(group, 0, 1)
        return group

    def _text(self, token: Token) -> Node:
        value = _string(token)
        if self._skip(".."):
            other = self._next()
            if other.kind != "text" or len(value) != 1:
                raise Unread("a range of no characters")
            pattern = f"[{re.escape(value)}-{re.escape(_string(other))}]"
            return lambda build: expression(build.language, pattern)
        if token.flags:
            pattern = "(?i)" + re.escape(value)
            return lambda build: expression(build.language, pattern)
        return lambda build: build.language.text(value.encode())


def _string(token: Token) -> str:
    try:
        text: str = json.loads(token.text)
        return text
    except ValueError:
        raise Unread("a text with an escape that is not read") from None


def _joined(parts: list[Node]) -> Node:
    return lambda build: build.language.sequence(*(part(build) for part in parts))


def _either(parts: list[Node]) -> Node:
    return lambda build: build.language.choice(*(part(build) for part in parts))


def _repeated(part: Node, least: int, most: int | None) -> Node:
    return lambda build: build.language.repeat(part(build), least, most)


def _refuse_circles(one: Expression, done: dict[Expression, bool]) -> None:
    """Raise Unread where an expression comes back to itself before a byte was read. done: False while one is
    looked at.
    """
    if one in done:
        if not done[one]:
            raise Unread("rules that begin with each other in a circle")
        return
    done[one] = False
    if one.kind == "sequence":
        _refuse_circles(one.parts[0], done)
        if one.parts[0].nullable:
            _refuse_circles(one.parts[1], done)
    elif one.kind == "choice":
        for part in one.parts:
            _refuse_circles(part, done)
    elif one.kind in ("repeat", "rule"):
        _refuse_circles(one.parts[0], done)
    done[one] = True
