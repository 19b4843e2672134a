"""Connections that the service waits for, in the order in which they are cut where another one needs the
room.

Knows no HTTP. Trap: a client that keeps a connection for its next request waits too; it goes after those that
never asked, and before those whose request has begun to come.
"""

from __future__ import annotations

import enum
from typing import Protocol


class Awaited(enum.Enum):
    """What has to come from a connection next; those listed first are cut first."""

    FIRST_REQUEST = enum.auto()
    NEXT_REQUEST = enum.auto()
    REST_OF_BODY = enum.auto()


class Cuttable(Protocol):
    """A connection; hashable by itself."""

    @property
    def address(self) -> str | None: ...

    def cut(self) -> None:
        """End it at once."""


class Idle:
    """Connections whose other side has the next word, by what is awaited, the longest idle first."""

    def __init__(self) -> None:
        self._waiting: dict[Awaited, dict[Cuttable, None]] = {awaited: {} for awaited in Awaited}

    def add(self, connection: Cuttable, awaited: Awaited) -> None:
        """It waits from now on, or goes on waiting for the same."""
        if connection not in self._waiting[awaited]:
            self.remove(connection)
            self._waiting[awaited][connection] = None

    def remove(self, connection: Cuttable) -> None:
        """It has said all, or has gone."""
        for group in self._waiting.values():
            group.pop(connection, None)

    def cut_longest(self, address: str | None = None) -> bool:
        """End one, of an address where one is given. -> whether there was any."""
        for group in self._waiting.values():
            for connection in group:
                if address is None or connection.address == address:
                    self.remove(connection)
                    connection.cut()
                    return True
        return False
