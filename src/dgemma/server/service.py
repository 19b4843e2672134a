"""Service: what the handlers of one process share, from its first request to its last.

Made once per application and kept in `app.state.service`; the socket's side (http.py) ends it. Trap: counts
of requests are kept on the event loop alone, the engine belongs to the worker's thread.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from weakref import WeakSet

from starlette.applications import Starlette

from ..weights.identity import Identity
from .jobs import Job, RequestError, Running
from .keys import KeyRing, read_keys
from .limits import Admission, Bodies
from .metrics import Metrics
from .paths import RouteTable
from .request_log import RequestLog
from .routes import ServedModel
from .worker import Worker


@dataclass
class Service(ServedModel):
    """A model at work for many."""

    table: RouteTable
    worker: Worker = field(init=False)
    admission: Admission = field(init=False)
    bodies: Bodies = field(init=False)
    metrics: Metrics = field(init=False)
    threads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        engine = self.model.engine
        config = self.config
        most_open = engine.config.max_slots + config.max_queue
        self.admission = Admission(most_open)
        self.bodies = Bodies(config.max_bodies)
        self.metrics = Metrics(engine, self.admission)
        self.worker = Worker(engine, self.metrics.observe)
        self.threads = ThreadPoolExecutor(most_open + config.max_choices, "dgemma request")
        self.at_work: WeakSet[Running] = WeakSet()
        self.keys = KeyRing(config.keys)
        self.created = int(time.time())
        self.identity: Identity | None = None  # of the checkpoint's files, once somebody asked
        self.log = RequestLog(sys.stderr) if config.log_requests else None

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.worker.start()
        yield
        await asyncio.to_thread(self.worker.stop, None if self.fault is None else 0.0)
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self.log is not None:
            await asyncio.to_thread(self.log.close)

    @property
    def fault(self) -> str | None:
        """Why this process will answer nothing any more; None while passes run."""
        if self.worker.fault is not None:
            return str(self.worker.fault)
        if 0 < self.config.pass_timeout < self.worker.at_work_for:
            return (
                f"a pass has not ended for {self.config.pass_timeout:g} seconds; "
                "the service must be started again"
            )
        return None

    def running(self, job: Job, tenant: str, client: str) -> Running:
        """A job of somebody's, not yet begun."""
        most = self.config.max_prompt_tokens
        running = Running(self.model, self.worker, self.threads, job, tenant, most, client)
        self.at_work.add(running)
        return running

    def reload_keys(self) -> None:
        """Take the key file as it is now; what runs goes on.

        Raises UsageError, and then the keys stay as they were.
        """
        keys = read_keys(self.config.key_file)
        replace(self.config, keys=keys)  # judges them
        self.keys.replace(keys)

    def end_all(self) -> None:
        """Tell every client that its answer ends here."""
        for running in [*self.at_work]:
            running.end(RequestError(503, "the service was stopped", "server_error", retry_after=10))
