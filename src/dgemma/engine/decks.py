"""A deck: the canvases of one width that are being decided, each at a step of its own, either all with rules or all without.

Rows come and go between steps. While nobody does, the state and the last step's probabilities are handed on as they are,
without a copy; a row that begins a canvas has no beliefs yet and is conditioned on nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..model.dgemma import Canvases, DiffusionGemma, Previous
from ..sampling.step import CanvasState, take, together
from .canvases import advance, begin_canvases, commit_records, step_records
from .requests import Record
from .slots import Slot


class Deck:
    """The slots on it, the state of their canvases row by row, and what the last step believed of which row."""

    def __init__(self, model: DiffusionGemma):
        self.model = model
        self.slots: list[Slot] = []
        self._state: CanvasState | None = None  # of no canvas
        self.previous: Previous | None = None  # the last step's (p, row_sum)
        self.known: list[int | None] = []  # the row of `previous` that is each slot's, None: none is

    def join(self, slot: Slot) -> None:
        """A slot whose prompt is read, or is read to its end by the coming pass, begins its first canvas."""
        self._change([*range(len(self.slots))], [slot])

    def leave(self, slot: Slot) -> None:
        """A slot whose request has ended or was cancelled; nothing where it is not here."""
        if slot.on_deck:
            self._change([row for row, other in enumerate(self.slots) if other is not slot], [])

    @property
    def state(self) -> CanvasState:
        """Of all its canvases; there is none while nobody is here."""
        if self._state is None:
            raise RuntimeError("a deck without slots has no state")
        return self._state

    @property
    def believing(self) -> int:
        """Rows that are conditioned on a step before."""
        return sum(at is not None for at in self.known)

    def canvases(self) -> Canvases:
        """What the coming pass denoises."""
        return Canvases(self.state.canvas, [slot.kv for slot in self.slots], self._belief())

    def _belief(self) -> Tensor | None:
        """The self-conditioning embedding [B, C, D] of every row, 0 where a canvas takes its first step; None: all do."""
        known = [(row, at) for row, at in enumerate(self.known) if at is not None]
        if not known:
            return None
        rows, places = ([*part] for part in zip(*known, strict=True))
        if self.previous is None:
            raise RuntimeError("rows are known of a step that was not kept")
        p, row_sum = self.previous
        if places != list(range(len(p))):
            p, row_sum = p[self._index(places)], row_sum[self._index(places)]
        pins = self.state.pins
        if len(rows) == len(self.slots):
            return self.model.belief((p, row_sum), pins)
        soft = p.new_zeros((*pins.shape, self.model.config.hidden_size))
        soft[self._index(rows)] = self.model.belief((p, row_sum), pins[self._index(rows)])
        return soft

    def step(self, hidden: Tensor) -> Tensor:
        """One step of every canvas from hidden [B, C, D]. -> what is told of it."""
        spent, rulers = self.previous and self.previous[0], [slot.ruler for slot in self.slots]
        state, previous, told = advance(self.model, hidden, self.state, spent, rulers)
        self.goes_on(state, previous)
        return told

    def goes_on(self, state: CanvasState, previous: Previous) -> None:
        """After a step of all rows, whoever took it."""
        self._state, self.previous = state, previous
        self.known = list(range(len(self.slots)))

    def tell(self, told: Tensor) -> Iterator[tuple[Slot, Record]]:
        """The records of a step; a canvas that stands is committed and the next one begins."""
        slots, done = self.slots, []
        for row, record in enumerate(step_records([slot.ticket for slot in slots], told)):
            done += [row] if record.done else []
            yield slots[row], record
        if done:
            yield from self._commit(done)

    def _commit(self, done: list[int]) -> Iterator[tuple[Slot, Record]]:
        slots, stood = [self.slots[row] for row in done], take(self.state, self._index(done))
        records = commit_records(
            [slot.ticket for slot in slots], [slot.request for slot in slots], [slot.left for slot in slots], stood,
            [slot.ruler for slot in slots],
        )  # fmt: skip
        goes_on = [i for i, record in enumerate(records) if record.finish_reason is None]
        for i in goes_on:
            slots[i].commit(records[i].canvas_ids)
        self._change([row for row in range(len(self.slots)) if row not in done], [slots[i] for i in goes_on])
        yield from zip(slots, records, strict=True)

    def _change(self, stay: list[int], fresh: list[Slot]) -> None:
        """Keep the rows that stay, and let the fresh slots begin a canvas behind them."""
        states = []
        if stay:
            states = [self.state if len(stay) == len(self.slots) else take(self.state, self._index(stay))]
        if fresh:
            requests, numbers = [slot.request for slot in fresh], [slot.canvas for slot in fresh]
            states.append(begin_canvases(self.model, requests, numbers))
        self._state = together(states) if states else None
        for slot in self.slots:
            slot.on_deck = False
        self.slots = [self.slots[row] for row in stay] + fresh
        for slot in self.slots:
            slot.on_deck = True
        self.known = [self.known[row] for row in stay] + [None] * len(fresh)
        if not any(at is not None for at in self.known):
            self.previous = None  # the largest tensor there is

    def _index(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.model.device)
