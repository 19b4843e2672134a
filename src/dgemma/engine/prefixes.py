"""The prefix cache: what was encoded once is not encoded again.

Full layers keep K and V of every token, so any beginning of a sequence can be taken from them. Sliding layers
keep a window only, so a sequence can be resumed just where a copy of the window was put aside, a resume
point: where its turns begin, at the ends of the chunks it was read in, at its prompt's end, and where it was
left. A sequence may be resumed by others while it is still at work, because what is encoded never changes.
Tenants do not see each other: a salt is part of every match.

What is forgotten is that of the client who holds most, least recently used first. Knows no turns: a request
names the places. Trap: a beginning is shared by tokens, never by text; two tokenizations are two prefixes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ..model.kv import KVCache, Window

LEAST = 16  # tokens: shorter beginnings are not worth a look
# Places to resume a sequence at. Each holds (window - 1) tokens of every sliding layer, of the published
# model in bf16 1,023 x 25 layers x 2 x 8 heads x 256 x 2 bytes = 210 MB, as much as the full layers keep of
# 10,200 tokens.
MOST_POINTS = 8
FEW = 3  # of these, what each sequence keeps before any is forgotten: its end, its last and its first turn


@dataclass(eq=False)
class ResumePoint:
    """The window that a sequence is resumed with; several sequences may hold the same."""

    window: Window

    def __post_init__(self) -> None:
        self.nbytes = sum(tensor.nbytes for tensor in self.window)


@dataclass(eq=False)
class Encoded:
    """A sequence: its tokens, their K and V, where its turns begin, and what it can be resumed with, by
    length.
    """

    kv: KVCache
    cache_salt: str
    turns: frozenset[int] = frozenset()
    tokens: list[int] = field(default_factory=list)
    resume_points: dict[int, ResumePoint] = field(default_factory=dict)
    retired: int = 0  # bytes of K and V beside the resume points, once it has left its slot
    client: str = ""  # whose share of the cache it takes

    def by_worth(self, places: Collection[int]) -> list[int]:
        """Places to resume at, the one worth most last.

        Ends of chunks, oldest first; then turns, oldest first but for the first of all, which other
        conversations share, and the last; then where the sequence was left.
        """
        *places, last = sorted(places)
        ends = [place for place in places if place not in self.turns]
        turns = [place for place in places if place in self.turns]
        return [*ends, *turns[1:-1], *turns[:1], *turns[1:][-1:], last]

    def holds(self, other: Encoded) -> bool:
        """Whether all of another sequence can be taken from this one."""
        is_prefix = other.tokens == self.tokens[: len(other.tokens)]
        return other.cache_salt == self.cache_salt and is_prefix

    def shared(self, ids: Sequence[int]) -> int:
        """How many tokens `ids` begins with that can be resumed here."""
        most = common(self.tokens, ids)
        return max((place for place in self.resume_points if place <= most), default=0)


class Prefixes:
    """Sequences at work, and finished ones.

    These and the resume points of both take up to `limit` bytes (0: nothing is shared).
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.available = limit  # what the requests at work leave
        self.counted = 0  # bytes that were held after the last change, for whoever looks from another thread
        self.live: list[Encoded] = []
        self.cached: list[Encoded] = []  # the least recently used first

    def open(
        self, kv: KVCache, ids: Sequence[int], cache_salt: str, turns: Sequence[int] = (), client: str = ""
    ) -> Encoded:
        """A sequence in the empty `kv` that will begin with `ids`.

        As much of them as is known is in it already.
        """
        opened = Encoded(kv, cache_salt, frozenset(turns), client=client)
        count, best = self._best(ids, cache_salt)
        if best is not None:
            kv.resume(best.kv, count, best.resume_points[count].window)
            opened.tokens = list(ids[:count])
            opened.resume_points = {
                place: point for place, point in best.resume_points.items() if place <= count
            }
            if best in self.cached:
                self.cached.append(self.cached.pop(self.cached.index(best)))
        self.live.append(opened)
        return opened

    def known(self, ids: Sequence[int], cache_salt: str) -> int:
        """How many tokens of `ids` need not be read."""
        return self._best(ids, cache_salt)[0]

    def _best(self, ids: Sequence[int], cache_salt: str) -> tuple[int, Encoded | None]:
        """The sequence that most of `ids` can be taken from, and how many tokens that is."""
        most = 0
        best: Encoded | None = None
        for other in (*self.cached, *self.live):
            if other.cache_salt == cache_salt and (count := other.shared(ids)) > most:
                most = count
                best = other
        if most < LEAST:
            return 0, None
        return most, best

    def add_resume_point(self, sequence: Encoded, since: int | None = None) -> None:
        """Let the sequence be resumed from where it is now, and from the turns that a pass read which began
        at `since`.
        """
        if not self.limit or not sequence.tokens:
            return
        kv = sequence.kv
        known = sequence.resume_points
        places = {*known, kv.length}
        if since is not None:
            places |= {place for place in sequence.turns if max(since, LEAST) <= place <= kv.length}
        kept = sequence.by_worth(places)[-MOST_POINTS:]
        sequence.resume_points = {place: known.get(place) or ResumePoint(kv.window(place)) for place in kept}
        self.shrink(self.available)

    def close(self, sequence: Encoded, keep: bool) -> None:
        """A sequence has left its slot. What it holds stays if there is room and it may be kept."""
        # a pass that failed may have forgotten it
        self.live = [other for other in self.live if other is not sequence]
        if not keep or not self.limit or len(sequence.tokens) < LEAST:
            return
        self.add_resume_point(sequence)
        sequence.kv.retire()
        sequence.retired = sum(buffer.nbytes for buffer in (*sequence.kv.keys, *sequence.kv.values))
        self.cached = [other for other in self.cached if not sequence.holds(other)]
        self.cached.append(sequence)
        self.shrink(self.available)

    def shrink(self, available: int) -> None:
        """Forget until everything takes at most `limit` bytes, and no more than what requests now leave."""
        self.available = available
        while (held := self.nbytes) > min(self.limit, available) and self._forget():
            pass
        self.counted = held

    def _forget(self) -> bool:
        """What is missed least, of the client who holds most: resume points beyond FEW, then sequences, then
        the other points.

        Always the least recently used first, and what belongs to sequences at work last.
        """
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
            if sequence.client == client and len(sequence.resume_points) > most:
                del sequence.resume_points[sequence.by_worth(sequence.resume_points)[0]]
                return True
        return False

    @property
    def nbytes(self) -> int:
        """Bytes of what finished sequences hold and of all resume points.

        K and V of those at work are their slots' own.
        """
        return self._held().total()

    def _held(self) -> Counter[str]:
        """These bytes by client; a resume point of several sequences is its first one's."""
        held: Counter[str] = Counter()
        counted: set[int] = set()
        for sequence in (*self.cached, *self.live):
            held[sequence.client] += sequence.retired
            for point in sequence.resume_points.values():
                if id(point) not in counted:
                    counted.add(id(point))
                    held[sequence.client] += point.nbytes
        return held


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common beginning.

    Slices are compared, because a loop over 100,000 tokens is slow in Python.
    """
    low = 0
    high = min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if [*one[low:middle]] == [*other[low:middle]]:
            low = middle
        else:
            high = middle - 1
    return low
