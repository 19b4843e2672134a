"""Compiling forms where it cannot hurt: in a child process with limits of time and memory, before this
process compiles them too.

A compiled form cannot travel between processes, so each is compiled twice: in the child, which ends where a
limit does, and then here, where it is known to be cheap. The child is kept and used again; it costs a usual
form some tenths of a millisecond of waiting. One form is compiled at a time, by turns among clients, and a
client's forms may take so much time a minute.

Trap: what the library says of an error may hold the form and the state of its parser. Only its first line is
told.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import queue
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import ResourceError, UsageError
from .child import MOST_MEMORY, read_message, write_message

MOST_SECONDS = 2  # of the processor, for one form
MOST_WAIT = 5.0  # by the clock, for one form at work
MOST_A_MINUTE = 6.0  # seconds of compiling, for one client
REMEMBERED = 512  # forms that are known to be cheap, and clients
LIMITS = {
    "max_lexer_states": 50_000,
    "max_items_in_row": 10_000,
    "verbose_errors": False,
}  # of what one step may take here
LOOK = 0.05  # seconds between looks at whether anybody still waits


@dataclass(frozen=True)
class Asker:
    """Who wants a form: an `owner` has turns of its own; `still_wanted` raises what it likes once nobody
    waits any more.
    """

    owner: str = ""
    still_wanted: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Checked:
    """A form that may be compiled here: its source as the library reads it, and what it warned of."""

    source: str
    warnings: tuple[str, ...]


ALONE = Asker()  # a process that asks for itself


class Compiler:
    """The child of one vocabulary, and whose turn it is."""

    def __init__(self, pieces: Sequence[bytes], special: Sequence[int], eos: int, bos: int | None):
        self._first = {
            "path": sys.path,
            "pieces": [piece.decode("latin-1") for piece in pieces],
            "special": list(special),
            "eos": eos,
            "bos": bos,
        }
        self._child: _Child | None = None
        self._turns = _Turns()
        self._known: OrderedDict[bytes, Checked | str] = OrderedDict()  # or why a form cannot be kept
        # by client: seconds, and when that was
        self._charged: OrderedDict[str, tuple[float, float]] = OrderedDict()
        atexit.register(self.close)

    def check(self, source: str, name: str, asker: Asker, translate: bool = False) -> Checked:
        """Compile a form in the child.

        Raises UsageError, or ResourceError where this client's forms took too long.
        """
        key = hashlib.sha256(f"{translate}{source}".encode("utf-8", "surrogatepass")).digest()
        if key not in self._known:
            with self._turns.turn(asker):
                if key not in self._known:
                    self._refuse_greedy(asker.owner)
                    self._remember(key, self._compile(source, asker, translate))
        known = self._known[key]
        if isinstance(known, str):
            raise UsageError(f"{name} cannot be kept: {known}")
        return known

    def close(self) -> None:
        child = self._child
        self._child = None
        if child is not None:
            child.kill()

    def _remember(self, key: bytes, outcome: Checked | str) -> None:
        self._known[key] = outcome
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _refuse_greedy(self, owner: str) -> None:
        if owner and self._debt(owner) > MOST_A_MINUTE:
            raise ResourceError(
                "this client's forms took too long to compile in the last minute; wait, or send simpler ones"
            )

    def _debt(self, owner: str) -> float:
        """Seconds of compiling that a client owes: they are forgiven evenly, all of them within a minute."""
        seconds, then = self._charged.get(owner, (0.0, 0.0))
        return max(0.0, seconds - (time.monotonic() - then) * MOST_A_MINUTE / 60)

    def _charge(self, owner: str, seconds: float) -> None:
        self._charged[owner] = (self._debt(owner) + seconds, time.monotonic())
        self._charged.move_to_end(owner)
        while len(self._charged) > REMEMBERED:
            self._charged.popitem(last=False)

    def _compile(self, source: str, asker: Asker, translate: bool) -> Checked | str:
        if self._child is None or not self._child.alive:
            self._child = _Child(self._first)
        message = {"source": source, "translate": translate, "limits": LIMITS, "seconds": MOST_SECONDS}
        begun = time.monotonic()
        answer = None
        try:
            answer = self._child.ask(message, asker.still_wanted)
        finally:
            if answer is None:
                self._charge(asker.owner, min(MOST_SECONDS, time.monotonic() - begun))
            else:
                self._charge(asker.owner, answer["seconds"])
        if answer is None:
            limit = f"{MOST_SECONDS} seconds or {MOST_MEMORY >> 20} MB"
            return f"it takes more than {limit} to compile; ask for a simpler form"
        if answer["error"]:
            return first_line(answer["error"])
        return Checked(answer["source"], tuple(answer["warnings"]))


def too_much(matcher: Any) -> UsageError:
    """What to say of a form that came to a limit of the library on the way."""
    return UsageError(f"the asked form is too much: {first_line(matcher.get_error())}")


def first_line(problem: str) -> str:
    """What the library says of an error, without the form and its parser's state."""
    if problem.startswith("panic"):
        return "the library failed"
    for end in ("<state>", "<grammar>", "\n"):
        problem = problem.strip().partition(end)[0]
    return problem.strip()[:200] or "the library says no more"


class _Child:
    """A child at work, and the thread that reads what it says."""

    def __init__(self, first: dict[str, Any]):
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._stdin, self._stdout = _pipes(self._process)
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="dgemma forms", daemon=True).start()
        self._send(first)
        self._answers.get()  # ready, or gone

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, message: dict[str, Any], still_wanted: Callable[[], None]) -> dict[str, Any] | None:
        """Its answer; None where it ended instead, or time was up. Without an answer it is killed."""
        end = time.monotonic() + MOST_WAIT
        answer = None
        self._send(message)
        try:
            while time.monotonic() < end:
                still_wanted()
                try:
                    answer = self._answers.get(timeout=LOOK)
                except queue.Empty:
                    continue
                break
        finally:
            if answer is None:
                self.kill()
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError, ValueError):  # where it is gone, its reader says so
            write_message(self._stdin, message)

    def _read(self) -> None:
        try:
            while (message := read_message(self._stdout)) is not None:
                self._answers.put(message)
        except (OSError, ValueError):
            pass
        self._answers.put(None)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """What a process reads and what it writes, of one that was started with pipes."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process was started without pipes")
    return process.stdin, process.stdout


class _Turns:
    """A lock that goes round among owners: who was served last waits longest."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._waiting: list[tuple[str, object]] = []
        self._served: OrderedDict[str, int] = OrderedDict()
        self._count = 0

    def turn(self, asker: Asker) -> _Turn:
        return _Turn(self, asker)

    def enter(self, asker: Asker) -> None:
        mine = (asker.owner, object())
        with self._changed:
            self._waiting.append(mine)
            try:
                while self._busy or self._next() is not mine:
                    self._changed.wait(LOOK)
                    asker.still_wanted()
            finally:
                self._waiting.remove(mine)
                self._changed.notify_all()
            self._busy = True
            self._count += 1
            self._served[asker.owner] = self._count
            self._served.move_to_end(asker.owner)
            while len(self._served) > REMEMBERED:
                self._served.popitem(last=False)

    def leave(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _next(self) -> tuple[str, object]:
        return min(self._waiting, key=lambda one: self._served.get(one[0], 0))


class _Turn:
    def __init__(self, turns: _Turns, asker: Asker):
        self._turns = turns
        self._asker = asker

    def __enter__(self) -> None:
        self._turns.enter(self._asker)

    def __exit__(self, *_: object) -> None:
        self._turns.leave()
