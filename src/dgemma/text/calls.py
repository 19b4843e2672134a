"""The tool syntax, read: what stands between a call's control tokens becomes a name and JSON values.

Refuses to repair: a call is read whole or not at all, and never executed half. Works on ids: a string is what
stands between two quote tokens, whatever characters it holds.

Trap: the text between strings is searched for commas and brackets, the text inside strings must not be. So
each string is taken out first, and a mark put in its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .tokenizer import Tokenizer

MAX_DEPTH = 64  # deepest nesting of arguments and schemas that is written or read
TOOL_NAME = re.compile(r"[^\s{}\[\],\"\0]+")
_NUMBER = re.compile(r"-?\d{1,400}(\.\d+)?([eE][+-]?\d+)?")
_MARK = "\0"


@dataclass(frozen=True)
class ToolCall:
    """A call that the model made: a tool's name and its arguments as plain JSON values."""

    name: str  # of the tool
    arguments: dict[str, Any]  # JSON values by the parameters' names


def parse_call(ids: Sequence[int], tokenizer: Tokenizer) -> ToolCall | None:
    """Read the ids between a call's control tokens: `call:NAME{key:<|"|>text<|"|>,n:42,list:[...]}`.

    Returns None for anything else (a call cut short, a control token inside, a bare word as a value). Strings
    in plain double quotes, with JSON's escapes, are read too: models slip into them.
    """
    runs: list[list[int]] = [[]]
    for token_id in ids:
        if token_id == tokenizer.special.quote:
            runs.append([])
        elif token_id in tokenizer.control_ids:
            return None
        else:
            runs[-1].append(token_id)
    texts = [tokenizer.decode(run) for run in runs]
    if len(runs) % 2 == 0 or any(_MARK in text for text in texts[::2]):
        return None
    try:
        return _Reader(_MARK.join(texts[::2]).strip(), texts[1::2]).call()
    except _Malformed:
        return None


class _Malformed(Exception):
    """The text is not a call."""


class _Reader:
    """Reads one call from left to right; each mark stands for the next of `strings`."""

    def __init__(self, text: str, strings: list[str]):
        self._text = text
        self._at = 0
        self._strings = iter(strings)

    def call(self) -> ToolCall:
        self._expect("call:")
        name = self._until("{")
        if not TOOL_NAME.fullmatch(name):
            raise _Malformed
        arguments = self._mapping(0)
        if self._at != len(self._text):
            raise _Malformed
        return ToolCall(name, arguments)

    def _peek(self) -> str:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _expect(self, text: str) -> None:
        self._peek()
        if not self._text.startswith(text, self._at):
            raise _Malformed
        self._at += len(text)

    def _until(self, end: str) -> str:
        start, self._at = self._at, self._text.find(end, self._at)
        if self._at < 0:
            raise _Malformed
        return self._text[start : self._at].strip()

    def _goes_on(self, end: str) -> bool:
        """After a member: a comma, and another one follows; or the end."""
        comma = self._peek() == ","
        self._expect("," if comma else end)
        return comma

    def _mapping(self, depth: int) -> dict[str, Any]:
        self._expect("{")
        members: dict[str, Any] = {}
        if self._peek() == "}":
            self._at += 1
            return members
        while True:
            key = self._key()
            self._expect(":")
            members[key] = self._value(depth + 1)
            if not self._goes_on("}"):
                return members

    def _list(self, depth: int) -> list[Any]:
        self._expect("[")
        values: list[Any] = []
        if self._peek() == "]":
            self._at += 1
            return values
        while True:
            values.append(self._value(depth + 1))
            if not self._goes_on("]"):
                return values

    def _key(self) -> str:
        if self._peek() in (_MARK, '"'):
            return self._string()
        key = self._until(":")
        if not key or set(key) & set('{}[],"\0'):
            raise _Malformed
        return key

    def _value(self, depth: int) -> Any:
        mark = self._peek()
        if depth > MAX_DEPTH:
            raise _Malformed
        if mark in (_MARK, '"'):
            return self._string()
        if mark == "{":
            return self._mapping(depth)
        if mark == "[":
            return self._list(depth)
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        return self._number()

    def _string(self) -> str:
        if self._peek() == _MARK:
            self._at += 1
            return next(self._strings)
        try:
            text: str
            text, self._at = json.JSONDecoder().raw_decode(self._text, self._at)
        except ValueError:
            raise _Malformed from None
        return text

    def _number(self) -> int | float:
        match = _NUMBER.match(self._text, self._at)
        if not match:
            raise _Malformed
        self._at = match.end()
        if not (match[1] or match[2]):
            return int(match[0])
        if not math.isfinite(number := float(match[0])):
            raise _Malformed
        return number
