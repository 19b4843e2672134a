"""The live region: what is drawn, what is cleared, what remains, and where it goes."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from dgemma.cli import progress as progress_module
from dgemma.cli.progress import loading
from dgemma.cli.screen import Screen, can_animate, summary

from .fakes import Terminal, draft, generation, remains


class Stage:
    """A terminal shared by stdout and stderr, 40 cells by 10 lines, that keeps everything written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **console: Any):
        self.out, self.monkeypatch = Terminal(), monkeypatch
        self.console = Console(
            file=self.out, force_terminal=True, width=40, height=10, record=True, **console
        )

    def screen(self, **changes: Any) -> Screen:
        self.monkeypatch.setattr(
            sys, "stdout", self.out
        )  # now: pytest puts its own stdout back after the fixtures
        return Screen(**({"live": True, "flows": True, "max_steps": 48, "console": self.console} | changes))

    @property
    def remains(self) -> str:
        return remains(self.out.text)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Stage(monkeypatch)


def test_a_settling_canvas_leaves_the_text_and_nothing_else(stage: Stage) -> None:
    with stage.screen() as screen:
        for step in (1, 2, 3):
            screen.draft(draft("noise and\nmore", step=step))
        screen.committed(2, 3, [("content", "one\ntw")])
        screen.draft(draft("o!", canvas=1))
        assert "one" in stage.remains and "two!" in stage.remains  # the canvas goes on in the unfinished line
        screen.committed(1, 1, [("content", "o\nend")])
    assert stage.remains == "one\ntwo\nend" and screen.passes == 4
    assert "step 3/48" in stage.console.export_text() and "noise and" in stage.out.text
    assert stage.out.text.endswith("\n") and stage.out.text.count("\x1b[?25l") == stage.out.text.count(
        "\x1b[?25h"
    )


def test_the_status_line_stays_where_it_is_while_lines_come_and_go(stage: Stage) -> None:
    with stage.screen() as screen:
        screen.draft(draft("a\nb\nc\nd", step=1))
        screen.draft(draft("a", step=2))
        shown = stage.remains.split("\n")
    assert shown[0] == "a" and len(shown) == 5 and shown[4].startswith("canvas 1, step 2/48")


def test_a_long_canvas_is_cut_to_the_terminal(stage: Stage) -> None:
    with stage.screen() as screen:
        screen.draft(draft("x\n" * 200))
        shown = stage.remains.split("\n")
        assert len(shown) == 9 and max(map(len, shown)) <= 40
        screen.draft(draft("y" * 4000, step=2))
        shown = stage.remains.split("\n")
        assert len(shown) == 9 and shown[0] == "y" * 40 and max(map(len, shown)) <= 40


def test_a_step_of_several_candidates_is_drawn_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []
    monkeypatch.setattr(Screen, "_draw", lambda self: (drawn.append(self._last), self._fresh.clear()))
    screen = stage.screen(rows=("a", "b", "c"))
    for row in (0, 1, 2):
        screen.draft(draft(step=1, row=row))
    assert drawn == [(0, 1)]
    for step in (2, 3, 4):  # candidate 1 is done: only the first step without it waits for the next one
        for row in (0, 2):
            screen.draft(draft(step=step, row=row))
    assert drawn == [(0, 1), (0, 2), (0, 3), (0, 4)] and screen.passes == 4


def test_the_most_confident_candidate_is_shown_and_named_and_does_not_flicker(stage: Stage) -> None:
    def step(number: int, first: float, second: float) -> str:
        screen.draft(draft("AA", step=number, row=0, entropy=[9.0, first], pinned=[True, False]))
        screen.draft(draft("BB", step=number, row=1, entropy=[0.0, second], pinned=[True, False]))
        return stage.remains.split("\n")[0] + stage.remains.split("\n")[-1][:7]

    with stage.screen(rows=("gap 4 ", "gap 16")) as screen:
        assert step(1, 2.0, 3.0) == "AAgap 4 ,"[:9]
        assert step(2, 2.0, 1.9) == "AAgap 4 ,"[:9]  # nearly the same: stay
        assert step(3, 2.0, 1.0) == "BBgap 16,"[:9]


def test_in_a_pipe_nothing_is_written_but_the_canvas_on_the_terminal(stage: Stage) -> None:
    with stage.screen(flows=False) as screen:
        screen.draft(draft("zz"))
        screen.committed(1, 1, [("content", "first\nsec")])
        screen.draft(draft("ond", canvas=1))
        assert stage.remains.startswith("first\nsecond\n")
    assert stage.remains == ""


def test_without_a_live_canvas_text_comes_at_once(stage: Stage) -> None:
    with stage.screen(live=False) as screen:
        screen.draft(draft())
        screen.committed(1, 1, [("content", "no newline")])
        assert stage.out.text == "no newline"
    assert screen.passes == 1 and stage.out.text == "no newline\n"


def test_thoughts_are_dimmed_and_stand_on_their_own_lines(stage: Stage) -> None:
    with stage.screen() as screen:
        screen.committed(1, 1, [("thought", "hm,\nso"), ("content", "Yes."), ("content", " No.")])
    assert stage.remains == "hm,\nso\nYes. No."
    assert "\x1b[2;3mhm," in stage.out.text and "\x1b[2;3mYes" not in stage.out.text


def test_thoughts_never_reach_a_stdout_beside_a_pipe_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    with Screen(live=False, flows=True, max_steps=4) as screen:
        screen.committed(1, 1, [("thought", "hm"), ("content", "Yes.")])
    assert out.text == "Yes.\n" and capsys.readouterr().err == ""


def test_a_prompt_is_shown_before_its_continuation(stage: Stage) -> None:
    with stage.screen(echo="import os\n\ndef f(x):") as screen:
        screen.draft(draft(" zz"))
        assert stage.remains.split("\n")[:3] == ["import os", "", "def f(x): zz"]
        screen.committed(1, 1, [("content", "\n    return x\n")])
    assert stage.remains == "import os\n\ndef f(x):\n    return x"


def test_what_was_committed_is_kept_when_an_error_comes(stage: Stage) -> None:
    with pytest.raises(KeyboardInterrupt), stage.screen() as screen:
        screen.draft(draft("zz"))
        screen.committed(1, 1, [("content", "kept")])
        screen.draft(draft("lost", canvas=1))
        raise KeyboardInterrupt
    assert stage.remains == "kept" and stage.out.text.endswith("kept\n")


def test_colours_follow_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = draft("ab", accepted=[True, False])
    for variable, found in ((None, True), ("1", False)):
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("NO_COLOR", variable) if variable else monkeypatch.delenv(
            "NO_COLOR", raising=False
        )
        stage = Stage(monkeypatch)
        with stage.screen() as screen:
            screen.draft(accepted)
        assert ("\x1b[1;32ma" in stage.out.text) is found and "step 1/48" in stage.out.text


def test_escape_sequences_of_a_model_are_shown_not_obeyed(stage: Stage) -> None:
    with stage.screen() as screen:
        screen.draft(draft("ab", pieces=["\x1b]0;x\x07", "[bold]"]))
        screen.committed(1, 1, [("content", "\x1b[2Jcleared\n")])
    assert "\x1b]0" not in stage.out.text and "\x1b[2J" not in stage.out.text
    assert stage.remains == "␛[2Jcleared"


def test_only_a_terminal_that_can_move_its_cursor_is_animated(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, term, able in (
        (Terminal(), "xterm", True),
        (Terminal(), "dumb", False),
        (io.StringIO(), "xterm", False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", term)
        assert can_animate() is able
    monkeypatch.setattr(sys, "stderr", None)
    assert can_animate() is False


@pytest.mark.parametrize("limit", [600.0, 0.01])
def test_a_bar_appears_only_when_loading_takes_long(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(progress_module, "LOAD_SECONDS", limit)
    with loading(True) as progress:
        assert progress is not None
        progress(1, 2, "[red]tensor")
        end = time.monotonic() + 30
        while limit < 1 and "loading" not in err.text and time.monotonic() < end:
            time.sleep(0.01)
    assert ("loading" in err.text) is (limit < 1) and remains(err.text) == ""


def test_without_a_terminal_there_is_no_bar() -> None:
    with loading(False) as progress:
        assert progress is None


def test_the_summary_says_what_it_took_and_why_it_ended() -> None:
    line = summary(generation("x" * 10, steps=[3, 5], finish_reason="length"), passes=8)
    assert line == (
        "10 tokens in 2 canvases, 8 steps (4.0 per canvas), 250 ms per step, 5.0 tokens/s, 1.25 tokens per forward, "
        "ended by --max-tokens"
    )
    assert summary(generation("x"), passes=2).endswith("ended by an end token")
    assert summary(generation("x", stop="\n"), passes=2).endswith("ended by a stop string")
    assert summary(generation("x"), passes=2, ended="gap of 8 closed").endswith("gap of 8 closed")
