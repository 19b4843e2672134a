"""What /metrics tells, in Prometheus' format: counts and times, never anything that was said.

One registry per service. The worker's thread counts steps and canvases, the event loop the rest.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..engine.engine import Engine
from ..engine.requests import CommitRecord, Record
from .limits import Admission

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEPS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)


class Metrics:
    """The figures of one service."""

    def __init__(self, engine: Engine, admission: Admission):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dgemma_requests", "Answers by route and status.", ["route", "status"], registry=registry
        )
        self.steps = Counter("dgemma_steps", "Denoising steps, of all canvases.", registry=registry)
        self.canvases = Counter("dgemma_canvases", "Canvases that were committed.", registry=registry)
        self.tokens = Counter("dgemma_tokens", "Tokens that were committed.", registry=registry)
        self.per_canvas = Histogram(
            "dgemma_steps_per_canvas", "Steps that a canvas took.", buckets=STEPS, registry=registry
        )
        self.first = Histogram(
            "dgemma_first_event_seconds",
            "From the request to its first draft.",
            buckets=SECONDS,
            registry=registry,
        )
        self.total = Histogram(
            "dgemma_request_seconds", "From the request to its end.", buckets=SECONDS, registry=registry
        )
        gauges = {
            "dgemma_requests_open": ("Requests at work or waiting.", lambda: admission.open),
            "dgemma_requests_running": ("Requests that have a slot.", lambda: len(engine.scheduler.taken)),
            "dgemma_requests_waiting": (
                "Requests that wait for a slot.",
                lambda: max(0, admission.open - len(engine.scheduler.taken)),
            ),
            "dgemma_passes": ("Passes over the model that have ended.", lambda: engine.passes),
            "dgemma_prefix_bytes": ("Bytes of the prefix cache.", lambda: engine.scheduler.prefixes.counted),
            "dgemma_kv_bytes": (
                "Bytes given to requests at work, K and V and buffers.",
                lambda: _given(engine),
            ),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=registry).set_function(value)

    def observe(self, record: Record) -> None:
        """A record, on the worker's thread."""
        if isinstance(record, CommitRecord):
            self.canvases.inc()
            self.tokens.inc(len(record.token_ids))
            self.per_canvas.observe(record.steps)
        else:
            self.steps.inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _given(engine: Engine) -> int:
    return sum(slot.memory for slot in [*engine.scheduler.taken])
