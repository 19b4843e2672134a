"""A draft as coloured text: which colour, which lines, nothing that a stranger wrote obeyed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from dgemma.cli.picture import FILLER, STYLES, fold, kinds, mean_entropy, paint, plain, status, window

from .fakes import draft


def coloured(text: Text) -> list[tuple[str, str]]:
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def test_every_state_has_its_own_colour() -> None:
    one = draft("pafdn", accepted=[False, True, True, False, False], pinned=[True, False, False, False, False],
                entropy=[0.0, 0.1, 0.1, 0.9, 1.1], token_ids=[100, 101, 7, 103, 104])  # fmt: skip
    assert kinds(one, {7}) == ["pinned", "accepted", "filler", "draft", "noise"]
    expected = [("p", "pinned"), ("a", "accepted"), (FILLER, "filler"), ("d", "draft"), ("n", "noise")]
    assert coloured(paint(one, {7})) == [(piece, STYLES[kind]) for piece, kind in expected]
    assert len({STYLES[kind] for kind in ("pinned", "accepted", "draft", "noise", "committed")}) == 5


def test_filler_that_was_given_at_the_end_is_left_out() -> None:
    one = draft("abcd", pinned=[False, True, True, True], token_ids=[7, 101, 7, 7])
    assert paint(one, {7}).plain == FILLER + "b"
    free = draft("abcd", token_ids=[100, 7, 7, 7])
    assert paint(free, {7}).plain == "a" + 3 * FILLER


def test_text_is_neither_markup_nor_a_command_to_the_terminal() -> None:
    pieces = ["[red]x[/red]", "\x1b[2J", "a\tb\n", "\r\x7f\x9b", "\u202e"]
    painted = paint(draft("abcde", pieces=pieces))
    assert painted.plain == "[red]x[/red]␛[2Ja\tb\n␍␡��"


@given(st.text())
def test_plain_text_holds_no_control_character(text: str) -> None:
    shown = plain(text)
    assert len(shown) == len(text)
    assert all(character in "\n\t" or ord(character) >= 32 for character in shown) and "\x7f" not in shown


@given(st.text(alphabet="ab \n漢\t", max_size=60), st.integers(min_value=2, max_value=12))
def test_folded_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    lines = fold(Text(text), width)
    assert all(cell_len(line.plain) <= width for line in lines)
    assert "".join("".join(line.plain for line in lines).split()) == "".join(text.split())
    assert len(lines) >= text.count("\n") + 1
    assert [line.plain for line in fold(Text("a\tb"), 80)] == ["a       b"]


def test_a_window_holds_the_canvas_from_its_start() -> None:
    def shown(before: str, canvas: str, height: int) -> list[str]:
        return [line.plain for line in window(Text(before), Text(canvas), 10, height)]

    assert shown("1\n2\n3", "a\nb", 10) == ["1", "2", "3a", "b"]
    assert shown("1\n2\n3", "a\nb", 3) == ["2", "3a", "b"]
    assert shown("1\n2\n3", "a\nb\nc\nd", 3) == ["3a", "b", "c"]


def test_mean_entropy_is_over_what_the_model_decides() -> None:
    assert mean_entropy(draft("abc", entropy=[9.0, 1.0, 2.0], pinned=[True, False, False])) == 1.5
    assert mean_entropy(draft("a", pinned=[True])) == 0.0


def test_the_status_line() -> None:
    one = draft("abc", canvas=1, step=12, accepted=[False, True, True], pinned=[True, False, False])
    first = status(one, 48, passes=4, seconds=0.2, tokens=0, steps=[])
    assert first.plain == "canvas 2, step 12/48, accepted 2/2, 0.50 nats, 50 ms/step"
    later = status(one, 48, passes=40, seconds=2.0, tokens=128, steps=[10, 21])
    assert later.plain == "canvas 2, step 12/48, accepted 2/2, 0.50 nats, 64 tokens/s, 15.5 steps/canvas"
    assert status(one, 48, 4, 0.2, 0, [], "gap 8 of 8/16").plain.startswith("gap 8 of 8/16, step 12/48")
