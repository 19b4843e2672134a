"""Connections that wait without a request, in the order in which they are cut where another one needs the
room.

Knows no HTTP. Trap: a client that keeps a connection for its next request is idle too; it goes after those
that never asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Protocol


class Cuttable(Protocol):
    """A connection; hashable by itself."""

    @property
    def address(self) -> str | None: ...

    def cut(self) -> None:
        """End it at once."""


class Idle:
    """Connections without a request at work, the longest idle first.

    Those that never asked anything are cut before those that rest.
    """

    def __init__(self) -> None:
        self._silent: dict[Cuttable, None] = {}
        self._resting: dict[Cuttable, None] = {}

    def add(self, connection: Cuttable, has_asked: bool) -> None:
        group = self._resting if has_asked else self._silent
        group[connection] = None

    def remove(self, connection: Cuttable) -> None:
        self._silent.pop(connection, None)
        self._resting.pop(connection, None)

    def cut_longest(self, address: str | None = None) -> bool:
        """End one, of an address where one is given. -> whether there was any."""
        waiting: Iterable[Cuttable] = itertools.chain(self._silent, self._resting)
        for connection in waiting:
            if address is None or connection.address == address:
                self.remove(connection)
                connection.cut()
                return True
        return False
