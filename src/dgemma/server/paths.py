"""Which route a path means. Clients add `/v1` to an address or leave it out, end it with a slash, or join both with two.

One ASGI layer in front of all others, so that whoever judges a request judges the path that is answered. Trap: a path that is no route
after all is left as it came; nothing is guessed beyond the spellings here.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

VERSION = "/v1"


def canonical(path: str, is_route: Callable[[str], bool]) -> str:
    """The route's own spelling of a path, or the path itself where it means none."""
    parts = [part for part in path.split("/") if part]
    plain = "/" + "/".join(parts)
    for candidate in (plain, VERSION + plain, plain.removeprefix(VERSION)):
        if is_route(candidate):
            return candidate
    return path


class CanonicalPath:
    """Gives each request the path of the route that it means."""

    def __init__(self, app: ASGIApp, is_route: Callable[[str], bool]):
        self.app, self.is_route = app, is_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = canonical(scope["path"], self.is_route)
        await self.app(scope, receive, send)
