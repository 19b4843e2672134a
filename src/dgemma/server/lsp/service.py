"""Gaps filled by a running `dgemma serve`, through its /infill: no model in this process, and no torch.

A gap is a connection of its own, so that closing it is how the service learns that nobody waits. Trap:
Python's client gives the socket away with the reply; who is to shut it from another thread keeps it.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from ...errors import Cancelled, UsageError

PATIENCE = 120.0  # seconds without a byte
SOON = 2.0  # the same, for what may be done without
MOST_REPLY = 2**24
BUSY = (429, 503)


class Service:
    """A Filler. Raises UsageError for what is no address."""

    def __init__(self, url: str, key: str = "", longest: int | None = None, seed: int = 0, **sampler: Any):
        self.url = url.rstrip("/")
        self.parts = urlsplit(url)
        if not self._is_address():
            raise UsageError(f"'{url}' is no address; it begins with http:// or https://")
        self.headers = {"Content-Type": "application/json"}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        self.settings = sampler | {"seed": seed}
        if longest is not None:
            self.settings["n_predict"] = longest

    def _is_address(self) -> bool:
        try:
            has_port = self.parts.port != 0  # reading it raises where it is no number
        except ValueError:
            return False
        return self.parts.scheme in ("http", "https") and bool(self.parts.hostname) and has_port

    def __call__(self, prefix: str, suffix: str) -> ServiceGap:
        return ServiceGap(self, {"input_prefix": prefix, "input_suffix": suffix} | self.settings)

    def connection(self, patience: float = PATIENCE) -> http.client.HTTPConnection:
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if self.parts.scheme == "https":
            kind = http.client.HTTPSConnection
        return kind(self.parts.hostname or "", self.parts.port, timeout=patience)

    def context(self) -> int | None:
        """Tokens that a conversation with its model may have; None where nobody says so at once."""
        connection = self.connection(SOON)
        try:
            connection.request("GET", f"{self.parts.path.rstrip('/')}/props", headers=self.headers)
            props = json.loads(connection.getresponse().read(MOST_REPLY))
            context = int(props["n_ctx"])
            return min(context, int(props.get("max_prompt_tokens") or context))
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError):
            return None
        finally:
            connection.close()


class ServiceGap:
    """A Gap."""

    def __init__(self, service: Service, body: dict[str, Any]):
        self._service = service
        self._body = body
        self._socket: socket.socket | None = None
        self._closed = False

    def texts(self) -> list[str]:
        service = self._service
        connection = service.connection()
        try:
            connection.connect()
            self._socket = connection.sock
            if self._closed:
                raise Cancelled
            path = f"{service.parts.path.rstrip('/')}/infill"
            connection.request("POST", path, json.dumps(self._body).encode(), service.headers)
            response = connection.getresponse()
            status = response.status
            data = response.read(MOST_REPLY)
        except (OSError, http.client.HTTPException) as error:
            if self._closed:
                raise Cancelled from None
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UsageError(
                f"{service.url} cannot be asked ({reason}); is `dgemma serve` running there?"
            ) from None
        finally:
            connection.close()
        return self._read(status, data)

    def _read(self, status: int, data: bytes) -> list[str]:
        if status in BUSY:  # the next key asks again
            return []
        try:
            reply = json.loads(data)
            if status == 200:
                return [reply["content"], *reply.get("candidates", ())]
            message = reply["error"]["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            message = f"status {status}, and no answer of /infill"
        raise UsageError(f"{self._service.url} says: {message}")

    def cancel(self) -> None:
        self._closed = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself
