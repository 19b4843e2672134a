"""How much a client may take: of the body, of nesting, of the queue. Each limit has its own status.

A client is whoever a key belongs to, or where no keys are asked for an address. Where a place in the queue is
wanted and none is free, the newest request that waits of the client with most of them gives up its own; so
one client never leaves 429 for the others.

Refuses to know dialects. Trap: a body's length is what has arrived, never what its header claims.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request

from .fields import decode
from .jobs import RequestError
from .settings import ServerConfig

LARGE = 64 * 2**10  # bytes of a body: below, a thread would cost more than it spares others
STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def client_of(tenant: str, address: str | None) -> str:
    """The name under which a request takes its share: that of its key, else its address (of IPv6 the network,
    which is one user's).
    """
    if tenant or address is None:
        return tenant
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return address
    if number.version == 6:
        return str(ipaddress.ip_network((number, 64), strict=False))
    return address


class Bodies:
    """Bytes of all bodies that are being read and translated.

    What of one lies within LARGE is free, so that large ones do not shut out others.

    No client holds more than it leaves free, so there is always room for another one's.
    """

    def __init__(self, most: int):
        self.most = most
        self._held: Counter[str] = Counter()  # by client

    @property
    def held(self) -> int:
        return self._held.total()

    @contextmanager
    def one(self, client: str = "") -> Iterator[Callable[[int], None]]:
        """What is yielded is told how long a body is so far.

        It raises RequestError 503 where that is too much.
        """
        mine = 0

        def grow(length: int) -> None:
            nonlocal mine
            fresh = max(0, length - LARGE) - mine
            if fresh and self._held[client] + fresh > self.most - self.held - fresh:
                raise RequestError(
                    503,
                    "too many large bodies are being read; try again later",
                    "server_error",
                    retry_after=5,
                )
            self._held[client] += fresh
            mine += fresh

        try:
            yield grow
        finally:
            self._held[client] -= mine
            if not self._held[client]:
                del self._held[client]


async def read(request: Request, kind: type[Any], config: ServerConfig, grow: Callable[[int], None]) -> Any:
    """The body as the struct of its route.

    What takes long to read is read on a thread, so that others are heard meanwhile.
    """
    body = await read_body(request, config, grow)
    _check_values(body, config.max_values)
    if len(body) < LARGE:
        return decode(body, kind, config.max_depth)
    return await asyncio.to_thread(decode, body, kind, config.max_depth)


async def read_body(request: Request, config: ServerConfig, grow: Callable[[int], None]) -> bytes:
    """The body.

    Raises RequestError: 413 for one that is too long, 408 for one that does not come to its end, 503 where
    all are too long together.
    """
    refused = RequestError(
        413, f"the body has more than {config.max_body} bytes; max_body is {config.max_body}"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > config.max_body:
        raise refused
    parts = []
    length = 0
    try:
        async with asyncio.timeout(config.body_timeout):
            async for part in request.stream():
                length += len(part)
                if length > config.max_body:
                    raise refused
                grow(length)
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {config.body_timeout:g} seconds") from None
    except ClientDisconnect:
        raise RequestError(499, "the client went away") from None
    return b"".join(parts)


def _check_values(body: bytes, most: int) -> None:
    """Raises RequestError for more values than any request has: Python needs seconds for the millions of
    lists that a body can hold.
    """

    def values(text: bytes) -> int:
        return sum(map(text.count, (b",", b"[", b"{")))

    if values(body) > most and values(STRINGS.sub(b"", body)) > most:
        raise RequestError(413, f"the body holds more than {most} values; max_values is {most}")


class Asking(Protocol):
    """A request that may be turned away while it waits (jobs.Running)."""

    begun: bool  # something of its answer has come

    def end(self, error: RequestError) -> None:
        """Turn it away."""


@dataclass(eq=False)
class Place:
    """The places of one request, a place for each of its answers."""

    client: str
    count: int
    asking: Asking | None  # None: it is never turned away
    since: float

    @property
    def waits(self) -> bool:
        return self.asking is not None and not self.asking.begun


class Admission:
    """How many requests are open: at work and waiting together. Counted on the event loop alone."""

    def __init__(self, most: int):
        self.most = most
        self.draining = False
        self._places: dict[Place, None] = {}  # in the order in which they were taken
        self._held: Counter[str] = Counter()  # by client
        self._seconds = 1.0  # of an answer, a running mean

    @property
    def open(self) -> int:
        """Places that are taken."""
        return self._held.total()

    @property
    def full(self) -> bool:
        return self.open >= self.most

    def check(self, client: str) -> None:
        """Raise RequestError where `enter` would, before a body is read: 429 where the service is full, 503
        on the way down.
        """
        if self.draining:
            raise RequestError(503, "the service is shutting down", "server_error", retry_after=10)
        if self.full and all(held <= self._held[client] + 1 for held in self._held.values()):
            raise self._full()

    def enter(self, client: str, count: int, asking: Asking | None = None) -> Callable[[], None]:
        """A place for `count` answers; call what comes back to leave it. Raises RequestError as `check` does.

        Where none is free, the newest requests of clients that have more are turned away, of those that still
        wait.
        """
        self.check(client)
        count = max(1, count)
        for place in self._too_many(client, count):
            self._give_back(place)
            if place.asking is not None:
                place.asking.end(self._full())
        place = Place(client, count, asking, time.monotonic())
        self._places[place] = None
        self._held[client] += count

        def leave() -> None:
            if place in self._places:
                self._give_back(place)
                self._seconds += 0.1 * (time.monotonic() - place.since - self._seconds)

        return leave

    def _full(self) -> RequestError:
        wait = max(1, min(60, round(self._seconds)))
        return RequestError(
            429, "too many requests are open; try again later", "rate_limit_error", retry_after=wait
        )

    def _too_many(self, client: str, count: int) -> list[Place]:
        """Who is turned away so that `count` more of a client have a place.

        It is the newest of whoever has most, again and again.
        """
        held = self._held.copy()
        excess = self.open + count - max(count, self.most)
        if excess <= 0:
            return []
        turned_away: list[Place] = []
        waiting = [place for place in reversed(self._places) if place.waits]
        while excess > 0:
            richer = [place for place in waiting if held[place.client] > held[client] + count]
            if not richer:
                raise self._full()
            newest = max(richer, key=lambda place: held[place.client])  # the first of several that are equal
            waiting.remove(newest)
            turned_away.append(newest)
            held[newest.client] -= newest.count
            excess -= newest.count
        return turned_away

    def _give_back(self, place: Place) -> None:
        del self._places[place]
        self._held[place.client] -= place.count
        if not self._held[place.client]:
            del self._held[place.client]
