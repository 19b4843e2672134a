"""The way of one request behind its route: admitted, read, made a job, run, answered.

    endpoint(service, route)    the handler of a Task or a Page
    error_response(...)         a RequestError in a dialect's shape
    Streaming                   a job's events as they come

Trap: what is refused before anything of a stream was sent has a status of its own; afterwards it is the
stream's last word.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .jobs import ENDINGS, RequestError, Running, unexpected
from .limits import read
from .routes import ErrorShape, Page, Task
from .service import Service
from .settings import ServerConfig
from .sse import MEDIA, PING

PING_SECONDS = 15.0


def endpoint(service: Service, route: Task | Page) -> Callable[[Request], Awaitable[Response]]:
    """The handler of a route. It counts each answer and gives each error the route's shape."""

    async def handle(request: Request) -> Response:
        start = time.monotonic()
        response: Response | None = None
        try:
            response = await _respond(service, route, request)
        except RequestError as error:
            response = error_response(error, route.shape)
        except ENDINGS:
            raise
        except BaseException as error:
            response = error_response(unexpected(error), route.shape)
        finally:
            status = 499
            if response:
                status = response.status_code
            service.metrics.requests.labels(route.path, status).inc()
            if isinstance(route, Task) and status == 200 and not isinstance(response, Streaming):
                service.metrics.total.observe(time.monotonic() - start)
        return response

    return handle


def error_response(error: RequestError, shape: ErrorShape) -> Response:
    if error.retry_after is None:
        headers = {}
    else:
        headers = {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.closes or error.status in (408, 413):
        headers["connection"] = "close"
    return _json(shape(error), error.status, headers)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


async def _respond(service: Service, route: Task | Page, request: Request) -> Response:
    if isinstance(route, Task):
        return await _run(service, route, request)
    return await _answer(service, route, request)


async def _answer(service: Service, page: Page, request: Request) -> Response:
    with service.bodies.one(request.state.client) as grow:
        argument = request
        if page.body is not None:
            argument = await read(request, page.body, service.config, grow)
        answer = page.handle(service, argument)
        if inspect.isawaitable(answer):
            answer = await answer
    if isinstance(answer, Response):
        return answer
    return _json(answer)


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
    work = asyncio.ensure_future(_whole(service, running))
    gone = asyncio.ensure_future(_gone(request))
    limit = service.config.request_timeout
    try:
        await asyncio.wait({work, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return _json(work.result())
        if gone.done():
            raise RequestError(499, "the client went away")
        raise _too_late(service.config)
    finally:
        running.close()
        work.cancel()
        gone.cancel()
        leave()


async def _whole(service: Service, running: Running) -> Any:
    answer = running.job.answer
    observe_first = _first_event_timer(service)
    running.start()
    while (indexed := await running.event()) is not None:
        observe_first()
        for _ in answer.take(*indexed):
            pass
    return answer.whole()


def _first_event_timer(service: Service) -> Callable[[], None]:
    """What is called with every event, and measures the time until the first."""
    start = time.monotonic()
    is_first = True

    def observe() -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            service.metrics.first.observe(time.monotonic() - start)

    return observe


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Streaming(Response):
    """A job's events as they come. It ends with the client, with its last event, or when its time is up."""

    def __init__(self, service: Service, running: Running, shape: ErrorShape, leave: Callable[[], None]):
        self.service = service
        self.running = running
        self.shape = shape
        self.leave = leave
        self.status_code = 200
        self.background = None

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
            work.cancel()
            gone.cancel()
            self.leave()

    async def _send(self, send: Send) -> None:
        answer = self.running.job.answer
        chunks = self._chunks()
        try:
            first = await anext(chunks)
        except RequestError as error:
            await error_response(error, self.shape)({"type": "http"}, _nothing, send)
            return
        headers = [
            (b"content-type", answer.media.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            for chunk in (*answer.begin(), first):
                await _send_chunk(send, chunk)
            async for chunk in chunks:
                await _send_chunk(send, chunk)
        except RequestError as error:
            for chunk in answer.broken(error):
                await _send_chunk(send, chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        """All but the beginning of the stream, pings where it is silent.

        Raises RequestError, whatever goes wrong.
        """
        answer = self.running.job.answer
        try:
            async for index, event in self._events():
                if event is PING:
                    yield PING
                    continue
                for chunk in answer.take(index, event):
                    yield chunk
            for chunk in answer.end():
                yield chunk
        except ENDINGS:
            raise
        except BaseException as error:
            raise unexpected(error) from None

    async def _events(self) -> AsyncIterator[tuple[int, Any]]:
        """The job's events with the call each is of, and PING in the place of one after a silence."""
        config = self.service.config
        observe_first = _first_event_timer(self.service)
        end = time.monotonic() + config.request_timeout
        self.running.start()
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise _too_late(config)
            try:
                indexed = await self.running.event(min(left, PING_SECONDS))
            except TimeoutError:
                if self.running.job.answer.media == MEDIA and left > PING_SECONDS:
                    yield 0, PING
                continue
            if indexed is None:
                return
            observe_first()
            yield indexed


async def _send_chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _too_late(config: ServerConfig) -> RequestError:
    message = f"the answer took longer than {config.request_timeout:g} seconds"
    return RequestError(503, message, "server_error", retry_after=10)
