"""The prefix cache: what was encoded once is not encoded again.

Full layers keep K and V of every token, so any beginning of a sequence can be taken from them. Sliding layers keep a window
only, so a sequence can be resumed just where a copy of the window was put aside: at the ends of the chunks it
was read in, at its prompt's end, and where it was left. A sequence may be resumed by others while it is still at work,
because what is encoded never changes. Tenants do not see each other: a salt is part of every match.

Least recently used first out. Trap: a beginning is shared by tokens, never by text; two tokenizations are two prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..model.kv import KVCache, Window

LEAST = 16  # tokens: shorter beginnings are not worth a look
MARKS = 8  # places to resume a sequence at; the oldest go


@dataclass(eq=False)
class Encoded:
    """A sequence: its tokens, their K and V, and the windows it can be resumed with, by length."""

    kv: KVCache
    salt: str
    tokens: list[int] = field(default_factory=list)
    marks: dict[int, Window] = field(default_factory=dict)

    def shared(self, ids: Sequence[int]) -> int:
        """How many tokens `ids` begins with that can be resumed here."""
        most = common(self.tokens, ids)
        return max((place for place in self.marks if place <= most), default=0)

    @property
    def nbytes(self) -> int:
        windows = sum(tensor.nbytes for window in self.marks.values() for tensor in window)
        return windows + sum(buffer.nbytes for buffer in (*self.kv.keys, *self.kv.values))


class Prefixes:
    """Sequences at work, and finished ones up to `limit` bytes (0: nothing is shared)."""

    def __init__(self, limit: int):
        self.limit = limit
        self.live: list[Encoded] = []
        self.cached: list[Encoded] = []  # the least recently used first

    def open(self, kv: KVCache, ids: Sequence[int], salt: str) -> Encoded:
        """A sequence in the empty `kv` that will begin with `ids`; as much of them as is known is in it already."""
        opened = Encoded(kv, salt)
        count, best = self._best(ids, salt)
        if best is not None:
            kv.resume(best.kv, count, best.marks[count])
            opened.tokens = list(ids[:count])
            opened.marks = {place: window for place, window in best.marks.items() if place <= count}
            if best in self.cached:
                self.cached.append(self.cached.pop(self.cached.index(best)))
        self.live.append(opened)
        return opened

    def known(self, ids: Sequence[int], salt: str) -> int:
        """How many tokens of `ids` need not be read."""
        return self._best(ids, salt)[0]

    def _best(self, ids: Sequence[int], salt: str) -> tuple[int, Encoded | None]:
        found = [(other.shared(ids), other) for other in (*self.cached, *self.live) if other.salt == salt]
        count, best = max(found, key=lambda pair: pair[0], default=(0, None))
        return (count, best) if count >= LEAST else (0, None)

    def mark(self, sequence: Encoded) -> None:
        """Let the sequence be resumed from where it is now."""
        if self.limit and sequence.tokens:
            sequence.marks[sequence.kv.length] = sequence.kv.window()
            for place in sorted(sequence.marks)[:-MARKS]:
                del sequence.marks[place]

    def close(self, sequence: Encoded, keep: bool) -> None:
        """A sequence has left its slot. What it holds stays if there is room and it may be kept."""
        self.live.remove(sequence)
        if not keep or not self.limit or len(sequence.tokens) < LEAST:
            return
        self.mark(sequence)
        sequence.kv.retire()
        tokens = sequence.tokens
        self.cached = [
            old for old in self.cached if old.salt != sequence.salt or old.tokens != tokens[: len(old.tokens)]
        ] + [sequence]  # the longer one holds all of the shorter
        self.shrink(self.limit)

    def shrink(self, limit: int) -> None:
        """Forget the least recently used until what is cached takes at most `limit` bytes."""
        while self.cached and self.nbytes > limit:
            self.cached.pop(0)

    @property
    def nbytes(self) -> int:
        return sum(sequence.nbytes for sequence in self.cached)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common beginning; slices are compared, because a loop over 100,000 tokens is slow in Python."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if [*one[low:middle]] == [*other[low:middle]] else (low, middle - 1)
    return low
