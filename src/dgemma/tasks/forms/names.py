"""The names of a JSON object's members, each of which may stand once: a grammar cannot say so, and a count of
members needs it.

Reads an answer's bytes as they come. Trap: it knows strings and brackets and nothing else of JSON, which the
form keeps.
"""

from __future__ import annotations

import itertools
import json

QUOTE, ESCAPE = ord('"'), ord("\\")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Names:
    """Where an answer stands among its objects and strings."""

    def __init__(self) -> None:
        self._open: list[frozenset[bytes] | None] = []  # the names in each open object; None for an array
        self._string: bytes | None = None  # the string that is open, as far as it is written
        self._is_name = self._name_follows = self._escaped = False

    def copy(self) -> Names:
        other = Names()
        other._open, other._string = [*self._open], self._string
        other._is_name, other._name_follows, other._escaped = self._is_name, self._name_follows, self._escaped
        return other

    def take(self, text: bytes) -> bool:
        """Whether no name that stands already is closed in it. Where one is, this is of no further use."""
        if self._string is not None and not self._escaped and QUOTE not in text and ESCAPE not in text:
            self._string += text
            return True
        return all(map(self._byte, text))

    @property
    def any(self) -> bool:
        """Whether a name stands in an open object."""
        return any(self._open)

    def distinct(self, text: bytes) -> bytes:
        """A text that follows here, with letters put behind its names that stand already."""
        at, made = self.copy(), bytearray()
        for byte in text:
            name = at._string if at._is_name and not at._escaped else None
            if byte == QUOTE and name is not None and at._stands(name):
                ending = next(one for one in _endings() if not at._stands(name + one))
                made += ending
                at.take(ending)
            made.append(byte)
            at._byte(byte)
        return bytes(made)

    def _stands(self, string: bytes | None) -> bool:
        names = self._open[-1] if self._open else None
        return string is not None and names is not None and _meaning(string) in names

    def _byte(self, byte: int) -> bool:
        if self._string is not None:
            return self._byte_of_string(byte)
        letter = chr(byte)
        if letter == '"':
            self._string, self._is_name = b"", self._name_follows
        elif letter in "{[":
            self._open.append(frozenset() if letter == "{" else None)
            self._name_follows = letter == "{"
        elif letter in "}]":
            if self._open:
                self._open.pop()
            self._name_follows = False
        elif letter == ",":
            self._name_follows = bool(self._open) and self._open[-1] is not None
        elif letter == ":":
            self._name_follows = False
        return True

    def _byte_of_string(self, byte: int) -> bool:
        string = self._string or b""
        if self._escaped or byte != QUOTE:
            self._escaped = not self._escaped and byte == ESCAPE
            self._string = string + bytes((byte,))
            return True
        if self._is_name:
            if self._stands(string):
                return False
            self._open[-1] = (self._open[-1] or frozenset()) | {_meaning(string)}
        self._string, self._is_name = None, False
        return True


def _meaning(string: bytes) -> bytes:
    """A name without its escapes: the same name can be written in several ways."""
    if ESCAPE not in string:
        return string
    try:
        name: str = json.loads(b'"' + string + b'"')
        return name.encode("utf-8", "surrogatepass")
    except ValueError:
        return string


def _endings() -> itertools.chain[bytes]:
    return itertools.chain.from_iterable(
        ("".join(letters).encode() for letters in itertools.product(LETTERS, repeat=length))
        for length in itertools.count(1)
    )
