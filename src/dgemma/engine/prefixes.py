"""The prefix cache: what was encoded once is not encoded again.

Full layers keep K and V of every token, so any beginning of a sequence can be taken from them. Sliding layers keep a window
only, so a sequence can be resumed just where a copy of the window was put aside, a mark: where its turns begin, at the
ends of the chunks it was read in, at its prompt's end, and where it was left. A sequence may be resumed by others while it is
still at work, because what is encoded never changes. Tenants do not see each other: a salt is part of every match.

What is forgotten is that of the client who holds most, least recently used first. Knows no turns: a request names the places. Trap: a beginning is shared by tokens, never by
text; two tokenizations are two prefixes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ..model.kv import KVCache, Window

LEAST = 16  # tokens: shorter beginnings are not worth a look
# Places to resume a sequence at. Each holds (window - 1) tokens of every sliding layer, of the published model in bf16
# 1,023 x 25 layers x 2 x 8 heads x 256 x 2 bytes = 210 MB, as much as the full layers keep of 10,200 tokens.
MARKS = 8
FEW = 3  # of these, what is left to each sequence before any is forgotten: where it ended, where its last and first turns began


@dataclass(eq=False)
class Mark:
    """The window that a sequence is resumed with; several sequences may hold the same."""

    window: Window

    def __post_init__(self) -> None:
        self.nbytes = sum(tensor.nbytes for tensor in self.window)


@dataclass(eq=False)
class Encoded:
    """A sequence: its tokens, their K and V, where its turns begin, and what it can be resumed with, by length."""

    kv: KVCache
    salt: str
    turns: frozenset[int] = frozenset()
    tokens: list[int] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    retired: int = 0  # bytes of K and V beside the marks, once it has left its slot
    client: str = ""  # whose share of the cache it takes

    def by_worth(self, places: Collection[int]) -> list[int]:
        """Places to resume at, the last one worth most: ends of chunks, oldest first, then turns, oldest first but for the
        first of all, which other conversations share; then where it was left."""
        *places, last = sorted(places)
        ends, turns = ([place for place in places if (place in self.turns) is turn] for turn in (False, True))
        return [*ends, *turns[1:-1], *turns[:1], *turns[1:][-1:], last]

    def shared(self, ids: Sequence[int]) -> int:
        """How many tokens `ids` begins with that can be resumed here."""
        most = common(self.tokens, ids)
        return max((place for place in self.marks if place <= most), default=0)


class Prefixes:
    """Sequences at work, and finished ones; these and the marks of both take up to `limit` bytes (0: nothing is shared)."""

    def __init__(self, limit: int):
        self.limit = self.room = limit  # room: what the requests at work leave
        self.counted = 0  # bytes that were held after the last change, for whoever looks from another thread
        self.live: list[Encoded] = []
        self.cached: list[Encoded] = []  # the least recently used first

    def open(
        self, kv: KVCache, ids: Sequence[int], salt: str, turns: Sequence[int] = (), client: str = ""
    ) -> Encoded:
        """A sequence in the empty `kv` that will begin with `ids`; as much of them as is known is in it already."""
        opened = Encoded(kv, salt, frozenset(turns), client=client)
        count, best = self._best(ids, salt)
        if best is not None:
            kv.resume(best.kv, count, best.marks[count].window)
            opened.tokens = list(ids[:count])
            opened.marks = {place: mark for place, mark in best.marks.items() if place <= count}
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

    def mark(self, sequence: Encoded, since: int | None = None) -> None:
        """Let the sequence be resumed from where it is now, and from the turns that the last pass, which began `since`, read."""
        if not self.limit or not sequence.tokens:
            return
        kv, marks = sequence.kv, sequence.marks
        begun = (
            ()
            if since is None
            else (place for place in sequence.turns if max(since, LEAST) <= place <= kv.length)
        )
        kept = sequence.by_worth({*marks, *begun, kv.length})[-MARKS:]
        sequence.marks = {place: marks.get(place) or Mark(kv.window(place)) for place in kept}
        self.shrink(self.room)

    def close(self, sequence: Encoded, keep: bool) -> None:
        """A sequence has left its slot. What it holds stays if there is room and it may be kept."""
        self.live = [
            other for other in self.live if other is not sequence
        ]  # a pass that failed may have forgotten it
        if not keep or not self.limit or len(sequence.tokens) < LEAST:
            return
        self.mark(sequence)
        sequence.kv.retire()
        sequence.retired = sum(buffer.nbytes for buffer in (*sequence.kv.keys, *sequence.kv.values))
        tokens = sequence.tokens
        self.cached = [
            old for old in self.cached if old.salt != sequence.salt or old.tokens != tokens[: len(old.tokens)]
        ] + [sequence]  # the longer one holds all of the shorter
        self.shrink(self.room)

    def shrink(self, room: int) -> None:
        """Forget until everything takes at most `limit` bytes and no more than requests now leave, `room`."""
        self.room = room
        while (held := self.nbytes) > min(self.limit, room) and self._forget():
            pass
        self.counted = held

    def _forget(self) -> bool:
        """What is missed least, of the client who holds most: marks beyond FEW, then sequences, always the least recently used;
        marks of those at work last."""
        held = self._held()
        most = max(held, key=held.__getitem__, default="")
        if self._thin(FEW, most):
            return True
        for sequence in self.cached:
            if sequence.client == most:
                self.cached.remove(sequence)
                return True
        return self._thin(0, most)

    def _thin(self, most: int, client: str) -> bool:
        for sequence in (*self.cached, *self.live):
            if sequence.client == client and len(sequence.marks) > most:
                del sequence.marks[sequence.by_worth(sequence.marks)[0]]
                return True
        return False

    @property
    def nbytes(self) -> int:
        """Bytes of what finished sequences hold and of all marks; K and V of those at work are their slots' own."""
        return self._held().total()

    def _held(self) -> Counter[str]:
        """These bytes by client; a mark of several sequences is its first one's."""
        held: Counter[str] = Counter()
        counted: set[int] = set()
        for sequence in (*self.cached, *self.live):
            held[sequence.client] += sequence.retired
            for mark in sequence.marks.values():
                if id(mark) not in counted:
                    counted.add(id(mark))
                    held[sequence.client] += mark.nbytes
        return held


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common beginning; slices are compared, because a loop over 100,000 tokens is slow in Python."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if [*one[low:middle]] == [*other[low:middle]] else (low, middle - 1)
    return low
