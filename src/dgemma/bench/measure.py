"""Run one workload through the engine and say what it cost, pass by pass.

A pass is timed from the outside, with everything that a user waits for in it: scheduling, the copy of a
step's output to the host, and the head. The first run of a workload warms up and is thrown away. Trap:
tokens/s without the steps per canvas says nothing, so both are always in the row.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass, field

import torch

from ..config import EngineConfig
from ..engine.engine import Engine, Load
from ..engine.requests import CommitRecord, StepRecord
from ..model.dgemma import DiffusionGemma
from .roofline import Machine, bytes_per_weight, synchronise, work_of
from .workloads import Workload

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # a name for a module cannot be typed otherwise


@dataclass
class Passes:
    """What was seen of every pass, and of every request."""

    seconds: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)  # the least time each could have taken
    loads: list[Load] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    first_draft: list[float] = field(default_factory=list)  # seconds from the start, of each request
    first_text: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)  # of each canvas
    tokens: int = 0


@dataclass(frozen=True)
class Row:
    """One line of results. Milliseconds, tokens per second, GiB."""

    recipe: str  # the name of its workload, as it stands in files
    requests: int
    step_ms: float  # median of the passes that read no prompt
    step_p95_ms: float
    limit_ms: float  # the least the median pass could have taken
    fraction: float  # of the machine's limit, over all passes
    steps_per_canvas: float
    tokens_per_second: float  # of all requests together
    tokens_per_second_each: float
    first_draft_ms: float
    first_text_ms: float
    prefill_tokens_per_second: float
    gib_per_step: float
    peak_gib: float  # beyond the model on a card, of the whole process on a CPU


def measure(model: DiffusionGemma, workload: Workload, machine: Machine, engine: EngineConfig) -> Row:
    """One run of a workload that is warm. Prefixes are not cached: each run reads its prompts."""
    running = Engine(model, dataclasses.replace(engine, prefix_cache=0))
    _warm(running, workload)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
    start = time.perf_counter()
    seen = watch(running, workload, machine)
    total = time.perf_counter() - start
    if model.device.type == "cuda":
        peak: float = torch.cuda.max_memory_allocated(model.device) - before
    else:
        peak = _most_resident()
    return _row(workload, seen, total, peak)


def _row(workload: Workload, seen: Passes, total: float, peak: float) -> Row:
    """What `seen` comes to, in `total` seconds and with at most `peak` bytes."""
    steps = [i for i, load in enumerate(seen.loads) if load.is_step] or [*range(len(seen.loads))]
    reading = [i for i, load in enumerate(seen.loads) if not load.canvas]
    times = sorted(seen.seconds[i] for i in steps)
    p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
    prompt_tokens = sum(seen.loads[i].clean for i in reading)
    prompt_seconds = sum(seen.seconds[i] for i in reading)
    rate = seen.tokens / total
    return Row(
        recipe=workload.name,
        requests=len(workload.requests),
        step_ms=1e3 * statistics.median(times),
        step_p95_ms=1e3 * p95,
        limit_ms=1e3 * statistics.median(seen.limits[i] for i in steps),
        fraction=sum(seen.limits) / sum(seen.seconds),
        steps_per_canvas=statistics.mean(seen.steps),
        tokens_per_second=rate,
        tokens_per_second_each=rate / len(workload.requests),
        first_draft_ms=1e3 * statistics.median(seen.first_draft),
        first_text_ms=1e3 * statistics.median(seen.first_text),
        prefill_tokens_per_second=prompt_tokens / prompt_seconds if prompt_seconds else float("nan"),
        gib_per_step=statistics.median(seen.bytes[i] for i in steps) / 2**30,
        peak_gib=peak / 2**30,
    )


def _warm(engine: Engine, workload: Workload) -> None:
    """The first passes of a workload.

    Libraries choose their kernels, the allocator finds its sizes, and steps are captured.
    """
    tickets = [engine.submit(request) for request in workload.requests]
    for _ in range(4):
        engine.advance()
    for ticket in tickets:
        engine.cancel(ticket)
    if engine.graphs:
        engine.warm(len(workload.requests))


def watch(engine: Engine, workload: Workload, machine: Machine) -> Passes:
    """Drive the engine to the end of a workload, with a clock around every pass."""
    seen = Passes()
    device = engine.model.device
    weights = bytes_per_weight(engine.model)
    tickets = [engine.submit(request) for request in workload.requests]
    drafted: set[int] = set()
    texted: set[int] = set()
    synchronise(device)
    start = time.perf_counter()
    while not engine.idle:
        began = time.perf_counter()
        engine.advance()
        synchronise(device)
        now = time.perf_counter()
        load = engine.last
        work = work_of(engine.model.config, engine.model.dtype.itemsize, *load, weights)
        seen.seconds.append(now - began)
        seen.limits.append(machine.seconds(work))
        seen.loads.append(load)
        seen.bytes.append(work.bytes)
        for ticket in tickets:
            for record in engine.poll(ticket):
                if isinstance(record, StepRecord) and ticket not in drafted:
                    drafted.add(ticket)
                    seen.first_draft.append(now - start)
                if isinstance(record, CommitRecord):
                    if ticket not in texted:
                        texted.add(ticket)
                        seen.first_text.append(now - start)
                    seen.steps.append(record.steps)
                    seen.tokens += len(record.token_ids)
    return seen


def _most_resident() -> float:
    """Bytes of this process's peak resident memory; NaN on Windows, where Python does not know it."""
    if resource is None:
        return float("nan")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return most
    return most * 1024
