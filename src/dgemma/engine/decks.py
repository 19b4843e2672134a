"""A deck: the canvases of one width that are being decided, each at a step of its own.

Rows come and go between steps. While nobody does, the state and the last step's probabilities are handed on as they are,
without a copy; a row that begins a canvas has no beliefs yet and is conditioned on nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..model.dgemma import Canvases, DiffusionGemma
from ..sampling.step import CanvasState, step, take, together
from .canvases import begin_canvases, commit_records, look, step_records
from .requests import Record
from .slots import Slot


class Deck:
    """The slots on it, the state of their canvases row by row, and what the last step believed of which row."""

    def __init__(self, model: DiffusionGemma):
        self.model = model
        self.slots: list[Slot] = []
        self.state: CanvasState | None = None
        self._previous: tuple[Tensor, Tensor] | None = None  # the last step's (p, row_sum)
        self._known: list[int | None] = []  # the row of `_previous` that is each slot's, None: none is

    def join(self, slot: Slot) -> None:
        """A slot whose prompt is read, or is read to its end by the coming pass, begins its first canvas."""
        self._change([*range(len(self.slots))], [slot])

    def leave(self, slot: Slot) -> None:
        """A slot whose request has ended or was cancelled; nothing where it is not here."""
        self._change([row for row, other in enumerate(self.slots) if other is not slot], [])

    @property
    def believing(self) -> int:
        """Rows that are conditioned on a step before."""
        return sum(at is not None for at in self._known)

    def canvases(self) -> Canvases:
        """What the coming pass denoises."""
        return Canvases(self.state.canvas, [slot.kv for slot in self.slots], self._belief())

    def _belief(self) -> Tensor | None:
        """The self-conditioning embedding [B, C, D] of every row, 0 where a canvas takes its first step; None: all do."""
        known = [(row, at) for row, at in enumerate(self._known) if at is not None]
        if not known:
            return None
        rows, places = ([*part] for part in zip(*known, strict=True))
        p, row_sum = self._previous
        if places != list(range(len(p))):
            p, row_sum = p[self._index(places)], row_sum[self._index(places)]
        pins = self.state.pins
        if len(rows) == len(self.slots):
            return self.model.belief((p, row_sum), pins)
        soft = p.new_zeros((*pins.shape, self.model.config.hidden_size))
        soft[self._index(rows)] = self.model.belief((p, row_sum), pins[self._index(rows)])
        return soft

    def step(self, hidden: Tensor) -> Iterator[tuple[Slot, Record]]:
        """One step of every canvas from hidden [B, C, D]; a canvas that stands is committed and the next one begins."""
        stats = look(self.model, hidden, self.state)
        before, self.state = self.state, step(stats, self.state, self.model.config.vocab_size)
        self._previous, self._known = (stats.p, stats.row_sum), list(range(len(self.slots)))
        slots = self.slots
        for slot, record in zip(slots, step_records([slot.ticket for slot in slots], before, self.state), strict=True):
            yield slot, record
        done = [row for row, finished in enumerate(self.state.done.tolist()) if finished]
        if done:
            yield from self._commit(done)

    def _commit(self, done: list[int]) -> Iterator[tuple[Slot, Record]]:
        slots, stood = [self.slots[row] for row in done], take(self.state, self._index(done))
        records = commit_records(
            [slot.ticket for slot in slots], [slot.request for slot in slots], [slot.left for slot in slots], stood
        )
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
        self.state = together(states) if states else None
        self.slots = [self.slots[row] for row in stay] + fresh
        self._known = [self._known[row] for row in stay] + [None] * len(fresh)
        if not any(at is not None for at in self._known):
            self._previous = None  # the largest tensor there is

    def _index(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.model.device)
