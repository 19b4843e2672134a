"""Messages of JSON-RPC over a byte stream, as LSP frames them: headers, an empty line, so many bytes of JSON.

Knows no method. Trap: what comes in may be anything. A frame that cannot be read is one Malformed, and the
next one is looked for behind it; only the stream's end ends reading.
"""

from __future__ import annotations

import json
import threading
from typing import IO, Any

MOST_BYTES = 64 * 2**20  # of one message: more than any text that is edited
MOST_HEADER = 8 * 2**10  # of one header line
PIECE = 2**20  # in which what is too long is read away


class Malformed(Exception):
    """A frame that is no message; the message says why, and quotes nothing of it."""


def read_message(stream: IO[bytes]) -> Any:
    """The next message, parsed. Raises Malformed, and EOFError at the end of the stream."""
    length = _length(stream)
    if length is None:
        raise Malformed("a message has no Content-Length that is a number")
    if length > MOST_BYTES:
        while length:
            length -= len(_read(stream, min(length, PIECE)))
        raise Malformed(f"a message has more than {MOST_BYTES} bytes")
    try:
        return json.loads(_read(stream, length))
    except (ValueError, RecursionError):
        raise Malformed("a message is not JSON") from None


def _length(stream: IO[bytes]) -> int | None:
    """What the headers say of the bytes behind them; None where they do not say it."""
    length = None
    seen = False
    while line := stream.readline(MOST_HEADER):
        name, _, value = line.partition(b":")
        if not line.strip(b"\r\n"):
            if seen:  # empty lines between two frames are nobody's
                return length
            continue
        seen = True
        if (
            name.strip().lower() == b"content-length"
            and (value := value.strip()).isdigit()
            and len(value) < 16
        ):
            length = int(value)
    raise EOFError


def _read(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


class Writer:
    """Where messages go, from any thread: a stream without a buffer, which nothing is left in when the client
    is gone.
    """

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, message: dict[str, Any]) -> None:
        """Send a message; a client that is gone is no error here, since what it sent ends as well."""
        body = json.dumps(
            {"jsonrpc": "2.0"} | message
        ).encode()  # ASCII: half a surrogate pair goes through as it came
        left = memoryview(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        try:
            with self._lock:
                while left:
                    left = left[self._stream.write(left) :]
        except (BrokenPipeError, ValueError):  # ValueError: the stream was closed here
            pass
