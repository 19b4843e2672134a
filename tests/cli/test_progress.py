"""Progress of long work: lines with the time left where there is no terminal, a bar that leaves nothing behind where there is one."""

from __future__ import annotations

import sys

import pytest

from dgemma.cli.progress import Bar, duration, progress
from dgemma.config.sizes import disk_size, short_count

from .fakes import Terminal, remains


def test_a_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    bar = Bar("scoring", lambda: now[0])
    bar(100, 1100)  # a run that goes on has 100 behind it
    for seconds, done in ((10, 200), (31, 110), (62, 600), (70, 700), (100, 1100)):
        now[0] = seconds
        bar(done, 1100)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 10%",
        "scoring: 55%, 1 min left",
        "scoring: 100%",
    ]


def test_a_terminal_gets_a_bar_that_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Terminal()
    monkeypatch.setattr(sys, "stderr", both)
    monkeypatch.setenv("TERM", "xterm")
    with progress("training [1]") as bar:
        bar(1, 4)
        bar.hide()
        both.write("a line\n")
        bar(4, 4)
    assert "training [1]" in both.text and "100%" in both.text
    assert remains(both.text) == "a line"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min")],
)
def test_durations_are_told_in_two_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 B"), (999, "999 B"), (55_500, "55.5 kB"), (33_119_232, "33.12 MB"), (51_600_000_000, "51.60 GB")],
)
def test_sizes_are_decimal(size: int, told: str) -> None:
    assert disk_size(size) == told


def test_parameters_are_counted_in_words() -> None:
    assert (short_count(8_250_000), short_count(25_200_000_000)) == ("8.2 M", "25.2 B")
