"""What clients may take of what is scarce: the one rule of fairness, and the line of those who wait for a
slot.

    divide(amount, wants) equal shares; what one does not want goes to the others
    Waiting               requests without a slot, by client, each client's in the order of arrival

A client is an opaque name that comes with a request; a process of one user has one client, and for it
nothing here changes anything. The rule: whoever holds least goes first, whoever holds most gives up first,
and a client alone gets everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from .slot import Slot


def divide(amount: int, wants: Sequence[int]) -> list[int]:
    """Shares of an amount, whole numbers: nobody gets more than it wants, nor less than another unless it
    wants no more.

    Nothing is left while somebody wants more; of what cannot be divided those who want most get one more
    each.
    """
    shares = [0] * len(wants)
    places = sorted(range(len(wants)), key=wants.__getitem__)
    for rank, place in enumerate(places):
        shares[place] = min(wants[place], amount // (len(places) - rank))
        amount -= shares[place]
    return shares


class Waiting:
    """Slots to be, by client. Clients are kept in the order in which they began to wait."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Slot]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Slot]:
        for line in self._lines.values():
            yield from line

    @property
    def clients(self) -> set[str]:
        return set(self._lines)

    @property
    def heads(self) -> list[Slot]:
        """The first of each client."""
        return [line[0] for line in self._lines.values()]

    def add(self, slot: Slot, first: bool = False) -> None:
        """Stand in line, behind the client's others, or before them."""
        line = self._lines.setdefault(slot.request.client, deque())
        if first:
            line.appendleft(slot)
        else:
            line.append(slot)

    def remove(self, slot: Slot) -> None:
        """Leave the line."""
        line = self._lines[slot.request.client]
        line.remove(slot)
        if not line:
            del self._lines[slot.request.client]

    def clear(self) -> None:
        self._lines.clear()
