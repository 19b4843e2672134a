"""How far long work has come, on stderr: a bar with the time left on a terminal, a line now and then
elsewhere.

Knows no task. Trap: a bar shares its terminal with whatever else is printed. Notes on stderr are moved
above it; whoever writes to stdout while it stands calls `hide` first, and the next report brings it back.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..config.sizes import disk_size
from .screen import can_animate, note, terminal

LOAD_SECONDS = 0.5  # loading that takes longer shows a bar
QUIET_SECONDS = 30.0  # between two lines where there is no terminal
ENOUGH = 0.05  # of the work, before a line says how long the rest takes


class Bar:
    """Call it with (done, all) as work goes on.

    On a terminal it is drawn; elsewhere a line is written every QUIET_SECONDS.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic):
        self._what = what
        self._clock = clock
        self._start = self._last = clock()
        self._first: int | None = None  # what was done before: a run that goes on has not worked for that
        self._drawn = _drawing(what) if can_animate() else None
        self._task = self._drawn.add_task(what, total=None) if self._drawn else None

    def __call__(self, done: int, total: int) -> None:
        self._first = done if self._first is None else self._first
        if self._drawn is not None:
            self._drawn.update(self._task, completed=done, total=total)
            if not self._drawn.live.is_started:
                self._drawn.start()
        elif sys.stderr is not None and (now := self._clock()) - self._last > QUIET_SECONDS:
            self._last = now
            note(f"{self._what}: {done / max(1, total):.0%}{self._left(done, total, now)}")

    def _left(self, done: int, total: int, now: float) -> str:
        """The time left, where enough of the work is behind us to know."""
        worked = done - (self._first or 0)
        if worked < ENOUGH * (total - (self._first or 0)) or done >= total:
            return ""
        return f", {duration((now - self._start) / worked * (total - done))} left"

    def hide(self) -> None:
        """Take the bar off the terminal, until the next report."""
        if self._drawn is not None and self._drawn.live.is_started:
            self._drawn.stop()


def duration(seconds: float) -> str:
    """Seconds in words of at most two units: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _drawing(what: str, in_bytes: bool = False, transient: bool = True) -> Any:
    """A bar that is not yet on the terminal. in_bytes: it counts bytes, and says how fast they come."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts: list[ProgressColumn] = [TaskProgressColumn()]
    if in_bytes:
        counts = [DownloadColumn(), TransferSpeedColumn()]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
    return Progress(
        *columns, console=terminal(), transient=transient, redirect_stdout=False, redirect_stderr=True
    )


@contextmanager
def progress(what: str) -> Iterator[Bar]:
    """A Bar for the time of the block."""
    bar = Bar(what)
    try:
        yield bar
    finally:
        bar.hide()


@contextmanager
def file_progress(start: str) -> Iterator[Callable[[int, int, str], None]]:
    """A callback for bytes of files in turn (done, all, which file).

    On a terminal the bar stays; elsewhere each file has a line.
    """
    if not can_animate():
        yield _line_per_file()
        return
    with _drawing(start, in_bytes=True, transient=False) as drawing:
        task = drawing.add_task(start, total=None)
        yield lambda done, total, what: drawing.update(task, completed=done, total=total, description=what)


def _line_per_file() -> Callable[[int, int, str], None]:
    last = ""

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        if what != last:
            note(f"{what} ({disk_size(done)} of {disk_size(total)})")
        last = what

    return report


@contextmanager
def loading(live: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress callback for api.load; a bar appears on a terminal once loading has taken LOAD_SECONDS."""
    if not live:
        yield None
        return
    drawing = _drawing("loading")
    task = drawing.add_task("loading", total=None)
    timer = threading.Timer(LOAD_SECONDS, drawing.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda done, total, _: drawing.update(task, completed=done, total=total)
    finally:
        timer.cancel()
        timer.join()
        if drawing.live.is_started:
            drawing.stop()
