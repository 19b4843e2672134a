"""Lines end with a line break and nothing else; a diff turns the one text into the other."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.errors import UsageError
from dgemma.text.lines import (
    NO_NEWLINE,
    PlainView,
    line_end,
    lines_span,
    plain,
    split_lines,
    unified_diff,
    with_line_end,
)

TEXTS = st.text(alphabet="ab\n\r\x0c\u2028+- @\\", max_size=40)


@given(TEXTS)
def test_lines_put_together_are_the_text(text: str) -> None:
    lines = split_lines(text)
    assert "".join(lines) == text and all(line.count("\n") <= 1 and line for line in lines)
    for number, line in enumerate(lines, 1):
        start, end = lines_span(text, number, number)
        assert text[start:end] == line.removesuffix("\n")


@given(TEXTS)
def test_places_of_the_plain_text_are_those_of_the_same_characters(text: str) -> None:
    view = PlainView(text)
    assert view.text == plain(text)
    for place, character in enumerate(view.text):
        there = view.to_original(place)
        assert text[there] == character or text[there : there + 2] == "\r\n"
        assert view.to_plain(there) == place
    assert view.to_original(len(view.text)) == len(text)
    places = [view.to_plain(place) for place in range(len(text) + 1)]
    assert (
        places == sorted(places)
        and plain(text[: view.to_original(places[-1] // 2)]) == view.text[: places[-1] // 2]
    )


@given(TEXTS)
def test_most_lines_say_what_all_written_ones_end_with(text: str) -> None:
    windows, lines = text.count("\r\n"), text.count("\n")
    assert (line_end(text) == "\r\n") == (windows > lines - windows)
    written = with_line_end(text, "\r\n")
    assert written.count("\n") == written.count("\r\n") == lines and plain(written) == plain(text)
    assert with_line_end(text, "\n") == plain(text)


def test_spans_of_lines() -> None:
    assert lines_span("a\nbc\nd", 2, 3) == (2, 6) and lines_span("a\nbc\n", 1, 2) == (0, 4)
    for first, last in ((0, 1), (2, 1), (1, 3)):
        with pytest.raises(UsageError, match=f"no lines {first}:{last}; the text has 2"):
            lines_span("a\nb\n", first, last)


def patched(before: str, diff: str) -> str:
    """What `patch` makes of a text."""
    lines, out, place = split_lines(before), [], 0
    body = split_lines(diff)[2:]
    for number, line in enumerate(body):
        if found := re.match(r"@@ -(\d+)(?:,(\d+))? ", line):
            first = int(found[1]) - (found[2] != "0")
            out, place = out + lines[place:first], first
            continue
        if line == NO_NEWLINE:
            continue
        cut = number + 1 < len(body) and body[number + 1] == NO_NEWLINE
        if line[0] in " -":
            assert lines[place] == (line[1:-1] if cut else line[1:])
            place += 1
        if line[0] in " +":
            out.append(line[1:-1] if cut else line[1:])
    return "".join(out + lines[place:])


@given(TEXTS, TEXTS)
def test_a_diff_applied_to_the_one_text_is_the_other(before: str, after: str) -> None:
    diff = unified_diff(before, after, "x.py")
    assert bool(diff) == (before != after)
    assert patched(before, diff) == after
    assert not diff or diff.startswith("--- a/x.py\n+++ b/x.py\n@@ ")
