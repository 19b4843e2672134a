"""Where a canvas step goes: the time of each operation of roofline.py beside the least it could take.

A run of its own with a clock around the operations, put there from outside by the tables below and taken away
again; no measured row has them. Knows names of modules and functions, nothing of what they compute. The
figures are means over the workload's canvas steps, because medians of parts do not add up.

On a card a time lies between two events of its stream: where the host is late with the next launch, the wait
counts as well. Trap: a step's limit is less than the sum of its operations' limits, some of which are bound
by arithmetic and some by bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..config import EngineConfig
from ..engine import canvases
from ..engine.engine import Engine, Load
from ..model.dgemma import DiffusionGemma
from ..model.passes import Pass
from .roofline import OPERATIONS, Machine, bytes_per_weight, synchronise, total, work_by_operation
from .workloads import Workload

# What is timed, none inside another: modules by the last part of their name, and functions by who holds them.
MODULES = {
    "q_proj": "projections",
    "k_proj": "projections",
    "v_proj": "projections",
    "o_proj": "projections",
    "mlp": "dense MLP",
    "router": "router",
    "experts": "experts",
    "self_conditioning": "conditioning MLP",
}
FUNCTIONS: tuple[tuple[Any, str, str], ...] = (
    (Pass, "attend", "attention"),
    (DiffusionGemma, "self_conditioning_of", "expected embedding"),
    (canvases, "head", "head"),
)
REST = "everything else"
STEP = "step"


@dataclass(frozen=True)
class Part:
    """One operation's share of the mean canvas step; the limit is None for what has no work of its own."""

    operation: str
    ms: float
    share: float
    limit_ms: float | None
    fraction: float | None  # of its limit


class Clock:
    """Times of named stretches: of this thread on a CPU, of the stream on a card."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.open: list[Any] = []
        self.stretches: list[tuple[str, Any, Any]] = []

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def begin(self, *_: Any) -> None:
        self.open.append(self.now())

    def end(self, operation: str, *_: Any) -> None:
        self.stretches.append((operation, self.open.pop(), self.now()))

    def read(self) -> Counter[str]:
        """Seconds by operation since the last reading; the device has been waited for."""
        seconds: Counter[str] = Counter()
        for operation, start, stop in self.stretches:
            seconds[operation] += start.elapsed_time(stop) / 1e3 if self.cuda else stop - start
        self.stretches = []
        return seconds


@contextmanager
def listening(model: DiffusionGemma, clock: Clock) -> Iterator[None]:
    """The clock around everything that the tables name, until the block is left."""
    hooks = []
    plain = [(owner, name, getattr(owner, name)) for owner, name, _ in FUNCTIONS]
    try:
        for name, module in model.named_modules():
            if operation := MODULES.get(name.rpartition(".")[2]):
                hooks.append(module.register_forward_pre_hook(clock.begin))
                hooks.append(module.register_forward_hook(functools.partial(clock.end, operation)))
        for owner, name, operation in FUNCTIONS:
            setattr(owner, name, _timed(getattr(owner, name), operation, clock))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for owner, name, function in plain:
            setattr(owner, name, function)


def _timed(function: Callable[..., Any], operation: str, clock: Clock) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        clock.begin()
        result = function(*arguments, **named)
        clock.end(operation)
        return result

    return timed


def profile(model: DiffusionGemma, workload: Workload, machine: Machine, engine: EngineConfig) -> list[Part]:
    """One more run of a workload that was measured just before.

    -> OPERATIONS, REST and STEP, which is the sum of the others.
    """
    passes = [*_passes(model, workload, engine)]
    steps = [one for one in passes if one[0].is_step] or passes
    whole = statistics.mean(seconds for _, seconds, _ in steps)
    measured: Counter[str] = Counter()
    least: dict[str, float] = defaultdict(float)
    for load, _, by_operation in steps:
        measured.update({name: seconds / len(steps) for name, seconds in by_operation.items()})
        works = dict(work_by_operation(model.config, model.dtype.itemsize, *load, bytes_per_weight(model)))
        for name, work in (works | {STEP: total(works.values())}).items():
            least[name] += machine.seconds(work) / len(steps)
    rest = whole - sum(measured.values())
    parts = [_part(name, measured[name], least[name], whole) for name in OPERATIONS]
    return [*parts, _part(REST, rest, None, whole), _part(STEP, whole, least[STEP], whole)]


def _part(name: str, seconds: float, least: float | None, whole: float) -> Part:
    milliseconds = 1e3 * seconds
    share = seconds / whole
    if least is None:
        return Part(name, milliseconds, share, None, None)
    return Part(name, milliseconds, share, 1e3 * least, least / seconds if seconds else None)


def _passes(
    model: DiffusionGemma, workload: Workload, config: EngineConfig
) -> Iterator[tuple[Load, float, Counter[str]]]:
    """What every pass carried, the seconds it took, and those of its operations."""
    engine = Engine(model, dataclasses.replace(config, prefix_cache=0))
    clock = Clock(model.device)
    engine.graphs = None  # a captured step calls none of the functions that are timed
    tickets = [engine.submit(request) for request in workload.requests]
    with listening(model, clock):
        while not engine.idle:
            synchronise(model.device)
            began = time.perf_counter()
            engine.advance()
            synchronise(model.device)
            seconds = time.perf_counter() - began
            yield engine.last, seconds, clock.read()
            for ticket in tickets:
                engine.poll(ticket)
