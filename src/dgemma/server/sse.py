"""Server-sent events: how one is written. Knows no dialect."""

from __future__ import annotations

from typing import Any

import msgspec

MEDIA = "text/event-stream"
PING = b": waiting\n\n"  # a comment: keeps the line alive, and clients skip it
DONE = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


def data(value: Any, event: str | None = None) -> bytes:
    """One event of JSON, named where a dialect names its events."""
    name = b""
    if event:
        name = f"event: {event}\n".encode()
    return b"%sdata: %s\n\n" % (name, _encoder.encode(value))
