"""An open document: its text, kept as the editor changes it, and where LSP's positions stand in it.

A position is a line and a count of UTF-16 units, so that what lies beyond U+FFFF counts twice. A line ends with "\\n", "\\r\\n" or "\\r",
and with nothing else: text/lines.py and `str.splitlines` both cut elsewhere. A position behind a line's end means that end, one inside a
pair of surrogates the character's beginning.

Trap: JSON may bring half a pair, and its other half with the next change. It is kept as it came, a unit each, so that positions
stay right; only what a model is given (`shown`) is put together.
"""

from __future__ import annotations

import re
from typing import Any

LINE_END = re.compile(r"\r\n|\n|\r")
WIDE = "\uffff"  # the last character of one unit


class Wrong(Exception):
    """A request or notification whose parameters are not those of its method; the message names them."""


class Document:
    """A text under the editor's changes."""

    def __init__(self, text: str):
        self.text = text
        self._ends: list[tuple[int, int]] | None = (
            None  # of each line: where its text ends, and where the next one begins
        )

    def offset(self, position: Any) -> int:
        """The character that an LSP position stands before. Raises Wrong."""
        line, units = get(position, "line", int), get(position, "character", int)
        if self._ends is None:
            self._ends = [match.span() for match in LINE_END.finditer(self.text)]
        if line < 0 or units < 0:
            raise Wrong("a position is below 0")
        if line > len(self._ends):
            return len(self.text)
        start = self._ends[line - 1][1] if line else 0
        end = self._ends[line][0] if line < len(self._ends) else len(self.text)
        if units >= 2 * (end - start):
            return end
        for place in range(start, end):
            units -= 2 if self.text[place] > WIDE else 1
            if units < 0:
                return place
        return end

    def span(self, found: Any) -> tuple[int, int]:
        """The characters of an LSP range. Raises Wrong."""
        start, end = self.offset(get(found, "start", dict)), self.offset(get(found, "end", dict))
        if start > end:
            raise Wrong("a range ends before it begins")
        return start, end

    def change(self, found: Any) -> None:
        """Take one of didChange's contentChanges: a range that is replaced, or the whole text. Raises Wrong."""
        text = get(found, "text", str)
        start, end = self.span(found["range"]) if found.get("range") is not None else (0, len(self.text))
        self.text, self._ends = self.text[:start] + text + self.text[end:], None


def get(params: Any, name: str, kind: type) -> Any:
    """A parameter of a kind. Raises Wrong."""
    value = params.get(name) if isinstance(params, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Wrong(f"'{name}' is missing, or no {kind.__name__}")
    return value


def shown(text: str) -> str:
    """A text as a model reads it: line ends of its own kind, no BOM, whole characters."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
