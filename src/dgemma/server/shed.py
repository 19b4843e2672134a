"""Requests that a full service refuses, answered before they are parsed.

Under ten times the load nine of ten requests are refused. The whole way of each takes more than a
millisecond of the interpreter, and the passes of those who were let in wait for it. So a connection shows
what came to `Shed` first, which reads just enough of a head to say no. It never says yes: whatever it is
not sure of goes the whole way.

Trap: whoever closes a connection with something unread resets it, and the answer is lost. So only a request
that has come to its last byte is answered here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from .jobs import RequestError
from .keys import tenant_of
from .limits import Admission, client_of
from .routes import Task

POST = re.compile(rb"POST (/[A-Za-z0-9._/-]{0,200}) HTTP/1\.1(?=\r|$)")  # plain paths
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r|$)")
KEY = re.compile(
    rb"\r\n(?:authorization:[ \t]*bearer[ \t]+|x-api-key:[ \t]*)([!-~]+)[ \t]*(?=\r|$)", re.IGNORECASE
)
WHOLE_WAY = (b"\r\norigin:", b"\r\ntransfer-encoding:", b"\r\nexpect:", b"\r\n ", b"\r\n\t")


class Shed:
    """`find`: the task that a path means, if it means one; `refused` is told of each route that was
    refused.
    """

    def __init__(
        self,
        admission: Admission,
        find: Callable[[str], Task | None],
        keys: bool,
        refused: Callable[[str, int], None],
    ):
        self.admission = admission
        self.refused = refused
        self._find = find
        self._keys = keys

    def answer(self, data: bytes, address: str | None) -> bytes | None:
        """The refusal of what came first on a connection, which is then closed; None: go the whole way."""
        if self.admission.draining or not self.admission.full:
            return None
        head, end, body = data.partition(b"\r\n\r\n")
        lower = head.lower()
        if not end or any(mark in lower for mark in WHOLE_WAY):
            return None
        lengths = LENGTH.findall(lower)
        if len(lengths) != 1 or int(lengths[0]) != len(body):
            return None
        line = POST.match(head)
        task = None
        if line is not None:
            task = self._find(line[1].decode())
        if task is None:
            return None
        try:
            self.admission.check(self._client(head, address))
        except RequestError as error:
            self.refused(task.path, error.status)
            return _written(error, task.shape(error))
        return None

    def _client(self, head: bytes, address: str | None) -> str:
        """Whose request it is.

        A wrong key is nobody's: it holds no place, and its answer of 401 is given on the whole way.
        """
        if not self._keys:
            return client_of("", address)
        keys = KEY.findall(head)
        if len(keys) == 1:
            return tenant_of(hashlib.sha256(keys[0]).digest())
        return ""


def _written(error: RequestError, shape: Any) -> bytes:
    body = msgspec.json.encode(shape)
    head = (
        f"HTTP/1.1 {error.status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"retry-after: {error.retry_after}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
