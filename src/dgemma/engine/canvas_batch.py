"""A batch of canvases of one width, each at a step of its own; either all of them need logits or none.

Rows come and go between steps. While nobody does, the state and the last step's probabilities are handed on
as they are, without a copy; a row that begins a canvas has no step before it and is conditioned on nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..model.dgemma import Canvases, DiffusionGemma, PrevProbs
from ..sampling.step import CanvasState, take, together
from .canvases import advance, begin_canvases, commit_records, step_records
from .requests import Record
from .slot import Slot


class CanvasBatch:
    """Slots, the state of their canvases row by row, and which rows the last step's probabilities are of."""

    def __init__(self, model: DiffusionGemma):
        self.model = model
        self.slots: list[Slot] = []
        self._state: CanvasState | None = None  # of no canvas
        self.prev_probs: PrevProbs | None = None  # the last step's (p, row_sum)
        self.known: list[int | None] = []  # the row of `prev_probs` that is each slot's, None: none is

    def join(self, slot: Slot) -> None:
        """A slot whose prompt is read, or is read to its end by the coming pass, begins its first canvas."""
        self._change([*range(len(self.slots))], [slot])

    def leave(self, slot: Slot) -> None:
        """A slot whose request has ended or was cancelled; nothing where it is not here."""
        if slot.in_batch:
            self._change([row for row, other in enumerate(self.slots) if other is not slot], [])

    @property
    def state(self) -> CanvasState:
        """Of all its canvases; there is none while nobody is here."""
        if self._state is None:
            raise RuntimeError("a batch without slots has no state")
        return self._state

    @property
    def conditioned(self) -> int:
        """Rows that are conditioned on a step before."""
        return sum(at is not None for at in self.known)

    def canvases(self) -> Canvases:
        """What the coming pass denoises."""
        return Canvases(self.state.canvas, [slot.kv for slot in self.slots], self._self_conditioning())

    def _self_conditioning(self) -> Tensor | None:
        """The self-conditioning embedding [B, C, D] of every row, 0 where a canvas takes its first step.

        None: all do.
        """
        known = [(row, at) for row, at in enumerate(self.known) if at is not None]
        if not known:
            return None
        rows, places = ([*part] for part in zip(*known, strict=True))
        if self.prev_probs is None:
            raise RuntimeError("rows are known of a step that was not kept")
        p, row_sum = self.prev_probs
        if places != list(range(len(p))):
            chosen = self._index(places)
            p = p[chosen]
            row_sum = row_sum[chosen]
        pins = self.state.pins
        if len(rows) == len(self.slots):
            return self.model.self_conditioning_of((p, row_sum), pins)
        soft = p.new_zeros((*pins.shape, self.model.config.hidden_size))
        conditioned = self._index(rows)
        soft[conditioned] = self.model.self_conditioning_of((p, row_sum), pins[conditioned])
        return soft

    def step(self, hidden: Tensor) -> Tensor:
        """One step of every canvas from hidden [B, C, D]. -> its output, for `records`."""
        processors = [slot.processor for slot in self.slots]
        state, prev_probs, output = advance(self.model, hidden, self.state, self.prev_probs, processors)
        self.goes_on(state, prev_probs)
        return output

    def goes_on(self, state: CanvasState, prev_probs: PrevProbs) -> None:
        """After a step of all rows, whoever took it."""
        self._state = state
        self.prev_probs = prev_probs
        self.known = list(range(len(self.slots)))

    def records(self, output: Tensor) -> Iterator[tuple[Slot, Record]]:
        """The records of a step's output; a canvas that stands is committed and the next one begins."""
        slots = self.slots
        done: list[int] = []
        for row, record in enumerate(step_records([slot.ticket for slot in slots], output)):
            if record.done:
                done.append(row)
            yield slots[row], record
        if done:
            yield from self._commit(done)

    def _commit(self, done: list[int]) -> Iterator[tuple[Slot, Record]]:
        slots = [self.slots[row] for row in done]
        records = commit_records(
            names=[slot.ticket for slot in slots],
            requests=[slot.request for slot in slots],
            left=[slot.left for slot in slots],
            state=take(self.state, self._index(done)),
            processors=[slot.processor for slot in slots],
        )
        goes_on = [i for i, record in enumerate(records) if record.finish_reason is None]
        for i in goes_on:
            slots[i].commit(records[i].canvas_ids)
        self._change([row for row in range(len(self.slots)) if row not in done], [slots[i] for i in goes_on])
        yield from zip(slots, records, strict=True)

    def _change(self, stay: list[int], fresh: list[Slot]) -> None:
        """Keep the rows that stay, and let the fresh slots begin a canvas behind them."""
        states = []
        if len(stay) == len(self.slots) > 0:
            states.append(self.state)
        elif stay:
            states.append(take(self.state, self._index(stay)))
        if fresh:
            requests = [slot.request for slot in fresh]
            states.append(begin_canvases(self.model, requests, [slot.canvas for slot in fresh]))
        self._state = together(states) if states else None
        for slot in self.slots:
            slot.in_batch = False
        self.slots = [self.slots[row] for row in stay] + fresh
        for slot in self.slots:
            slot.in_batch = True
        self.known = [self.known[row] for row in stay] + [None] * len(fresh)
        if not any(at is not None for at in self.known):
            self.prev_probs = None  # the largest tensor there is

    def _index(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.model.device)
