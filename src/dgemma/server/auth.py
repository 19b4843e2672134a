"""Who may ask: by the name the service was called by, the page that asks, and a key.

Everything is denied that is not allowed.

One ASGI layer in front of all routes. Trap: loopback is reached by every web page in a browser here: by a
name that resolves to it (hence the list of hosts), and by requests that need no permission to be sent (hence
the check of Origin, for any method).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .jobs import ENDINGS, RequestError, unexpected
from .keys import OPERATOR, KeyRing
from .limits import client_of
from .settings import ServerConfig, is_loopback

HOST = re.compile(r"(?:\[(?P<number>[0-9a-fA-F:.]+)\]|(?P<name>[\w.-]+))(?::\d{1,5})?", re.ASCII)
Needs = Literal["open", "key", "operator"]
Denied = Callable[[Scope, Receive, Send, RequestError], Awaitable[None]]


class Guard:
    """Lets a request through, or answers it with a refusal.

    `needs(scope)`: whose key its route asks for, if any.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServerConfig,
        keys: KeyRing,
        needs: Callable[[Scope], Needs],
        denied: Denied,
    ):
        self.app = app
        self.config = config
        self.keys = keys
        self.needs = needs
        self.denied = denied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun: list[Message] = []

        async def sending(message: Message) -> None:
            begun[:] = [message]
            await send(message)

        try:
            await self._let_through(scope, receive, sending)
        except ENDINGS:
            raise
        except BaseException as error:
            # here, because whoever else met it would log its message, which may hold somebody's text
            answer = unexpected(error)
            if not begun:
                await self.denied(scope, receive, send, answer)

    async def _let_through(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            _check_framing(scope, headers)
            _check_sizes(scope, headers, self.config)
            self._check_host(scope, headers)
            origin = self._check_origin(headers)
        except RequestError as error:
            await self.denied(scope, receive, send, error)
            return
        if origin is not None:
            send = _with_cors(send, origin)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _answer_preflight(send)
                return
        tenant = self.tenant(headers)
        needs = self.needs(scope)
        if tenant is None and needs != "open":
            await self.denied(
                scope,
                receive,
                send,
                RequestError(401, "this needs a key: Authorization: Bearer KEY", "authentication_error"),
            )
            return
        if needs == "operator" and not self.keys.is_operator(tenant):
            message = f"this tells of all keys, and needs the one that is named '{OPERATOR}' in the key file"
            await self.denied(scope, receive, send, RequestError(403, message, "permission_error"))
            return
        client = client_of(tenant or "", (scope.get("client") or (None,))[0])
        scope["state"] = scope.get("state", {}) | {"tenant": tenant or "", "client": client}
        await self.app(scope, receive, send)

    def tenant(self, headers: Headers) -> str | None:
        """Whose key came with a request (see KeyRing)."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        return self.keys.tenant(given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", ""))

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        given = headers.getlist("host")
        name = None
        if len(given) == 1:
            name = _host(given[0])
        listening = (scope.get("server") or ("",))[0]
        if name is None or not (
            is_loopback(name) or name in self.config.allow_hosts or _same_address(name, listening)
        ):
            raise RequestError(
                421, "this service is not known by that name; dgemma serve --allow-host NAME lets it be"
            )

    def _check_origin(self, headers: Headers) -> str | None:
        """The page that asks, where it is another's that may.

        Our own page is at the very host that was asked for.
        """
        origin = headers.get("origin")
        if origin is None or origin in self.config.allow_origins:
            return origin
        if origin.partition("://")[2] != headers.get("host", ""):
            raise RequestError(
                403, "this origin may not ask; dgemma serve --allow-origin ORIGIN lets it", "permission_error"
            )
        return None


def _host(value: str) -> str | None:
    """The name in a Host header, without its port; None where it is none."""
    match = HOST.fullmatch(value)
    if match:
        return (match["number"] or match["name"]).lower()
    return None


def _same_address(name: str, listening: str) -> bool:
    """Whether a name is the number that the connection came to.

    A number is no name that somebody could have pointed here.
    """
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(listening)
    except ValueError:
        return False


def _check_framing(scope: Scope, headers: Headers) -> None:
    """Refuse what one program may read as one request and the next as two, and bodies that this one cannot
    read.
    """
    version = scope.get("http_version", "1.1")
    if version not in ("1.0", "1.1"):
        raise RequestError(505, "this version of HTTP is not answered here; use 1.1", closes=True)
    if "transfer-encoding" in headers and ("content-length" in headers or version == "1.0"):
        raise RequestError(
            400,
            "the length of the body is told in two ways; leave out Transfer-Encoding or Content-Length",
            closes=True,
        )
    codings = {coding.strip().lower() for coding in ",".join(headers.getlist("content-encoding")).split(",")}
    if codings - {"", "identity"}:
        raise RequestError(
            415, "the body is compressed, which is not read here; send it without Content-Encoding"
        )


def _check_sizes(scope: Scope, headers: Headers, config: ServerConfig) -> None:
    if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > config.max_target:
        raise RequestError(414, f"the path has more than {config.max_target} bytes")
    if len(headers.raw) > config.max_headers:
        raise RequestError(431, f"there are {len(headers.raw)} headers; {config.max_headers} are allowed")
    size = sum(len(name) + len(value) for name, value in headers.raw)
    if size > config.max_header_bytes:  # the parser bounds parts only
        raise RequestError(431, f"the head has more than {config.max_header_bytes} bytes")


def _with_cors(send: Send, origin: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", [])]
            headers.append((b"access-control-allow-origin", origin.encode()))
            headers.append((b"vary", b"Origin"))
            message["headers"] = headers
        await send(message)

    return sending


async def _answer_preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-max-age", b"600"),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
