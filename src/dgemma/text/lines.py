"""Lines of a text: where they stand, and what changed between two texts.

A line ends with "\\n" and with nothing else. Trap: `str.splitlines` also cuts at form feeds and Unicode's separators, so that its
lines are not those of editors, compilers and patch.
"""

from __future__ import annotations

import difflib

from ..errors import UsageError

NO_NEWLINE = "\\ No newline at end of file\n"  # what patch and git write and read


def split_lines(text: str) -> list[str]:
    """The lines of a text with their ends; the last one may have none."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def lines_span(text: str, first: int, last: int) -> tuple[int, int]:
    """The characters of lines `first` to `last`, counted from 1, without the last one's end. Raises UsageError."""
    lines = split_lines(text)
    if not 1 <= first <= last <= len(lines):
        raise UsageError(f"there are no lines {first}:{last}; the text has {len(lines)}, and the first is 1")
    start = sum(map(len, lines[: first - 1]))
    whole = "".join(lines[first - 1 : last])
    return start, start + len(whole.removesuffix("\n"))


def unified_diff(before: str, after: str, name: str = "document") -> str:
    """What `diff -u` says; empty where nothing changed."""
    pair = split_lines(before), split_lines(after)
    found = difflib.unified_diff(*pair, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}" for line in found)
