"""The one thread that owns the device: it alone makes passes, and all else that touches the model runs on
it between them.

    call(fn)          run something on it, between two passes
    at_work_for       seconds since a pass or a call began: whether passes still end
    fault             why the thread has ended, where nobody asked it to
    submit(batch)     requests of one client's call, whose thread waits at the batch's box (engine_proxy.py)

A pass that fails says nothing of who broke it. Everything it carried is forgotten; those who were in it are
run again alone, newest first, until one fails alone: that one gets the error. Requests give the same tokens
again, so what a client has already been told is not told twice. Trap: in bf16 the company changes a few
tokens; one whose committed text came out otherwise the second time ends with an error instead of two halves
that do not belong together.

After a request that failed alone, a pass of our own is made: where that fails too, the device is lost and
the thread ends with a `fault`. So does it after an error outside of a pass. Trap: a panic of a Rust library
is no Exception; at the edge of a thread everything is caught.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ..config import DenoiseConfig
from ..engine.engine import Engine
from ..engine.requests import CommitRecord, Record, Request
from ..errors import Cancelled, DeviceError, DgemmaError, ResourceError, is_out_of_memory

T = TypeVar("T")
log = logging.getLogger("dgemma.server")


class WorkerError(DgemmaError):
    """A pass failed, and this request was alone in it.

    The message names the kind of error, never a prompt.
    """


@dataclass(eq=False)
class Batch:
    """Requests of one `EngineProxy.run`, and where their thread waits."""

    requests: Sequence[Request]
    box: SimpleQueue[Any] = field(
        default_factory=SimpleQueue
    )  # lists of records, or the exception that ends it
    watched: bool = (
        True  # False: only its first step is sent, so that no thread wakes for what nobody looks at
    )
    closed: bool = False


@dataclass(eq=False)
class _Entry:
    """One request in the engine."""

    batch: Batch
    index: int
    commits: list[list[int]] = field(
        default_factory=list
    )  # what its client has, of this attempt or one before


class Worker:
    """The thread, and who waits for what. `observe` is told every record once, on this thread."""

    def __init__(self, engine: Engine, observe: Callable[[Record], None] = lambda record: None):
        self.engine = engine
        self._observe = observe
        self.failures = 0  # passes that failed
        self.fault: DeviceError | None = None
        self._began: float | None = None  # when the pass or the call at work began; None: nothing is at work
        self._end: DgemmaError | Cancelled | None = None  # what everybody gets who comes after the end
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._entries: dict[int, _Entry] = {}  # by ticket
        self._suspects: deque[_Entry] = deque()  # to be run alone, after a failed pass
        self._parked: deque[_Entry] = deque()  # who waits until they have been
        self._calls: dict[str, deque[Callable[[], None]]] = {}  # that wait for the device, by client
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="dgemma device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float | None = None) -> None:
        """End the thread after the pass that it is in; wait for that, at most `patience` seconds."""
        self._inbox.put(self._stop)
        if self._thread.is_alive():
            self._thread.join(patience)

    def call(self, fn: Callable[..., T], *arguments: Any, client: str = "") -> T:
        """Run something that touches the device, between two passes; wait for it.

        Its error is raised here.
        """
        if threading.current_thread() is self._thread:
            return fn(*arguments)
        future: Future[T] = Future()

        def enqueue() -> None:
            calls = self._calls.setdefault(client, deque())
            calls.append(lambda: self._fulfil(future, fn, arguments))

        self._ask(enqueue)
        return future.result()

    def submit(self, batch: Batch) -> None:
        self._ask(lambda: self._admit([_Entry(batch, index) for index in range(len(batch.requests))]))

    def _ask(self, message: Callable[[], None]) -> None:
        """Leave a message for the thread. Once that has ended, the message is answered with the reason."""
        self._inbox.put(message)
        if self._end is not None:
            self._turn_away()

    def cancel(self, batch: Batch) -> None:
        """Forget a batch before the next pass; its thread wakes with Cancelled."""
        batch.closed = True
        batch.box.put(Cancelled())
        self._inbox.put(lambda: self._forget(batch))

    @property
    def waiting(self) -> int:
        """Requests that are not at work yet."""
        without_slot = max(0, len(self._entries) - len(self.engine.scheduler.taken))
        return without_slot + len(self._suspects) + len(self._parked)

    @property
    def at_work_for(self) -> float:
        """Seconds since the pass or the call that the thread is in began; 0 while it waits for something to
        do.
        """
        began = self._began
        if began is None:
            return 0.0
        return time.monotonic() - began

    @property
    def running(self) -> bool:
        """Whether the thread was begun and has not ended."""
        return self._thread.is_alive()

    def _stop(self) -> None:
        self._stopping = True

    def _work(self) -> None:
        """The thread, from begin to end. Whatever ends it, nobody is left waiting for it."""
        end: DgemmaError | Cancelled = Cancelled()
        try:
            while not self._stopping:
                self._obey()
                if not self.engine.idle and not self._stopping:
                    self._advance()
                    self._hand_out()
        except BaseException as error:
            places = "".join(traceback.format_tb(error.__traceback__))
            log.error("the device thread ended: %s\n%s", type(error).__name__, places)
            kind = type(error.__cause__ or error).__name__
            end = self.fault = DeviceError(f"the device failed ({kind}); the service must be started again")
        self._began = None
        self._end = end
        entries = (*self._entries.values(), *self._suspects, *self._parked)
        for batch in {entry.batch for entry in entries}:
            batch.closed = True
            batch.box.put(end)
        self._turn_away()

    def _turn_away(self) -> None:
        """After the end: answer all messages that are left with its reason."""
        while True:
            try:
                self._inbox.get(block=False)()
            except Empty:
                break
        for calls in [*self._calls.values()]:
            while calls:
                calls.popleft()()

    def _advance(self) -> None:
        """A pass; where it fails, whatever the error is, the thread survives and somebody gets to know."""
        passes = self.engine.passes
        if self._began is None:
            self._began = time.monotonic()
        try:
            self.engine.advance()
        except BaseException as error:
            self._recover(_client_error(error))
            self._began = None
        if self.engine.passes != passes:
            self._began = None  # else `advance` found nobody to make a pass for, which may not go on either

    def _obey(self) -> None:
        """What others asked for; without anything to do, wait until they do."""
        wait = self.engine.idle and not self._calls
        while not self._stopping:
            if wait:
                self._began = None
            try:
                self._inbox.get(block=wait)()
            except Empty:
                break
            wait = False
        self._take_calls()

    def _take_calls(self) -> None:
        """The calls that wait: all of them of a client that is alone, one of each where several want the
        device.
        """
        alone = len(self._calls.keys() | self.engine.clients) <= 1
        for client, calls in [*self._calls.items()]:
            for _ in range(len(calls) if alone else 1):
                self._began = time.monotonic()
                calls.popleft()()
                self._began = None
            if not calls:
                del self._calls[client]

    def _fulfil(self, future: Future[Any], fn: Callable[..., Any], arguments: Sequence[Any]) -> None:
        try:
            if self._end is not None:
                raise self._end
            future.set_result(fn(*arguments))
        except BaseException as error:
            future.set_exception(error)

    def _admit(self, entries: list[_Entry]) -> None:
        for entry in entries:
            if entry.batch.closed:
                continue
            if self._end is not None:
                entry.batch.closed = True
                entry.batch.box.put(self._end)
                continue
            if self._suspects:
                self._parked.append(entry)
            else:
                self._enter(entry)

    def _enter(self, entry: _Entry) -> None:
        try:
            self._entries[self.engine.submit(entry.batch.requests[entry.index])] = entry
        except BaseException as error:
            self._fail(entry.batch, _client_error(error))

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
            if records and is_last(records[-1]) and ticket in self._entries:
                del self._entries[ticket]
                self.engine.cancel(ticket)
            if fresh and not entry.batch.closed:
                entry.batch.box.put(fresh)
        self._go_on()

    def _is_news(self, entry: _Entry, record: Record) -> bool:
        """Whether a record goes on from what the client knows; one of a canvas that was committed before
        must say the same.
        """
        known = entry.commits
        if record.canvas >= len(known):
            self._observe(record)
            if isinstance(record, CommitRecord):
                known.append(record.token_ids)
                return True
            return entry.batch.watched or (record.canvas, record.step) == (0, 1)
        if isinstance(record, CommitRecord) and record.token_ids != known[record.canvas]:
            lost = "this answer could not be continued after a failed pass; ask again"
            self._fail(entry.batch, WorkerError(lost))
        return False

    def _recover(self, error: DgemmaError) -> None:
        """After a pass that failed: who was in it is run again alone."""
        self.failures += 1
        working = {slot.ticket for slot in self.engine.scheduler.taken}
        newest_first = sorted(self._entries.items(), reverse=True)
        suspects = [entry for ticket, entry in newest_first if ticket in working]
        waiting = [entry for ticket, entry in newest_first if ticket not in working]
        if waiting:
            suspects.insert(0, waiting.pop())  # the oldest of these: it may have broken while it was let in
        self._entries.clear()
        self.engine.abandon()
        self._parked.extendleft(waiting)
        if len(suspects) > 1:
            self._suspects = deque(suspects)
            return
        self._parked.extendleft(self._suspects)  # the one to blame was found, or there was no other
        self._suspects.clear()
        self._suspects.extend(suspects)  # who is told, should the device be lost
        self._check_device()
        self._suspects.clear()
        for entry in suspects:
            self._fail(entry.batch, error)

    def _check_device(self) -> None:
        """Raises DeviceError where a pass of our own, with nobody else in it, fails as well: then it was no
        request's fault.
        """
        config = DenoiseConfig(max_denoising_steps=1, stability_threshold=1, eos_token_id=None)
        try:
            for _ in self.engine.run([Request((0,), 1, config=config)]):
                pass
        except BaseException as error:
            if not is_out_of_memory(error):  # others may have taken the memory, and give it back
                raise DeviceError("a pass of our own failed") from error
            self.engine.abandon()

    def _go_on(self) -> None:
        """The next of those that are run alone; after them all who waited."""
        if self._entries:
            return
        if self._suspects:
            self._enter(self._suspects.popleft())
        elif self._parked:
            parked = self._parked
            self._parked = deque()
            for entry in parked:
                self._enter(entry)


def _client_error(error: BaseException) -> DgemmaError:
    """The same without a traceback, whose frames would keep the pass's memory alive, and without anybody's
    text.
    """
    if isinstance(error, DgemmaError):
        return error.with_traceback(None)
    if is_out_of_memory(error):
        return ResourceError("out of memory; a shorter prompt or fewer tokens may do")
    return WorkerError(f"the pass failed ({type(error).__name__}); no text was made from it")


def is_last(record: Record) -> bool:
    """Whether a record ends its request."""
    return isinstance(record, CommitRecord) and record.finish_reason is not None
