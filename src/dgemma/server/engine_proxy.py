"""EngineProxy: the engine as a request's own thread sees it.

It waits for records instead of driving passes.

A request's task (api.Model's generators) runs on a small thread of its own, which sleeps in `run` until
there is something to read; so one task's Python never holds up another's pass for longer than the
interpreter's lock does. Trap: `close` may come before `run`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from ..engine.requests import Record, Request
from ..errors import Cancelled
from ..model.kv import KVCache
from .worker import Batch, Worker, is_last

T = TypeVar("T")


class EngineProxy:
    """The engine, as a request's thread sees it: the Runner that tasks get in place of the engine."""

    def __init__(
        self,
        worker: Worker,
        cache_salt: str = "",
        max_prompt_tokens: int | None = None,
        watched: bool = True,
        client: str = "",
    ):
        self._worker = worker
        self._cache_salt = cache_salt
        self._max_prompt_tokens = max_prompt_tokens
        self._watched = watched
        self._client = client
        self._batch: Batch | None = None
        self._closed = False
        self.model = worker.engine.model
        self.config = worker.engine.config
        self.slots = worker.engine.scheduler

    def check(self, request: Request) -> None:
        """Engine.check, and the service's own limit. Raises UsageError or ResourceError."""
        request.check(self.model.config, self._max_prompt_tokens)
        self._worker.engine.check(request)

    def run(self, requests: Sequence[Request]) -> Generator[Record, None, None]:
        """Engine.run, by the worker. Raises Cancelled once nobody waits for it any more."""
        salted = [
            dataclasses.replace(
                request, cache_salt=self._cache_salt + request.cache_salt, client=self._client
            )
            for request in requests
        ]
        batch = self._batch = Batch(salted, watched=self._watched)
        if self._closed:
            raise Cancelled
        self._worker.submit(batch)
        left = len(salted)
        try:
            while left:
                received = batch.box.get()
                if isinstance(received, BaseException):
                    raise received
                for record in received:
                    left -= is_last(record)
                    yield record
        finally:
            if left:
                self._worker.cancel(batch)

    def read(self, ids: Sequence[int], keep: bool = False) -> Generator[None, None, KVCache]:
        return self._worker.engine.read(ids, self._cache_salt, keep, self._client)

    def do(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Engine.do, by the worker. Raises Cancelled once nobody waits for it any more."""
        if self._closed:
            raise Cancelled
        result: T = self._worker.call(self._worker.engine.do, fn, *arguments, client=self._client)
        return result

    @property
    def owner(self) -> str:
        """Whose requests these are."""
        return f"client {self._client or self._cache_salt}"

    def still_wanted(self) -> None:
        """Raises Cancelled once nobody waits for it any more."""
        if self._closed:
            raise Cancelled

    def close(self) -> None:
        """End what runs, from any thread; its slots are free before the next pass."""
        self._closed = True
        if self._batch is not None:
            self._worker.cancel(self._batch)
