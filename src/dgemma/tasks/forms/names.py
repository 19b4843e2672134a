"""The names of a JSON object's members, each of which may occur once.

A grammar cannot say so, and a count of members needs it.

Reads an answer's bytes as they come. Trap: it knows strings and brackets and nothing else of JSON, which the
form keeps.
"""

from __future__ import annotations

import itertools
import json

QUOTE = ord('"')
ESCAPE = ord("\\")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Names:
    """Where an answer stands among its objects and strings."""

    def __init__(self) -> None:
        self._open: list[frozenset[bytes] | None] = []  # the names in each open object; None for an array
        self._string: bytes | None = None  # the string that is open, as far as it is written
        self._is_name = False  # the open string is a member's name
        self._name_follows = False  # the next string is one
        self._escaped = False  # the next byte of the open string is escaped

    def copy(self) -> Names:
        other = Names()
        other._open = [*self._open]
        other._string = self._string
        other._is_name = self._is_name
        other._name_follows = self._name_follows
        other._escaped = self._escaped
        return other

    def take(self, text: bytes) -> bool:
        """Whether no name is closed in it that its object has already.

        Where one is, this is of no further use.
        """
        if self._string is not None and not self._escaped and QUOTE not in text and ESCAPE not in text:
            self._string += text
            return True
        return all(map(self._byte, text))

    @property
    def any(self) -> bool:
        """Whether an open object has a name."""
        return any(self._open)

    def distinct(self, text: bytes) -> bytes:
        """A text that follows here, with letters put behind its names that an object has already."""
        at = self.copy()
        made = bytearray()
        for byte in text:
            name = None
            if at._is_name and not at._escaped:
                name = at._string
            if byte == QUOTE and name is not None and at._is_taken(name):
                ending = next(one for one in _endings() if not at._is_taken(name + one))
                made += ending
                at.take(ending)
            made.append(byte)
            at._byte(byte)
        return bytes(made)

    def _is_taken(self, name: bytes) -> bool:
        """Whether the innermost object has a member of this name."""
        names = None
        if self._open:
            names = self._open[-1]
        return names is not None and _meaning(name) in names

    def _byte(self, byte: int) -> bool:
        if self._string is not None:
            return self._byte_of_string(byte)
        letter = chr(byte)
        if letter == '"':
            self._string = b""
            self._is_name = self._name_follows
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
            if self._is_taken(string):
                return False
            self._open[-1] = (self._open[-1] or frozenset()) | {_meaning(string)}
        self._string = None
        self._is_name = False
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
