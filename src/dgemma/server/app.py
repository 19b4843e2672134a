"""The routes, and the way of a request: guarded, counted, read, translated by its dialect, run, answered.

`create_app(model, config)` makes the ASGI application; tests put in whatever model they like. A dialect (schema/) brings a tuple of
routes: `Task`s, whose bodies become jobs, and `Page`s, which answer by themselves. A route needs a key unless it says "open".
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import WeakSet

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, compile_path
from starlette.types import Receive, Scope, Send

from ..weights.identity import Identity
from .auth import Guard, Needs
from .jobs import ENDINGS, Job, Refusal, Running, unexpected
from .keys import KeyRing, read_keys
from .limits import Admission, Bodies, read
from .metrics import Metrics
from .paths import CanonicalPath
from .request_log import LogRequests, RequestLog
from .settings import ServerConfig
from .sse import MEDIA, PING
from .worker import Worker

Access = Literal["key", "open"]
Shape = Callable[[Refusal], Any]
PING_SECONDS = 15.0


@dataclass(frozen=True)
class Task:
    """POST: a body of `body`, made a job by `begin(service, body)`. `shape`: the dialect's body of an error."""

    path: str
    body: type[Any]
    begin: Callable[[Service, Any], Job]
    shape: Shape
    reply: type[Any] | None = None  # this and what follows: for the OpenAPI document
    example: dict[str, Any] | None = None  # a body
    whole: bool = True  # whether an answer may come in one piece
    stream: str | None = MEDIA  # the media type of one that does not; None: there is none
    access: Access = "key"


@dataclass(frozen=True)
class Page:
    """What is answered without a job. `handle` gives a Response, or what becomes JSON; with `body` it is a POST of that."""

    path: str
    handle: Callable[..., Any]  # (service, request), or (service, body); may be a coroutine
    shape: Shape
    body: type[Any] | None = None
    reply: type[Any] | None = None
    example: dict[str, Any] | None = None  # a body
    media: str = "application/json"
    access: Access = "key"
    for_operator: bool = False  # where there are several keys, only the operator's will do


@dataclass(frozen=True)
class Absent:
    """A route that clients know and that is refused, by any method, with a reason and the dialect's shape."""

    path: str
    message: str
    shape: Shape

    def matches(self, path: str) -> bool:
        return compile_path(self.path)[0].match(path) is not None


@dataclass
class Service:
    """What the routes share."""

    model: Any  # api.Model
    config: ServerConfig
    routes: tuple[Task | Page, ...]
    worker: Worker = field(init=False)
    admission: Admission = field(init=False)
    bodies: Bodies = field(init=False)
    metrics: Metrics = field(init=False)
    threads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        engine = self.model.engine
        most = engine.config.max_slots + self.config.max_queue
        self.admission, self.bodies = Admission(most), Bodies(self.config.max_bodies)
        self.metrics = Metrics(engine, self.admission)
        self.worker = Worker(engine, self.metrics.observe)
        self.threads = ThreadPoolExecutor(most + self.config.max_choices, "dgemma request")
        self.at_work: WeakSet[Running] = WeakSet()
        self.keys = KeyRing(self.config.keys)
        self.created = int(time.time())
        self.identity: Identity | None = None  # of the checkpoint's files, once somebody asked
        self.log = RequestLog(sys.stderr) if self.config.log_requests else None

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
            return f"a pass has not ended for {self.config.pass_timeout:g} seconds; the service must be started again"
        return None

    def running(self, job: Job, tenant: str, client: str) -> Running:
        running = Running(
            self.model, self.worker, self.threads, job, tenant, self.config.max_prompt_tokens, client
        )
        self.at_work.add(running)
        return running

    def reload_keys(self) -> None:
        """Take the key file as it is now; what runs goes on. Raises UsageError, and then the keys stay as they were."""
        keys = read_keys(self.config.key_file)
        replace(self.config, keys=keys)  # judges them
        self.keys.replace(keys)

    def end_all(self) -> None:
        """Tell every client that its answer ends here."""
        for running in [*self.at_work]:
            running.end(Refusal(503, "the service was stopped", "server_error", retry_after=10))


def all_routes() -> tuple[Task | Page, ...]:
    """Every dialect's, and the page's."""
    from .page import ROUTES as page
    from .schema import ROUTES as dialects

    return (*dialects, *page)


def all_absent() -> tuple[Absent, ...]:
    from .schema import ABSENT

    return ABSENT


def create_app(
    model: Any, config: ServerConfig = ServerConfig(), routes: tuple[Task | Page, ...] | None = None
) -> Starlette:
    """The ASGI application of a model. `routes`: all there are, unless a test brings others."""
    if routes is None:
        routes = all_routes()
    service = Service(model, config, routes)
    table, absent = [_route(service, route) for route in routes], all_absent()

    def is_route(path: str) -> bool:
        return any(route.path_regex.match(path) for route in table) or any(
            one.matches(path) for one in absent
        )

    def found(scope: Scope) -> Task | Page | None:
        for route, declared in zip(table, routes, strict=True):
            if route.matches(scope)[0] is not Match.NONE:
                return declared
        return None

    def needs(scope: Scope) -> Needs:
        route = found(scope)
        if isinstance(route, Page) and route.for_operator:
            return "operator"
        return route.access if route is not None else "key"

    async def denied(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        route = found(scope)
        service.metrics.requests.labels(route.path if route else "none", refusal.status).inc()
        await _refuse(refusal, route.shape if route else routes[0].shape)(scope, receive, send)

    async def not_found(request: Request, error: Exception) -> Response:
        path = request.url.path
        shape = _nearest(path, routes).shape
        if getattr(error, "status_code", 404) == 404:
            refused = next((one for one in absent if one.matches(path)), None)
            if refused is not None:
                return _refuse(Refusal(501, refused.message, "not_supported_error"), refused.shape)
            return _refuse(Refusal(404, "there is no such route", "not_found_error"), shape)
        response = _refuse(Refusal(405, f"{request.method} is not answered here"), shape)
        response.headers["allow"] = (getattr(error, "headers", None) or {}).get("Allow", "")
        return response

    layers = [
        Middleware(CanonicalPath, is_route=is_route),
        Middleware(Guard, config=config, keys=service.keys, needs=needs, denied=denied),
    ]
    if service.log is not None:
        layers.insert(1, Middleware(LogRequests, log=service.log, route_of=found))
    app = Starlette(
        routes=table,
        middleware=layers,
        lifespan=service.lifespan,
        exception_handlers={404: not_found, 405: not_found},
    )
    app.router.redirect_slashes = False  # a path is a route's or nobody's
    app.state.service = service
    return app


def _nearest(path: str, routes: tuple[Task | Page, ...]) -> Task | Page:
    """The first of the routes that begin as a path does for longest: who asks for it speaks that dialect."""
    parts = path.split("/")

    def shared(route: Task | Page) -> int:
        equal = [one == other for one, other in zip(parts, route.path.split("/"), strict=False)]
        return [*equal, False].index(False)

    return max(routes, key=shared)


def _route(service: Service, route: Task | Page) -> Route:
    async def endpoint(request: Request) -> Response:
        start, response = time.monotonic(), None
        try:
            response = await (
                _run(service, route, request) if isinstance(route, Task) else _answer(service, route, request)
            )
        except Refusal as refusal:
            response = _refuse(refusal, route.shape)
        except ENDINGS:
            raise
        except BaseException as error:
            response = _refuse(unexpected(error), route.shape)
        finally:
            status = response.status_code if response else 499
            service.metrics.requests.labels(route.path, status).inc()
            if isinstance(route, Task) and status == 200 and not isinstance(response, Streaming):
                service.metrics.total.observe(time.monotonic() - start)
        return response

    methods = ["POST"] if isinstance(route, Task) or route.body else ["GET", "HEAD"]
    return Route(route.path, endpoint, methods=methods)


async def _answer(service: Service, page: Page, request: Request) -> Response:
    with service.bodies.one(request.state.client) as grow:
        asked = request if page.body is None else await read(request, page.body, service.config, grow)
        answer = page.handle(service, asked)
        if inspect.isawaitable(answer):
            answer = await answer
    return answer if isinstance(answer, Response) else _json(answer)


async def _run(service: Service, task: Task, request: Request) -> Response:
    client = request.state.client
    service.admission.check(client)  # before the body is read: what is full answers at once
    with service.bodies.one(client) as grow:
        body = await read(request, task.body, service.config, grow)
        job = task.begin(service, body)
    running = request.state.running = service.running(job, request.state.tenant, client)
    leave = service.admission.enter(client, len(job.calls), running)
    if job.stream:
        return Streaming(service, running, task.shape, leave)
    work, gone = asyncio.ensure_future(_whole(service, running)), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(
            {work, gone}, timeout=service.config.request_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if work.done():
            return _json(work.result())
        if gone.done():
            raise Refusal(499, "the client went away")
        raise _too_late(service.config)
    finally:
        running.close()
        for either in (work, gone):
            either.cancel()
        leave()


async def _whole(service: Service, running: Running) -> Any:
    answer, tell = running.job.answer, _first(service)
    running.start()
    while (found := await running.event()) is not None:
        tell()
        for _ in answer.take(*found):
            pass
    return answer.whole()


def _first(service: Service) -> Callable[[], None]:
    """What is called with every event, and measures the time until the first."""
    start = time.monotonic()
    is_first = True

    def tell() -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            service.metrics.first.observe(time.monotonic() - start)

    return tell


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Streaming(Response):
    """A job's events as they come. It ends with the client, with its last event, or when its time is up."""

    def __init__(self, service: Service, running: Running, shape: Shape, leave: Callable[[], None]):
        self.service, self.running, self.shape, self.leave = service, running, shape, leave
        self.status_code, self.background = 200, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.monotonic()
        work = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(Request(scope, receive)))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                self.service.metrics.total.observe(time.monotonic() - start)
        finally:
            self.running.close()
            for task in (work, gone):
                task.cancel()
            self.leave()

    async def _send(self, send: Send) -> None:
        """What is refused before anything was said has a status of its own; afterwards it is the stream's last word."""
        answer = self.running.job.answer
        chunks = self._chunks()
        try:
            first = await anext(chunks)
        except Refusal as refusal:
            await _refuse(refusal, self.shape)({"type": "http"}, _nothing, send)
            return
        headers = [
            (b"content-type", answer.media.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            for chunk in (*answer.begin(), first):
                await _chunk(send, chunk)
            async for chunk in chunks:
                await _chunk(send, chunk)
        except Refusal as refusal:
            for chunk in answer.broken(refusal):
                await _chunk(send, chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        """All but the beginning of the stream, pings where it is silent. Raises Refusal, whatever goes wrong."""
        running, answer, tell = self.running, self.running.job.answer, _first(self.service)
        end = time.monotonic() + self.service.config.request_timeout
        try:
            running.start()
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    raise _too_late(self.service.config)
                try:
                    found = await running.event(min(left, PING_SECONDS))
                except TimeoutError:
                    if answer.media == MEDIA and left > PING_SECONDS:
                        yield PING
                    continue
                if found is None:
                    break
                tell()
                for chunk in answer.take(*found):
                    yield chunk
            for chunk in answer.end():
                yield chunk
        except ENDINGS:
            raise
        except BaseException as error:
            raise unexpected(error) from None


async def _chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _nothing() -> Any:
    return {"type": "http.disconnect"}


def _too_late(config: ServerConfig) -> Refusal:
    return Refusal(
        503, f"the answer took longer than {config.request_timeout:g} seconds", "server_error", retry_after=10
    )


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def _refuse(refusal: Refusal, shape: Shape) -> Response:
    headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.closes or refusal.status in (408, 413):
        headers["connection"] = "close"
    return _json(shape(refusal), refusal.status, headers)
