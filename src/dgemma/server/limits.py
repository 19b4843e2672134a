"""How much a client may take: of the body, of nesting, of the queue. Each limit has its own status.

Refuses to know dialects. Trap: a body's length is what has arrived, never what its header claims.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from .fields import as_struct, parse
from .jobs import Refusal
from .settings import ServerConfig

LARGE = 64 * 2**10  # bytes of a body: below, a thread would cost more than it spares others
STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
CONTAINERS = (dict, list)  # a union made for each value would take five times as long


class Bodies:
    """Bytes of all bodies that are being read and translated. What of one lies within LARGE is free, so that large ones do not shut out others."""

    def __init__(self, most: int):
        self.most, self.held = most, 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """What is yielded is told how long a body is so far. It raises Refusal 503 where that is too much for all of them together."""
        mine = 0

        def grow(length: int) -> None:
            nonlocal mine
            fresh = max(0, length - LARGE) - mine
            if self.held + fresh > self.most:
                raise Refusal(503, "too many large bodies are being read; try again later", "server_error", retry_after=5)
            self.held, mine = self.held + fresh, mine + fresh

        try:
            yield grow
        finally:
            self.held -= mine


async def read(request: Request, kind: type[Any], config: ServerConfig, grow: Callable[[int], None]) -> Any:
    """The body as the struct of its route. What takes long to read is read on a thread, so that others are heard meanwhile."""
    body = await read_body(request, config, grow)
    _check_values(body, config.max_values)
    if len(body) < LARGE:
        return decode(body, kind, config.max_depth)
    return await asyncio.to_thread(decode, body, kind, config.max_depth)


async def read_body(request: Request, config: ServerConfig, grow: Callable[[int], None]) -> bytes:
    """The body. Raises Refusal: 413 for one that is too long, 408 for one that does not come to its end, 503 where all are too long together."""
    refused = Refusal(413, f"the body has more than {config.max_body} bytes; max_body is {config.max_body}")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > config.max_body:
        raise refused
    parts, length = [], 0
    try:
        async with asyncio.timeout(config.body_timeout):
            async for part in request.stream():
                length += len(part)
                if length > config.max_body:
                    raise refused
                grow(length)
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {config.body_timeout:g} seconds") from None
    except ClientDisconnect:
        raise Refusal(499, "the client went away") from None
    return b"".join(parts)


def decode(body: bytes, kind: type[Any], max_depth: int) -> Any:
    """A body as the struct of its route. Raises Refusal 400 that names the field, never what stands in it."""
    try:
        raw = parse(body)
    except RecursionError:
        raise Refusal(400, f"the body is nested more than {max_depth} deep") from None
    except (msgspec.DecodeError, ValueError):
        raise Refusal(400, "the body is not JSON in UTF-8") from None
    if not isinstance(raw, dict):
        raise Refusal(400, "the body must be a JSON object")
    _check_depth(raw, max_depth)
    try:
        return as_struct(raw, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        parameter = message.rpartition("`")[0].rpartition("`")[2].removeprefix("$.") if "`" in message else None
        if message.startswith("Object contains unknown field"):
            raise Refusal(400, f"'{parameter_of(message)}' is not supported here", parameter=parameter_of(message)) from None
        if message.startswith("Invalid enum value"):
            message = "Invalid value" + message[message.rfind(" - at") :] if " - at" in message else "Invalid value"
        raise Refusal(400, message, parameter=parameter) from None


def _check_values(body: bytes, most: int) -> None:
    """Raises Refusal for more values than any request has: Python needs seconds for the millions of lists that a body can hold."""

    def values(text: bytes) -> int:
        return sum(map(text.count, (b",", b"[", b"{")))

    if values(body) > most and values(STRINGS.sub(b"", body)) > most:
        raise Refusal(413, f"the body holds more than {most} values; max_values is {most}")


def parameter_of(message: str) -> str:
    """The field that a validation message names first."""
    return message.split("`")[1][:64]


def _check_depth(raw: Any, most: int) -> None:
    level = [raw]
    for _ in range(most):
        level = [
            inner for value in level for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, CONTAINERS)
        ]  # fmt: skip
        if not level:
            return
    raise Refusal(400, f"the body is nested more than {most} deep")


class Admission:
    """How many requests are open: at work and waiting together. Counted on the event loop alone."""

    def __init__(self, most: int):
        self.most, self.open = most, 0
        self.draining = False
        self._seconds = 1.0  # of an answer, a running mean

    def enter(self, count: int) -> Callable[[], None]:
        """A place for `count` requests; call what comes back to leave it. Raises Refusal: 429 where there is none, 503 on the way down."""
        if self.draining:
            raise Refusal(503, "the service is shutting down", "server_error", retry_after=10)
        if self.open and self.open + max(1, count) > self.most:
            wait = max(1, min(60, round(self._seconds)))
            raise Refusal(429, f"{self.open} requests are open; try again later", "rate_limit_error", retry_after=wait)
        self.open += count
        start, inside = time.monotonic(), [count]

        def leave() -> None:
            if inside:
                self.open -= inside.pop()
                self._seconds += 0.1 * (time.monotonic() - start - self._seconds)

        return leave
