"""Lines of a text: where they stand, and what changed between two texts.

A line ends with "\\n" and with nothing else.

Trap: `str.splitlines` also cuts at form feeds and Unicode's separators, so that its lines are not those of
editors, compilers and patch.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left

from ..errors import UsageError

NO_NEWLINE = "\\ No newline at end of file\n"  # what patch and git write and read


def split_lines(text: str) -> list[str]:
    """The lines of a text with their ends; the last one may have none."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    if not lines[-1]:
        lines.pop()
    return lines


def line_end(*texts: str) -> str:
    """What most lines of some texts end with: "\\r\\n" or "\\n"."""
    windows = sum(text.count("\r\n") for text in texts)
    lines = sum(text.count("\n") for text in texts)
    if 2 * windows > lines:
        return "\r\n"
    return "\n"


def plain(text: str) -> str:
    """A text as a model reads it: each line ends with "\\n" alone."""
    return text.replace("\r\n", "\n")


def with_line_end(text: str, end: str) -> str:
    """A text whose every line ends with `end`."""
    return plain(text).replace("\n", end)


class PlainView:
    """A text as a model reads it, and where its characters stand in the text as it is."""

    def __init__(self, text: str):
        self.original = text
        self.text = plain(text)
        self.line_end = line_end(text)
        self._pairs = [match.start() for match in re.finditer("\r\n", text)]
        # the same in the plain text
        self._breaks = [start - number for number, start in enumerate(self._pairs)]

    def to_plain(self, place: int) -> int:
        """A place of the original in the plain text; between "\\r" and "\\n" it is the one before both."""
        return place - bisect_left(self._pairs, place)

    def to_original(self, place: int) -> int:
        return place + bisect_left(self._breaks, place)

    def written(self, text: str) -> str:
        """What a model wrote, with the line ends of the original."""
        return with_line_end(text, self.line_end)


def lines_span(text: str, first: int, last: int) -> tuple[int, int]:
    """The characters of lines `first` to `last`, counted from 1, without the last one's end.

    Raises UsageError.
    """
    lines = split_lines(text)
    if not 1 <= first <= last <= len(lines):
        raise UsageError(f"there are no lines {first}:{last}; the text has {len(lines)}, and the first is 1")
    start = sum(map(len, lines[: first - 1]))
    whole = "".join(lines[first - 1 : last])
    return start, start + len(whole.removesuffix("\n"))


def unified_diff(before: str, after: str, name: str = "document") -> str:
    """What `diff -u` says; empty where nothing changed."""
    lines = difflib.unified_diff(split_lines(before), split_lines(after), f"a/{name}", f"b/{name}")
    parts = []
    for line in lines:
        parts.append(line)
        if not line.endswith("\n"):
            parts.append(f"\n{NO_NEWLINE}")
    return "".join(parts)
