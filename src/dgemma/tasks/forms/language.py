"""Formal languages over bytes that know their shortest text: what a form allows, as an expression that is
walked by derivatives.

An Expression is what may still come. `after(expression, byte)` is what may come behind that byte
(Brzozowski's derivative), and `shortest(expression)` is the least text that ends it, exactly. Equal
expressions are one object, so an expression is its own state key. Sequences, choices and counts know their
shortest text from their parts. An intersection does not: it is searched, best first, guided by what each part
needs at least.

Trap: work is counted, not timed. A Language does at most `budget` operations, then raises Exhausted; it is
not for use by two threads.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Protocol

from .bytesets import ALL, RANK, liked, meet, split

NEVER = float("inf")
MOST_NODES, MOST_STEPS = 100_000, 200_000  # remembered at a time; what is forgotten is only computed again


class Exhausted(Exception):
    """The budget is spent: nothing was proven."""


class Leaf(Protocol):
    """A language with arithmetic of its own, as a range of numbers has. Equal leaves compare equal."""

    @property
    def nullable(self) -> bool:
        """Whether the empty text belongs to it."""

    def after(self, byte: int) -> Leaf | None:
        """What may follow that byte; None: nothing."""

    def shortest(self) -> bytes | None:
        """The least text that ends it; None: there is none."""


class Expression:
    """A language. `kind` says how its `parts` make it; `nullable`: whether the empty text belongs to it."""

    __slots__ = ("kind", "parts", "nullable", "_cost", "__weakref__")

    def __init__(self, kind: str, parts: tuple[Any, ...], nullable: bool):
        self.kind = kind
        self.parts = parts
        self.nullable = nullable
        self._cost: float | None = None  # the length of its shortest text, where it is known


class _Search:
    """A search at work: places to go on from, nearest first, and how many bytes led to each place."""

    def __init__(self, start: Expression, least: float):
        self.queue: list[tuple[float, int, int, bytes, Expression]] = [(least, 0, 0, b"", start)]
        self.reached = {start: 0}
        self.count = 0


class Language:
    """Makes expressions, walks them and finds their ends."""

    def __init__(self, budget: int):
        self.budget = budget
        self.work = 0
        self._known: dict[tuple[str, tuple[Any, ...]], Expression] = {}
        self._after: dict[tuple[Expression, int], Expression] = {}
        self._ways: dict[Expression, bytes | None] = {}  # of intersections
        self._open: dict[Expression, _Search] = {}  # searches that the budget ended
        self.nothing = Expression("nothing", (), False)
        self.empty = Expression("empty", (), True)

    # making expressions

    def _make(self, kind: str, parts: tuple[Any, ...], nullable: bool) -> Expression:
        key = (kind, parts)
        known = self._known.get(key)
        if known is not None:
            return known
        self.spend(1)
        if len(self._known) >= MOST_NODES:
            self._known.clear()
            self._after.clear()
            self._ways.clear()
            self._open.clear()
        made = Expression(kind, parts, nullable)
        self._known[key] = made
        return made

    def spend(self, work: int) -> None:
        self.work += work
        if self.work > self.budget:
            raise Exhausted

    def bytes_of(self, mask: int) -> Expression:
        """One byte of a set, as a mask of 256 bits."""
        if not mask:
            return self.nothing
        return self._make("bytes", (mask,), False)

    def text(self, text: bytes) -> Expression:
        return self.sequence(*(self.bytes_of(1 << byte) for byte in text))

    def leaf(self, leaf: Leaf) -> Expression:
        return self._make("leaf", (leaf,), leaf.nullable)

    def sequence(self, *parts: Expression) -> Expression:
        made = self.empty
        for part in reversed(parts):
            made = self._join(part, made)
        return made

    def _join(self, first: Expression, rest: Expression) -> Expression:
        if first is self.nothing or rest is self.nothing:
            return self.nothing
        if first is self.empty:
            return rest
        if rest is self.empty:
            return first
        heads = []
        while first.kind == "sequence":
            heads.append(first.parts[0])
            first = first.parts[1]
        heads.append(first)
        for head in reversed(heads):
            rest = self._make("sequence", (head, rest), head.nullable and rest.nullable)
        return rest

    def choice(self, *parts: Expression) -> Expression:
        flat: dict[Expression, None] = {}
        mask = 0
        for part in parts:
            for one in part.parts if part.kind == "choice" else (part,):
                if one.kind == "bytes":
                    mask |= one.parts[0]
                elif one is not self.nothing:
                    flat[one] = None
        if mask:
            flat[self.bytes_of(mask)] = None
        if not flat:
            return self.nothing
        if len(flat) == 1:
            return next(iter(flat))
        self.spend(len(flat) >> 3)
        ordered = tuple(sorted(flat, key=id))
        return self._make("choice", ordered, any(one.nullable for one in ordered))

    def maybe(self, part: Expression) -> Expression:
        return self.choice(part, self.empty)

    def repeat(self, part: Expression, least: int = 0, most: int | None = None) -> Expression:
        if most == 0 or part is self.empty:
            return self.empty
        if part is self.nothing:
            if least:
                return self.nothing
            return self.empty
        if part.nullable:
            least = 0
        if (least, most) == (1, 1):
            return part
        return self._make("repeat", (part, least, most), least == 0)

    def both(self, *parts: Expression) -> Expression:
        """What belongs to all parts, of which there is one at least."""
        flat: dict[Expression, None] = {}
        for part in parts:
            for one in part.parts if part.kind == "both" else (part,):
                flat[one] = None
        if self.nothing in flat:
            return self.nothing
        if self.empty in flat:
            if all(one.nullable for one in flat):
                return self.empty
            return self.nothing
        if len(flat) == 1:
            return next(iter(flat))
        ordered = tuple(sorted(flat, key=id))
        return self._make("both", ordered, all(one.nullable for one in ordered))

    def no(self, part: Expression) -> Expression:
        """Every text of bytes that does not belong to the part. Only of use inside `both`."""
        return self._make("no", (part,), not part.nullable)

    def rule(self, nullable: bool = False) -> Expression:
        """A place that is filled later by `define`, so that a form can hold itself."""
        return Expression("rule", (), nullable)

    def define(self, rule: Expression, body: Expression) -> None:
        """Fill a rule. Until `settle` was called, no shortest text is known."""
        rule.parts = (body,)
        rule.nullable = body.nullable

    def settle(self, rules: list[Expression]) -> None:
        """Find out how long the shortest texts of rules are that may hold each other."""
        lengths = dict.fromkeys(rules, NEVER)
        changed = True
        while changed:
            changed = False
            for one in self._known.values():
                one._cost = None
            for rule in rules:
                rule._cost = lengths[rule]
            for rule in rules:
                length = self.length(rule.parts[0])
                if length < lengths[rule]:
                    lengths[rule] = length
                    changed = True

    # walking

    def after(self, one: Expression, byte: int) -> Expression:
        """What may come behind a byte; `nothing` where it may not stand."""
        key = (one, byte)
        known = self._after.get(key)
        if known is not None:
            return known
        self.spend(1)
        if len(self._after) >= MOST_STEPS:
            self._after.clear()
        behind = self._derive(one, byte)
        self._after[key] = behind
        return behind

    def walk(self, one: Expression, text: bytes) -> Expression:
        for byte in text:
            one = self.after(one, byte)
        return one

    def _derive(self, one: Expression, byte: int) -> Expression:
        kind = one.kind
        parts = one.parts
        if kind == "bytes":
            if parts[0] >> byte & 1:
                return self.empty
            return self.nothing
        if kind == "sequence":
            first, rest = parts
            behind = self._join(self.after(first, byte), rest)
            if first.nullable:
                return self.choice(behind, self.after(rest, byte))
            return behind
        if kind == "choice":
            return self.choice(*(self.after(part, byte) for part in parts))
        if kind == "repeat":
            part, least, most = parts
            most_more = None
            if most is not None:
                most_more = most - 1
            rest = self.repeat(part, max(0, least - 1), most_more)
            return self._join(self.after(part, byte), rest)
        if kind == "both":
            return self.both(*(self.after(part, byte) for part in parts))
        if kind == "no":
            return self.no(self.after(parts[0], byte))
        if kind == "rule":
            return self.after(parts[0], byte)
        if kind == "leaf":
            leaf = parts[0].after(byte)
            if leaf is None:
                return self.nothing
            return self.leaf(leaf)
        return self.nothing

    # ends

    def length(self, one: Expression) -> float:
        """The length of the shortest text, in bytes; NEVER where there is none."""
        chain = []
        while one._cost is None and one.kind == "sequence" and not one.nullable:
            chain.append(one)
            one = one.parts[1]
        if one._cost is None:
            one._cost = self._length(one)
        cost = one._cost
        for part in reversed(chain):
            cost += self.length(part.parts[0])
            part._cost = cost
        return cost

    def _length(self, one: Expression) -> float:
        kind = one.kind
        parts = one.parts
        if kind == "nothing":
            return NEVER
        if one.nullable:
            return 0
        if kind == "bytes":
            return 1
        if kind == "choice":
            return min(map(self.length, parts))
        if kind == "repeat":
            count: int = parts[1]
            return self.length(parts[0]) * count
        if kind == "rule":
            return self.length(parts[0])
        if kind == "leaf":
            text = parts[0].shortest()
            if text is None:
                return NEVER
            return len(text)
        way = self._search(one)
        if way is None:
            return NEVER
        return len(way)

    def shortest(self, one: Expression) -> bytes | None:
        """The shortest text; None where there is none."""
        if self.length(one) == NEVER:
            return None
        return b"".join(self._pieces(one))

    def _pieces(self, one: Expression) -> Iterator[bytes]:
        while not one.nullable:
            kind = one.kind
            parts = one.parts
            if kind == "sequence":
                yield from self._pieces(parts[0])
                one = parts[1]
            elif kind == "choice":
                one = min(parts, key=lambda part: (self.length(part), self._taste(part)))
            elif kind == "rule":
                one = parts[0]
            elif kind == "repeat":
                yield b"".join(self._pieces(parts[0])) * parts[1]
                return
            elif kind == "bytes":
                yield bytes((liked(parts[0]),))
                return
            elif kind == "leaf":
                yield parts[0].shortest()
                return
            else:
                way = self._search(one)
                if way is not None:  # as it is: who asks for pieces knows that there is a text
                    yield way
                return

    def _taste(self, part: Expression) -> int:
        """How plain a text looks: a letter before a quote, a quote before what must be escaped."""
        while part.kind in ("sequence", "rule"):
            part = part.parts[0]
        if part.kind != "bytes":
            return len(RANK)
        return RANK.get(liked(part.parts[0]), len(RANK))

    def _search(self, start: Expression) -> bytes | None:
        """The shortest text of an intersection: best first over its derivatives, one byte for all that lead
        to the same place.

        What every part needs at least never exceeds what all need together, so the first end that is met is
        the nearest. Where the budget ends, the search is kept and goes on from there.
        """
        if start in self._ways:
            return self._ways[start]
        search = self._open.pop(start, None) or _Search(start, self._least(start))
        while search.queue:
            entry = heapq.heappop(search.queue)
            _, _, _, way, one = entry
            if len(way) > search.reached[one]:
                continue
            known = self._ways.get(one)
            if one.nullable:
                known = b""
            if known is not None:
                self._remember(start, way + known)
                return way + known
            try:
                self._expand(search, way, one)
            except Exhausted:
                heapq.heappush(search.queue, entry)
                self._open[start] = search
                raise
        self._ways[start] = None
        return None

    def _expand(self, search: _Search, way: bytes, one: Expression) -> None:
        steps = len(way) + 1
        for mask in sorted(self.classes(one), key=lambda mask: RANK.get(liked(mask), len(RANK))):
            self.spend(1)
            byte = liked(mask)
            behind = self.after(one, byte)
            if behind is self.nothing or steps >= search.reached.get(behind, NEVER):
                continue
            further = self._least(behind)
            if further < NEVER:
                search.reached[behind] = steps
                search.count += 1
                heapq.heappush(
                    search.queue, (steps + further, -steps, search.count, way + bytes((byte,)), behind)
                )

    def _remember(self, start: Expression, way: bytes) -> None:
        """The way of every place along the shortest one."""
        one = start
        for place, byte in enumerate(way):
            self._ways[one] = way[place:]
            one = self.after(one, byte)

    def _least(self, one: Expression) -> float:
        """No more than the length of the shortest text."""
        if one.nullable:
            return 0
        if one.kind == "both":
            return max(map(self._least, one.parts))
        if one.kind == "no":
            return 1
        if one.kind == "sequence":
            least: float = 0
            while one.kind == "sequence":
                least += self._least(one.parts[0])
                one = one.parts[1]
            return least + self._least(one)
        if one.kind == "choice":
            return min(map(self._least, one.parts))
        return self.length(one)

    def classes(self, one: Expression) -> list[int]:
        """Bytes that an expression cannot tell from each other, as masks that together hold all bytes."""
        kind = one.kind
        parts = one.parts
        if kind == "bytes":
            return split([ALL], parts)
        if kind == "sequence" and not parts[0].nullable:
            return self.classes(parts[0])
        if kind in ("sequence", "choice", "both"):
            return meet(map(self.classes, parts))
        if kind in ("repeat", "no", "rule"):
            return self.classes(parts[0])
        if kind == "leaf":
            return split([ALL], [1 << byte for byte in b"0123456789+-.eE"])
        return [ALL]
