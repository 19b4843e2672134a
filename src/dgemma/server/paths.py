"""Which route a path means.

Clients add `/v1` to an address or leave it out, end it with a slash, or join both with two.

    RouteTable       all routes, found by a path: one rule for the router, the keys, the log and who sheds
                     load
    CanonicalPath    the ASGI layer in front of all others: whoever judges a request judges the path that is
                     answered

Trap: a path that is no route after all is left as it came; nothing is guessed beyond the spellings here.
"""

from __future__ import annotations

from collections.abc import Callable
from re import Pattern
from typing import TypeVar

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from .routes import Absent, Page, Task

VERSION = "/v1"
Declared = TypeVar("Declared", Task | Page, Absent)


class RouteTable:
    """The routes of a service, in order: the first whose pattern matches a path is meant."""

    def __init__(self, routes: tuple[Task | Page, ...], absent: tuple[Absent, ...]):
        self.routes = routes
        self._patterns = [(compile_path(route.path)[0], route) for route in routes]
        self._absent = [(compile_path(route.path)[0], route) for route in absent]

    def find(self, path: str) -> Task | Page | None:
        """The route of a canonical path."""
        return _first(self._patterns, path)

    def find_task(self, path: str) -> Task | None:
        """The task that a path means, however it is spelled."""
        route = self.find(self.canonical(path))
        if isinstance(route, Task):
            return route
        return None

    def find_absent(self, path: str) -> Absent | None:
        return _first(self._absent, path)

    def canonical(self, path: str) -> str:
        return canonical(path, self._is_route)

    def _is_route(self, path: str) -> bool:
        return self.find(path) is not None or self.find_absent(path) is not None

    def nearest(self, path: str) -> Task | Page:
        """The first of the routes that begin as a path does for longest: who asks for it speaks that
        dialect.
        """
        parts = path.split("/")
        return max(self.routes, key=lambda route: _common(parts, route.path.split("/")))


def _first(patterns: list[tuple[Pattern[str], Declared]], path: str) -> Declared | None:
    for pattern, route in patterns:
        if pattern.match(path):
            return route
    return None


def _common(parts: list[str], others: list[str]) -> int:
    """How many parts are equal from the start."""
    count = 0
    for part, other in zip(parts, others, strict=False):
        if part != other:
            break
        count += 1
    return count


def canonical(path: str, is_route: Callable[[str], bool]) -> str:
    """The route's own spelling of a path, or the path itself where it means none."""
    plain = "/" + "/".join(part for part in path.split("/") if part)
    for candidate in (plain, VERSION + plain, plain.removeprefix(VERSION)):
        if is_route(candidate):
            return candidate
    return path


class CanonicalPath:
    """Gives each request the path of the route that it means."""

    def __init__(self, app: ASGIApp, table: RouteTable):
        self.app = app
        self.table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = self.table.canonical(scope["path"])
        await self.app(scope, receive, send)
