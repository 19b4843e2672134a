"""One line a request, for `serve --log-requests`: when, which route, status, tokens of the answer,
milliseconds.

It never holds a text, a key or an address. It knows the route's pattern, not the path that was asked for,
because a path may hold anything. Trap: whoever reads stderr may stop reading, and a full pipe must not hold
up the service; so a thread of its own writes, and what it cannot keep up with is counted and dropped.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_WAITING = 10_000  # lines
LINGER = 2.0  # seconds that the last lines are given
GONE = 499  # the client went away before it was answered


class RequestLog:
    """Lines on their way to a stream."""

    def __init__(self, out: TextIO):
        self._out = out
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write_all, name="dgemma request log", daemon=True)
        self._writer.start()

    def line(self, text: str) -> None:
        """Write a line some time; never waits."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, as long as somebody reads."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._writer.join(LINGER)

    def _write_all(self) -> None:
        while (text := self._lines.get()) is not None:
            dropped = self._dropped
            self._dropped = 0
            more = ""
            if dropped:
                more = f"({dropped} lines were dropped: nobody read them)\n"
            try:
                self._out.write(f"{more}{text}\n")
                self._out.flush()
            except (OSError, ValueError):  # closed: there is nobody to tell
                return


class LogRequests:
    """Middleware: a line for each request, when it is over."""

    def __init__(self, app: ASGIApp, log: RequestLog, route_of: Callable[[Scope], Any]):
        self.app = app
        self.log = log
        self.route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.monotonic()
        status = GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self.log.line(self._line(scope, status, time.monotonic() - start))

    def _line(self, scope: Scope, status: int, seconds: float) -> str:
        route = self.route_of(scope)
        running = scope.get("state", {}).get("running")
        tokens = 0
        if running:
            tokens = running.tokens
        path = "(no route)"
        if route:
            path = route.path
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        return f"{when} {_method(scope)} {path} {status} {tokens} tokens {1000 * seconds:.0f} ms"


def _method(scope: Scope) -> str:
    """The method, where it is one that HTTP knows: any other word is the client's own."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "(other)"
