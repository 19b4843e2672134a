"""An open document: its text, kept as the editor changes it, and where LSP's positions stand in it.

A position is a line and a count of UTF-16 units, so that what lies beyond U+FFFF counts twice. A line ends
with "\\n", "\\r\\n" or "\\r", and with nothing else: text/lines.py and `str.splitlines` both cut elsewhere. A
position behind a line's end means that end, one inside a pair of surrogates the character's beginning.

Trap: JSON may bring half a pair, and its other half with the next change. It is kept as it came, a unit each,
so that positions stay right; only what a model is given (`shown`) is put together.
"""

from __future__ import annotations

import re
from typing import Any

LINE_END = re.compile(r"\r\n|\n|\r")
WIDE = "\uffff"  # the last character of one unit


class InvalidParams(Exception):
    """A request or notification whose parameters are not those of its method; the message names them."""


class Document:
    """A text under the editor's changes."""

    def __init__(self, text: str):
        self.text = text
        # of each line: where its text ends, and where the next one begins; None: not looked for yet
        self._ends: list[tuple[int, int]] | None = None

    def offset(self, position: Any) -> int:
        """The character that an LSP position stands before. Raises InvalidParams."""
        line = get(position, "line", int)
        units = get(position, "character", int)
        if line < 0 or units < 0:
            raise InvalidParams("a position is below 0")
        ends = self._line_ends()
        if line > len(ends):
            return len(self.text)
        start = 0
        if line != 0:
            start = ends[line - 1][1]
        if line == len(ends):
            end = len(self.text)
        else:
            end = ends[line][0]
        return self._behind(units, start, end)

    def _line_ends(self) -> list[tuple[int, int]]:
        if self._ends is None:
            self._ends = [match.span() for match in LINE_END.finditer(self.text)]
        return self._ends

    def _behind(self, units: int, start: int, end: int) -> int:
        """The character so many UTF-16 units behind a line's start, at most its end."""
        if units >= 2 * (end - start):
            return end
        for place in range(start, end):
            units -= 2 if self.text[place] > WIDE else 1
            if units < 0:
                return place
        return end

    def span(self, lsp_range: Any) -> tuple[int, int]:
        """The characters of an LSP range. Raises InvalidParams."""
        start = self.offset(get(lsp_range, "start", dict))
        end = self.offset(get(lsp_range, "end", dict))
        if start > end:
            raise InvalidParams("a range ends before it begins")
        return start, end

    def change(self, event: Any) -> None:
        """Take one of didChange's contentChanges: a range that is replaced, or the whole text.

        Raises InvalidParams.
        """
        text = get(event, "text", str)
        if event.get("range") is None:
            self.text = text
        else:
            start, end = self.span(event["range"])
            self.text = self.text[:start] + text + self.text[end:]
        self._ends = None


def get(params: Any, name: str, kind: type) -> Any:
    """A parameter of a kind. Raises InvalidParams."""
    value = None
    if isinstance(params, dict):
        value = params.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidParams(f"'{name}' is missing, or no {kind.__name__}")
    return value


def shown(text: str) -> str:
    """A text as a model reads it: line ends of its own kind, no BOM, whole characters."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
