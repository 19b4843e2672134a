"""The one thread that owns the device: it alone makes passes, and all else that touches the model runs on it between them.

    call(fn)          run something on it, between two passes
    Remote            what a request's own thread has in place of the engine: `run` waits for records instead of driving

A request's task (api.Model's generators) runs on a small thread of its own, which sleeps in `Remote.run` until there is
something to read; so one task's Python never holds up another's pass for longer than the interpreter's lock does.

A pass that fails says nothing of who broke it. Everything it carried is forgotten; those who were in it are run again alone,
newest first, until one fails alone: that one gets the error. Requests give the same tokens again, so what a client has already been
told is not told twice. Trap: in bf16 the company changes a few tokens; one whose committed text came out otherwise the second
time ends with an error instead of two halves that do not belong together.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ..engine.engine import Engine
from ..engine.requests import CommitRecord, Record, Request
from ..errors import DgemmaError, ResourceError, is_out_of_memory

T = TypeVar("T")


class Cancelled(Exception):
    """Nobody waits for this request any more."""


class WorkerError(DgemmaError):
    """A pass failed, and this request was alone in it. The message names the kind of error, never a prompt."""


@dataclass(eq=False)
class Batch:
    """Requests of one `Remote.run`, and where their thread waits."""

    requests: Sequence[Request]
    box: SimpleQueue[Any] = field(default_factory=SimpleQueue)  # lists of records, or the exception that ends it
    watched: bool = True  # False: of its steps only the first is told, so that no thread wakes for what nobody looks at
    closed: bool = False


@dataclass(eq=False)
class _Entry:
    """One request in the engine."""

    batch: Batch
    index: int
    commits: list[list[int]] = field(default_factory=list)  # that its client was told of, in this attempt or in one before


class Worker:
    """The thread, and who waits for what. `observe` is told every record once, on this thread."""

    def __init__(self, engine: Engine, observe: Callable[[Record], None] = lambda record: None):
        self.engine, self._observe = engine, observe
        self.failures = 0  # passes that failed
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._entries: dict[int, _Entry] = {}  # by ticket
        self._suspects: deque[_Entry] = deque()  # to be run alone, after a failed pass
        self._parked: deque[_Entry] = deque()  # who waits until they have been
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="dgemma device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the pass that it is in."""
        self._inbox.put(self._stop)
        if self._thread.is_alive():
            self._thread.join()

    def call(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Run something that touches the device, between two passes; wait for it. Its error is raised here."""
        if threading.current_thread() is self._thread:
            return fn(*arguments)
        future: Future[T] = Future()
        self._inbox.put(lambda: _fulfil(future, fn, arguments))
        return future.result()

    def submit(self, batch: Batch) -> None:
        self._inbox.put(lambda: self._admit([_Entry(batch, index) for index in range(len(batch.requests))]))

    def cancel(self, batch: Batch) -> None:
        """Forget a batch before the next pass; its thread wakes with Cancelled."""
        batch.closed = True
        batch.box.put(Cancelled())
        self._inbox.put(lambda: self._forget(batch))

    @property
    def waiting(self) -> int:
        """Requests that are not at work yet."""
        return max(0, len(self._entries) - len(self.engine.slots.taken)) + len(self._suspects) + len(self._parked)

    def _stop(self) -> None:
        self._stopping = True

    def _work(self) -> None:
        while not self._stopping:
            self._obey()
            if self.engine.idle or self._stopping:
                continue
            try:
                self.engine.advance()
            except Exception as error:  # whatever it is: the thread survives, and somebody gets to know
                self._recover(_told_to_its_client(error))
            self._hand_out()
        for batch in {entry.batch for entry in (*self._entries.values(), *self._suspects, *self._parked)}:
            batch.box.put(Cancelled())

    def _obey(self) -> None:
        """What others asked for; without anything to do, wait until they do."""
        wait = self.engine.idle
        while not self._stopping:
            try:
                self._inbox.get(block=wait)()
            except Empty:
                return
            wait = False

    def _admit(self, entries: list[_Entry]) -> None:
        for entry in entries:
            if entry.batch.closed:
                continue
            if self._suspects:
                self._parked.append(entry)
            else:
                self._enter(entry)

    def _enter(self, entry: _Entry) -> None:
        try:
            self._entries[self.engine.submit(entry.batch.requests[entry.index])] = entry
        except Exception as error:
            self._fail(entry.batch, _told_to_its_client(error))

    def _forget(self, batch: Batch) -> None:
        for ticket, entry in [*self._entries.items()]:
            if entry.batch is batch:
                self.engine.cancel(ticket)
                del self._entries[ticket]
        self._suspects = deque(entry for entry in self._suspects if entry.batch is not batch)
        self._parked = deque(entry for entry in self._parked if entry.batch is not batch)
        self._go_on()

    def _fail(self, batch: Batch, error: DgemmaError) -> None:
        batch.closed = True
        batch.box.put(error)
        self._forget(batch)

    def _hand_out(self) -> None:
        for ticket, entry in [*self._entries.items()]:
            records = self.engine.poll(ticket)
            fresh = [record.of(entry.index) for record in records if self._is_news(entry, record)]
            if records and _is_last(records[-1]) and self._entries.pop(ticket, None):
                self.engine.cancel(ticket)
            if fresh and not entry.batch.closed:
                entry.batch.box.put(fresh)
        self._go_on()

    def _is_news(self, entry: _Entry, record: Record) -> bool:
        """Whether a record goes on from what the client knows; one of a canvas that was committed before must say the same."""
        known = entry.commits
        if record.canvas >= len(known):
            self._observe(record)
            if isinstance(record, CommitRecord):
                known.append(record.token_ids)
                return True
            return entry.batch.watched or (record.canvas, record.step) == (0, 1)
        if isinstance(record, CommitRecord) and record.token_ids != known[record.canvas]:
            self._fail(entry.batch, WorkerError("this answer could not be continued after a failed pass; ask again"))
        return False

    def _recover(self, error: DgemmaError) -> None:
        """After a pass that failed: who was in it is run again alone."""
        self.failures += 1
        working = {slot.ticket for slot in self.engine.slots.taken}
        entries = [self._entries[ticket] for ticket in sorted(self._entries, reverse=True)]
        suspects = [entry for ticket, entry in sorted(self._entries.items(), reverse=True) if ticket in working]
        if waiting := [entry for entry in entries if entry not in suspects]:
            suspects.insert(0, waiting.pop())  # the oldest of these: it may have broken while it was let in
        self._entries.clear()
        self.engine.abandon()
        self._parked.extendleft(waiting)
        if len(suspects) > 1:
            self._suspects = deque(suspects)
            return
        self._parked.extendleft(self._suspects)  # the one to blame was found, or there was no other
        self._suspects.clear()
        for entry in suspects:
            self._fail(entry.batch, error)

    def _go_on(self) -> None:
        """The next of those that are run alone; after them all who waited."""
        if self._entries:
            return
        if self._suspects:
            self._enter(self._suspects.popleft())
        elif self._parked:
            parked, self._parked = self._parked, deque()
            for entry in parked:
                self._enter(entry)


class Remote:
    """The engine, as a request's thread sees it: tasks get this in place of `Model.engine`."""

    def __init__(self, worker: Worker, salt: str = "", max_prompt_tokens: int | None = None, watched: bool = True):
        self._worker, self._salt, self._most, self._watched = worker, salt, max_prompt_tokens, watched
        self._batch: Batch | None = None
        self._closed = False
        self.model, self.config, self.slots = worker.engine.model, worker.engine.config, worker.engine.slots

    def check(self, request: Request) -> None:
        """Engine.check, and the service's own limit. Raises UsageError or ResourceError."""
        request.check(self.model.config, self._most)
        self._worker.engine.check(request)

    def run(self, requests: Sequence[Request]) -> Iterator[Record]:
        """Engine.run, by the worker. Raises Cancelled once nobody waits for it any more."""
        salted = [dataclasses.replace(request, salt=self._salt + request.salt) for request in requests]
        batch = self._batch = Batch(salted, watched=self._watched)
        if self._closed:
            raise Cancelled
        self._worker.submit(batch)
        left = len(salted)
        try:
            while left:
                told = batch.box.get()
                if isinstance(told, BaseException):
                    raise told
                for record in told:
                    left -= _is_last(record)
                    yield record
        finally:
            if left:
                self._worker.cancel(batch)

    def read(self, ids: Sequence[int], keep: bool = False) -> Any:
        return self._worker.engine.read(ids, self._salt, keep)

    def do(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Engine.do, by the worker. Raises Cancelled once nobody waits for it any more."""
        if self._closed:
            raise Cancelled
        return self._worker.call(self._worker.engine.do, fn, *arguments)

    def close(self) -> None:
        """End what runs, from any thread; its slots are free before the next pass."""
        self._closed = True
        if self._batch is not None:
            self._worker.cancel(self._batch)


def _fulfil(future: Future[Any], fn: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        future.set_result(fn(*arguments))
    except BaseException as error:
        future.set_exception(error)


def _told_to_its_client(error: Exception) -> DgemmaError:
    """The same without a traceback, whose frames would keep the pass's memory alive, and without anybody's text."""
    if isinstance(error, DgemmaError):
        return error.with_traceback(None)
    if is_out_of_memory(error):
        return ResourceError("out of memory; a shorter prompt or fewer tokens may do")
    return WorkerError(f"the pass failed ({type(error).__name__}); no text was made from it")


def _is_last(record: Record) -> bool:
    return isinstance(record, CommitRecord) and record.finish_reason is not None
