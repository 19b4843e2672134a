"""A job: what a dialect makes of a request, and how it runs.

Dialects translate into it and are fed its events.

    Call       one generator of api.Model: its method and arguments
    Answer     what a dialect makes of the events: chunks of a stream, or one whole body
    Running    a job at work, seen from the event loop

Each call runs on a thread of its own (worker.py says why). Refuses to know HTTP. Trap: a client that reads
slowly must not hold up the model, so events wait here without bound but for drafts, of which then only the
newest is kept.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import Counter, deque
from collections.abc import Generator, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import Cancelled, DeviceError, DgemmaError, ResourceError, is_out_of_memory
from ..tasks.events import Committed, Decisions, Draft, Generation
from ..tasks.length import note_of_cut, open_with_room
from .engine_proxy import EngineProxy
from .worker import Worker

if TYPE_CHECKING:
    from ..api import Model

ANSWERS = ("stream", "stream_ids", "stream_chat")  # methods whose answer has a length
MOST_EVENTS = 64  # that may wait for a reader before drafts are thinned out
# what is no fault of a request
ENDINGS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
log = logging.getLogger("dgemma.server")


class Answer(Protocol):
    """One request's reply in a dialect.

    Events of a call end with its result (Generation, Filling, Edit ...).
    """

    media: str  # of the stream
    watched: bool  # whether it tells of drafts; of one that does not only the first comes, for the clock

    def begin(self) -> Iterable[bytes]:
        """What a stream opens with."""

    def take(self, index: int, event: Any) -> Iterable[bytes]:
        """What a stream says of an event of call `index`. Called for whole answers as well."""

    def end(self) -> Iterable[bytes]:
        """What a stream closes with."""

    def broken(self, error: RequestError) -> Iterable[bytes]:
        """What a stream that cannot go on says last."""

    def whole(self) -> Any:
        """The body of an answer that is not streamed."""


@dataclass(frozen=True)
class Call:
    """One generator of api.Model, by the name of its method; or `decide`, which has one event."""

    method: str
    arguments: dict[str, Any]
    notes: tuple[str, ...] = ()  # that the answer carries beside the model's own


@dataclass(frozen=True)
class Job:
    """A request, translated."""

    calls: tuple[Call, ...]
    answer: Answer
    stream: bool = False


class RequestError(Exception):
    """A request that is not served: status, message, and what is at fault.

    Dialects give it their own shape.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        parameter: str | None = None,
        retry_after: int | None = None,
        closes: bool = False,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.parameter = parameter
        self.retry_after = retry_after
        self.closes = closes  # the connection: what follows on it cannot be trusted to be a request


def as_request_error(error: DgemmaError) -> RequestError:
    """The status of an error that a user can meet."""
    if isinstance(error, (DeviceError, ResourceError)):
        return RequestError(503, str(error), "server_error", retry_after=10)
    if error.exit_code == 2:
        return RequestError(400, str(error), parameter=getattr(error, "parameter", None))
    return RequestError(500, str(error), "server_error")


@dataclass(eq=False)
class Running:
    """A job at work: `start` it, ask for each `event`; `close` ends what is left of it, its slots are free
    before the next pass.
    """

    model: Model
    worker: Worker
    threads: Executor
    job: Job
    cache_salt: str = ""
    max_prompt_tokens: int | None = None
    client: str = ""
    begun: bool = False  # something of an answer has come
    _events: deque[tuple[int, Any]] = field(default_factory=deque)
    _fresh: asyncio.Event = field(default_factory=asyncio.Event)
    _left: int = 0  # calls that go on
    _tokens: Counter[int] = field(default_factory=Counter)  # by call
    _proxies: list[EngineProxy] = field(default_factory=list)

    def start(self) -> None:
        """Begin all calls. On the event loop."""
        loop = asyncio.get_running_loop()
        self._left, watched = len(self.job.calls), self.job.stream and self.job.answer.watched
        for index, call in enumerate(self.job.calls):
            proxy = EngineProxy(self.worker, self.cache_salt, self.max_prompt_tokens, watched, self.client)
            self._proxies.append(proxy)
            self.threads.submit(self._run, loop, index, call, proxy)

    async def event(self, patience: float | None = None) -> tuple[int, Any] | None:
        """The next event and the call that it is of; None after the last one of all calls.

        Raises RequestError where a call fails, TimeoutError after `patience` seconds of silence, after which
        one may ask again.
        """
        while self._left:
            while not self._events:
                self._fresh.clear()
                async with asyncio.timeout(patience):
                    await self._fresh.wait()
            await asyncio.sleep(0)  # events may come faster than they are sent: others have their turn
            index, event = self._events.popleft()
            if isinstance(event, RequestError):
                raise event
            if event is not None:
                self._count(index, event)
                return index, event
            self._left -= 1
        return None

    @property
    def tokens(self) -> int:
        """Of all answers so far."""
        return sum(self._tokens.values())

    def _count(self, index: int, event: Any) -> None:
        result = getattr(event, "generation", event)
        if isinstance(event, Committed):
            self._tokens[index] += len(event.token_ids)
        elif isinstance(result, Generation):
            # it knows exactly: canvases that were settled anew do not count twice
            self._tokens[index] = len(result.token_ids)

    def close(self) -> None:
        for proxy in self._proxies:
            proxy.close()

    def end(self, error: RequestError) -> None:
        """Close, and tell whoever asks why. On the event loop."""
        self.close()
        self._put(0, error)

    def _run(self, loop: asyncio.AbstractEventLoop, index: int, call: Call, proxy: EngineProxy) -> None:
        """On the call's own thread."""
        try:
            for event in events_of(self.model.run_by(proxy), call):
                loop.call_soon_threadsafe(self._put, index, event)
            loop.call_soon_threadsafe(self._put, index, None)
        except Cancelled:
            pass
        except BaseException as error:
            # the edge of a thread: a panic of a library is no Exception, and somebody waits here
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._put, index, unexpected(error))

    def _put(self, index: int, event: Any) -> None:
        self.begun = True
        if isinstance(event, Draft) and len(self._events) > MOST_EVENTS:
            row = event.row

            def is_superseded(i: int, e: Any) -> bool:
                return i == index and isinstance(e, Draft) and e.row == row

            self._events = deque((i, e) for i, e in self._events if not is_superseded(i, e))
        self._events.append((index, event))
        self._fresh.set()


def events_of(model: Model, call: Call) -> Generator[Any, None, None]:
    """The events of a call.

    An answer longer than there is room for is cut to what has, and a note says so.
    """
    requested = call.arguments.get("max_tokens")
    events, cut = _open(model, call)
    for event in [events] if isinstance(events, Decisions) else events:
        generation = getattr(event, "generation", event)
        if isinstance(generation, Generation):
            generation.notes.extend(call.notes)
            if cut and (note := note_of_cut(requested, cut, generation.finish_reason)):
                generation.notes.append(note)
        yield event


def _open(model: Model, call: Call) -> tuple[Any, int | None]:
    """What a call gives, and the length that its answer was cut to (tasks/length.py)."""
    method = getattr(model, call.method)
    if call.method not in ANSWERS:
        return method(**call.arguments), None
    rest = {name: value for name, value in call.arguments.items() if name != "max_tokens"}
    return open_with_room(
        lambda length: method(**rest, max_tokens=length),
        call.arguments.get("max_tokens"),
        model.denoise.max_new_tokens,
        model.config.canvas_length,
    )


def unexpected(error: BaseException) -> RequestError:
    """What to tell of an error.

    A fault of ours is told by its kind and place: its message may hold somebody's text, and goes nowhere.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, DgemmaError):
        return as_request_error(error)
    if is_out_of_memory(error):
        return as_request_error(ResourceError("out of memory; a shorter prompt or fewer tokens may do"))
    places = "".join(traceback.format_tb(error.__traceback__))
    log.error("a request failed: %s\n%s", type(error).__name__, places)
    return RequestError(500, f"the service failed ({type(error).__name__}); this is a bug", "server_error")
