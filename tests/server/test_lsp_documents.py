"""Positions of LSP and changes of a document, against a text that is kept as the UTF-16 units that the protocol counts."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dgemma.server.lsp.documents import Document, InvalidParams, shown

TEXTS = st.text(st.sampled_from("ab \t\n\r\u2028\ufeffé\uffff𝔵😀"), max_size=30)
PLACES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), TEXTS), max_size=6)


def units(text: str) -> list[int]:
    data = text.encode("utf-16-le")
    return [int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2)]


def position(text: str, place: int) -> dict[str, int]:
    """Where LSP says that a character stands, counted unit by unit."""
    line = column = 0
    before, after = units(text[:place]), units(text[place:])
    for at, unit in enumerate(before):
        following = (before[at + 1 :] + after)[:1]
        if unit == 10 or (unit == 13 and following != [10]):
            line, column = line + 1, 0
        else:
            column += 1
    return {"line": line, "character": column}


def is_inside_a_line_end(text: str, place: int) -> bool:
    return text[place - 1 : place + 1] == "\r\n" and place > 0


@given(TEXTS, PLACES)
@example("😀\r\n𝔵b", [(0.7, 1.0, "x")])
def test_edits_at_positions_are_edits_at_characters(text: str, edits: list[tuple[float, float, str]]) -> None:
    document = Document(text)
    for first, last, new in edits:
        start, end = sorted((round(first * len(text)), round(last * len(text))))
        start -= is_inside_a_line_end(text, start)  # which no position can name
        end -= is_inside_a_line_end(text, end)
        found = {"start": position(text, start), "end": position(text, end)}
        assert document.span(found) == (start, end)
        document.change({"range": found, "text": new})
        text = text[:start] + new + text[end:]
        assert document.text == text


def test_characters_are_not_units() -> None:
    text = (
        "😀😀b"  # the reference counts units: with characters for units the edit above would be another one
    )
    assert position(text, 2) == {"line": 0, "character": 4}
    assert Document(text).offset({"line": 0, "character": 2}) == 1


@pytest.mark.parametrize(
    ("text", "line", "character", "place"),
    [
        ("ab\ncd", 0, 9, 2), ("ab\r\ncd", 0, 3, 2), ("ab\r\ncd", 1, 0, 4), ("ab\rcd", 1, 1, 4), ("ab\n", 1, 0, 3), ("ab\n", 7, 3, 3),
        ("", 0, 0, 0), ("", 3, 3, 0), ("😀x", 0, 1, 0), ("😀x", 0, 2, 1), ("😀x", 0, 3, 2), ("a\u2028b\x0cc\x0bd", 0, 6, 6), ("\ufeffa", 0, 1, 1),
        ("\n\r\n\r", 3, 0, 4), ("ab", 0, 10**30, 2), ("\ud83dx", 0, 1, 1),
    ],
)  # fmt: skip
def test_places(text: str, line: int, character: int, place: int) -> None:
    assert Document(text).offset({"line": line, "character": character}) == place


@pytest.mark.parametrize(
    "found",
    [
        None, 3, {}, {"text": None}, {"text": "x", "range": 3}, {"text": "x", "range": {"start": {"line": 0, "character": 0}}},
        {"text": "x", "range": {"start": {"line": 0, "character": 2}, "end": {"line": 0, "character": 1}}},
        {"text": "x", "range": {"start": {"line": -1, "character": 0}, "end": {"line": 0, "character": 1}}},
        {"text": "x", "range": {"start": {"line": True, "character": 0}, "end": {"line": 0, "character": 1.5}}},
    ],
)  # fmt: skip
def test_what_is_no_change_is_refused(found: object) -> None:
    document = Document("abc")
    with pytest.raises(InvalidParams):
        document.change(found)
    assert document.text == "abc"


def test_a_model_is_shown_whole_characters() -> None:
    document = Document("\ufeffa\r\nb\ud83d")
    document.change(
        {
            "text": "\ude00",
            "range": {"start": {"line": 1, "character": 2}, "end": {"line": 1, "character": 2}},
        }
    )
    assert document.text == "\ufeffa\r\nb\ud83d\ude00" and shown(document.text) == "a\nb😀"
    assert shown("x\ud83d") == "x\ufffd"
