"""The way to the end of a form, as tokens that its matcher takes.

What may still come is known as a language wherever the form could be read (language.py): its shortest text is
the way. The matcher has the last word. Where it refuses a text, or the form could not be read, a search over
the matcher's own states goes on, best first, a byte at a time, and what the language needs at least leads it
where there is one.

Trap: two states of a matcher cannot be told apart, so this search forgets places that look alike. That it
finds nothing proves nothing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from .compiler import too_much
from .language import NEVER, Exhausted, Expression, Language
from .names import Names

ALIKE = 3  # bytes of one class that are tried
MOST_TRIED = 64  # bytes behind one place
LOOKED_AT = 4  # places of one depth with the same mask that are gone on from
TRIED_FIRST = b"\"}])>'`;,:0a \n-.1AeE/_=<({["
MOST_OPEN = 16  # searches that go on later
DIVED = 50  # operations of one step straight on
DEEPEST = 4096  # bytes that are gone straight on
EXPANDED = (
    500  # operations that a place of the search counts as: some hundred steps of the matcher, and a mask
)
MOST_PIECE = 32  # bytes of the longest token that is looked for


class Spelling:
    """The tokens of a vocabulary by their bytes."""

    def __init__(self, pieces: Sequence[bytes]):
        self.pieces = pieces
        self.ids: dict[bytes, int] = {}  # of equal pieces the first counts
        for token, piece in enumerate(pieces):
            if 0 < len(piece) <= MOST_PIECE:
                self.ids.setdefault(piece, token)
        lengths: dict[bytes, set[int]] = {}
        for piece in self.ids:
            lengths.setdefault(piece[:2], set()).add(len(piece))
        # of tokens that begin so, the longest first
        self._lengths = {start: sorted(sizes, reverse=True) for start, sizes in lengths.items()}
        self.bytes = [(byte, self.ids[bytes((byte,))]) for byte in _order() if bytes((byte,)) in self.ids]

    def tokens(self, text: bytes) -> list[int] | None:
        """A text as tokens, the longest first; None where a byte has none."""
        tokens: list[int] = []
        place = 0
        while place < len(text):
            token, length = self._longest(text, place)
            if token is None:
                return None
            tokens.append(token)
            place += length
        return tokens

    def _longest(self, text: bytes, place: int) -> tuple[int | None, int]:
        for length in self._lengths.get(text[place : place + 2], ()):
            token = self.ids.get(text[place : place + length])
            if token is not None and place + length <= len(text):
                return token, length
        return self.ids.get(text[place : place + 1]), 1

    def text(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.pieces[token] for token in ids)


def _order() -> list[int]:
    first = [*TRIED_FIRST]
    return first + [byte for byte in range(256) if byte not in first]


class Ways:
    """Finds ways for one form, and keeps the searches that a budget ended."""

    def __init__(self, language: Language, spelling: Spelling):
        self.language = language
        self.spelling = spelling
        self._open: OrderedDict[tuple[int, ...], _Search] = OrderedDict()

    def find(
        self, matcher: Any, rest: Expression | None, taken: tuple[int, ...], names: Names | None = None
    ) -> list[int] | None:
        """Tokens that lead a matcher to an end from its place, behind `taken`; None: not found.

        Raises Exhausted.

        rest: what the language may still hold there, or None where that is not known. names: those that
        objects have already, where each may occur but once.
        """
        text = None
        if rest is not None:
            text = self.language.shortest(rest)
        if text is not None:
            if names is not None:
                text = names.distinct(text)
            way = self._accepted(matcher, text)
            if way is not None:
                return way
        way = self._searched(matcher, rest, taken)
        if way is None or names is None:
            return way
        return self._accepted(matcher, names.distinct(self.spelling.text(way)))

    def _searched(self, matcher: Any, rest: Expression | None, taken: tuple[int, ...]) -> list[int] | None:
        search = self._open.pop(taken, None) or _Search(matcher.deep_copy(), rest)
        try:
            return self._search(search)
        except Exhausted:
            self._open[taken] = search
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            raise

    def _accepted(self, matcher: Any, text: bytes) -> list[int] | None:
        """The tokens of a text, where the matcher takes them and may end behind them."""
        ids = self.spelling.tokens(text)
        if ids is None:
            return None
        walked = matcher.deep_copy()
        if ids and walked.try_consume_tokens(ids) < len(ids):
            return None
        if walked.is_accepting():
            return ids
        return None

    def _search(self, search: _Search) -> list[int] | None:
        straight = self._dive(search)
        if straight is not None:
            return straight
        while search.queue:
            self.language.spend(EXPANDED)  # before a place is taken from the queue, so that none is lost
            _, _, _, way, at, rest = heapq.heappop(search.queue)
            if at.is_accepting():
                return self.spelling.tokens(way)
            if at.is_stopped():
                continue
            mask = _mask(at)
            if search.is_new(len(way), mask):
                for text in self._next_texts(at, mask, rest):
                    self._step(search, way, at, rest, text)
        return None

    def _dive(self, search: _Search) -> list[int] | None:
        """Straight on by what closes things first, for a while: the way through forms that are long and
        simple.
        """
        while search.dive is not None:
            self.language.spend(DIVED)
            way, at = search.dive
            if at.is_accepting():
                return self.spelling.tokens(way)
            search.dive = None
            if len(way) < DEEPEST and not at.is_stopped():
                for text in self._next_texts(at, _mask(at), None):
                    behind = at.deep_copy()
                    ids = self.spelling.tokens(text)
                    if ids is not None and behind.try_consume_tokens(ids) == len(ids):
                        search.dive = way + text, behind
                        break
        return None

    def _step(self, search: _Search, way: bytes, at: Any, rest: Expression | None, text: bytes) -> None:
        ids = self.spelling.tokens(text)
        behind = at.deep_copy()
        if ids is None or behind.try_consume_tokens(ids) < len(ids):
            return
        further, least = self._further(rest, text)
        search.push(way + text, least, behind, further)

    def _next_texts(self, at: Any, mask: bytes, rest: Expression | None) -> list[bytes]:
        """What is tried behind a place: the text that must come, or bytes that may, few of those that the
        language cannot tell apart.
        """
        forced = at.compute_ff_bytes()
        if forced and self.spelling.tokens(forced) is not None:
            return [forced]
        may = [byte for byte, token in self.spelling.bytes if mask[token >> 3] >> (token & 7) & 1]
        if rest is not None:
            alike = [[byte for byte in may if one >> byte & 1][:ALIKE] for one in self.language.classes(rest)]
            may = [byte for bytes_ in alike for byte in bytes_]
        return [bytes((byte,)) for byte in may[:MOST_TRIED]]

    def _further(self, rest: Expression | None, text: bytes) -> tuple[Expression | None, float]:
        """What the language may hold behind a text, and how much it needs at least."""
        if rest is None:
            return None, 0
        behind = self.language.walk(rest, text)
        length = self.language.length(behind)
        if length == NEVER:
            return (None, 0)
        return (behind, length)


def _mask(at: Any) -> bytes:
    mask: bytes = at.compute_bitmask()
    if at.is_error():
        raise too_much(at)
    return mask


class _Search:
    """Places of a matcher to go on from, and which have been seen."""

    def __init__(self, matcher: Any, rest: Expression | None):
        self.queue: list[tuple[float, int, int, bytes, Any, Expression | None]] = [
            (0, 0, 0, b"", matcher, rest)
        ]
        self.dive: tuple[bytes, Any] | None = (b"", matcher.deep_copy()) if rest is None else None
        self._seen: dict[tuple[int, bytes], int] = {}
        self._count = 0

    def is_new(self, depth: int, mask: bytes) -> bool:
        key = depth, mask
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] <= LOOKED_AT

    def push(self, way: bytes, least: float, matcher: Any, rest: Expression | None) -> None:
        self._count += 1
        heapq.heappush(self.queue, (len(way) + least, -len(way), self._count, way, matcher, rest))
