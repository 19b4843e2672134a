"""Requests that a full service refuses, answered before they are parsed.

Under ten times the load nine of ten requests are refused. The whole way of each takes more than a millisecond of the
interpreter, and the passes of those who were let in wait for it. So a connection shows what came to `Shed` first, which reads just
enough of a head to say no. It never says yes: whatever it is not sure of goes the whole way.

Trap: whoever closes a connection with something unread resets it, and the answer is lost. So only a request that has come to its
last byte is answered here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from .jobs import Refusal
from .keys import tenant_of
from .limits import Admission, client_of

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r|$)")
KEY = re.compile(
    rb"\r\n(?:authorization:[ \t]*bearer[ \t]+|x-api-key:[ \t]*)([!-~]+)[ \t]*(?=\r|$)", re.IGNORECASE
)
WHOLE_WAY = (b"\r\norigin:", b"\r\ntransfer-encoding:", b"\r\nexpect:", b"\r\n ", b"\r\n\t")


class Shed:
    """`shapes`: by path, the body of an error of those routes that take a place; `refused` is told of each path that was refused."""

    def __init__(
        self, admission: Admission, shapes: dict[str, Callable[[Refusal], Any]], keys: bool, refused: Callable[[str, int], None]
    ):  # fmt: skip
        self.admission, self.refused = admission, refused
        self._paths = {f"POST {path} HTTP/1.1".encode(): path for path in shapes if "{" not in path}
        self._shapes, self._keys = shapes, keys

    def answer(self, data: bytes, address: str | None) -> bytes | None:
        """The refusal of what came first on a connection, which is then closed; None: go the whole way."""
        if self.admission.draining or not self.admission.full:
            return None
        head, end, body = data.partition(b"\r\n\r\n")
        path = self._paths.get(head[: head.find(b"\r\n")])
        lower = head.lower()
        if path is None or not end or any(mark in lower for mark in WHOLE_WAY):
            return None
        lengths = LENGTH.findall(lower)
        if len(lengths) != 1 or int(lengths[0]) != len(body):
            return None
        try:
            self.admission.check(self._client(head, address))
        except Refusal as refusal:
            self.refused(path, refusal.status)
            return _written(refusal, self._shapes[path](refusal))
        return None

    def _client(self, head: bytes, address: str | None) -> str:
        """Whose request it is. A wrong key is nobody's: it holds no place, and its answer of 401 is given on the whole way."""
        if not self._keys:
            return client_of("", address)
        keys = KEY.findall(head)
        return tenant_of(hashlib.sha256(keys[0]).digest()) if len(keys) == 1 else ""


def _written(refusal: Refusal, shape: Any) -> bytes:
    body = msgspec.json.encode(shape)
    head = (
        f"HTTP/1.1 {refusal.status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"retry-after: {refusal.retry_after}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
