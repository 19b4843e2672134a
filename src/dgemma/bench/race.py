"""The same prompts answered by canvas and token by token, with the same weights: what denoising in parallel
saves.

Both ways run on one engine, one request at a time, in turn, so that whatever else the machine does touches
both alike.
Trap: tokens per second depend on how full canvases are. A short answer in a wide canvas wins less, so the
share of cells that became text stands in the row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..engine import autoregressive
from ..engine.engine import Engine
from ..engine.requests import CommitRecord, Record, Request
from .roofline import synchronise

Judge = Callable[
    [list[list[int]]], list[bool]
]  # the answers' ids, in the order of the requests -> which are right


@dataclass
class Side:
    """One way of answering, over all requests.

    Seconds are by the clock, and of the processor for this process.
    """

    tokens: int = 0
    passes: int = 0  # through the model behind the prompt: denoising steps, or tokens
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    right: int | None = None  # answers, where somebody judges
    answers: list[list[int]] = field(default_factory=list)
    cells: int = 0  # of canvases; token by token, as many as tokens

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def ms_per_pass(self) -> float:
        """Milliseconds, the reading of prompts included."""
        return 1e3 * self.seconds / self.passes

    def to_dict(self) -> dict[str, Any]:
        """Everything but the answers, for JSON."""
        numbers = {name: value for name, value in asdict(self).items() if name != "answers"}
        return numbers | {"tokens_per_second": self.tokens_per_second, "ms_per_pass": self.ms_per_pass}


@dataclass(frozen=True)
class Race:
    """Both ways, and how many times as many tokens a second canvases give."""

    requests: int
    canvas: Side
    autoregressive: Side

    @property
    def ratio(self) -> float:
        """Of tokens per second by the clock."""
        return self.canvas.tokens_per_second / self.autoregressive.tokens_per_second

    @property
    def cpu_ratio(self) -> float:
        """Of tokens per second of processor time."""
        slow = self.autoregressive
        fast = self.canvas
        return (fast.tokens / fast.cpu_seconds) / (slow.tokens / slow.cpu_seconds)

    @property
    def full(self) -> float:
        """The share of canvas cells that became text."""
        return self.canvas.tokens / self.canvas.cells

    def to_dict(self) -> dict[str, Any]:
        sides = {"canvas": self.canvas.to_dict(), "autoregressive": self.autoregressive.to_dict()}
        shares = {"ratio": self.ratio, "cpu_ratio": self.cpu_ratio, "full": self.full}
        return {"requests": self.requests} | sides | shares


def race(engine: Engine, requests: Sequence[Request], judge: Judge | None = None) -> Race:
    """Answer every request both ways; the first one once before, to warm up.

    Raises UsageError for what a way refuses.
    """
    canvas = Side()
    tokens = Side()
    _run_both(engine, requests[0], Side(), Side())
    for request in requests:
        _run_both(engine, request, canvas, tokens)
    if judge is not None:
        for side in (canvas, tokens):
            side.right = sum(judge(side.answers))
    return Race(len(requests), canvas, tokens)


def _run_both(engine: Engine, request: Request, canvas: Side, tokens: Side) -> None:
    _run(engine, engine.run([request]), canvas)
    _run(engine, autoregressive.run(engine, request), tokens)


def _run(engine: Engine, records: Iterator[Record], side: Side) -> None:
    """Run a request to its end, and count what it took."""
    synchronise(engine.model.device)
    cpu = time.process_time()
    clock = time.perf_counter()
    commits = [record for record in records if isinstance(record, CommitRecord)]
    synchronise(engine.model.device)
    side.seconds += time.perf_counter() - clock
    side.cpu_seconds += time.process_time() - cpu
    side.answers.append([token for commit in commits for token in commit.token_ids])
    side.tokens += len(side.answers[-1])
    side.passes += sum(commit.steps for commit in commits)
    side.cells += sum(len(commit.canvas_ids) for commit in commits)
