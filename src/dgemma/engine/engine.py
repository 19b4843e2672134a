"""Many requests, one pass at a time: prompts being read, canvases being decided and canvases being committed share it.

    submit(request) -> ticket        checked; waits for a slot
    advance()                        one pass for everybody who has one
    poll(ticket)                     what became of a request since the last look
    cancel(ticket)                   its slot is free at once
    run(requests)                    all of that for some requests, record by record

One pass does what the plain loop (denoise.py, which this must equal token for token) does in several: a prompt's last chunk
and its first step are one, and so are a finished canvas's commit and the next canvas's first step. Requests join
and leave between passes; none waits for another's canvas to stand. Slots are given out by memory (slots.py).

Clients share a pass fairly (shares.py): its room for prompts in equal parts, and beside canvases of others a client's prompts
bring no more rows than the largest of these others has there, so that a long prompt does not slow down those who answer.

Whoever pulls records drives: there is no thread here, and the lock only keeps drivers apart.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from ..config import DenoiseConfig, EngineConfig
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from .decks import Deck
from .graphs import Graphs, can_capture
from .requests import CommitRecord, Record, Request
from .runner import Runner
from .shares import Waiting, divide
from .slots import Slot, Slots

T = TypeVar("T")
BESIDE_OTHERS = (
    64  # prompt rows that a client has in a pass at least, however small the canvases of others are
)


class Load(NamedTuple):
    """What one pass carried."""

    clean: int  # prompt and commit rows
    canvas: int  # canvas rows
    believing: int  # of these, conditioned on a step before
    context: int  # cached tokens of a sequence, on average
    sequences: int

    @property
    def is_step(self) -> bool:
        """A step of canvases, whatever commits it carried; no pass that reads a prompt of more rows than they have."""
        return 0 < self.canvas >= self.clean


class Engine:
    """Requests over one model."""

    owner = ""  # whose requests these are, where somebody shares out turns

    def __init__(self, model: DiffusionGemma, config: EngineConfig = EngineConfig()):
        self.model, self.config = model, config
        self.slots = Slots(model, config)
        self.decks: dict[tuple[int, bool], Deck] = {}  # by canvas width, and whether its rows have rules
        self.graphs = Graphs(model) if can_capture(model) else None
        self.passes, self.last = 0, Load(0, 0, 0, 0, 0)
        self._waiting = Waiting()
        self._told: dict[int, list[Record]] = {}  # by ticket: records that nobody has polled yet
        self._tickets = 0
        self._lock = threading.RLock()

    def submit(self, request: Request) -> int:
        """Take a request that `check` lets through. -> its ticket."""
        self.check(request)
        with self._lock:
            ticket, self._tickets = self._tickets, self._tickets + 1
            self._told[ticket] = []
            self._waiting.add(Slot(ticket, request, request.max_tokens))
        return ticket

    def check(self, request: Request) -> None:
        """Raise UsageError where a request does not fit the model, ResourceError where it would never fit memory."""
        request.check(self.model.config, self.config.max_prompt_tokens)
        self.slots.check(request)

    def cancel(self, ticket: int) -> None:
        """Forget a request, whatever it is doing; nothing more is told of it."""
        with self._lock:
            self._told.pop(ticket, None)
            for slot in [slot for slot in self._waiting if slot.ticket == ticket]:
                self._waiting.remove(slot)
            for slot in [slot for slot in self.slots.taken if slot.ticket == ticket]:
                self._release(slot, keep=True)

    def poll(self, ticket: int) -> list[Record]:
        """The records of a request since the last poll, without a pass for them."""
        with self._lock:
            told = self._told.get(ticket, [])
            if ticket in self._told:
                self._told[ticket] = []
            return told

    def run(self, requests: Sequence[Request]) -> Generator[Record, None, None]:
        """Run requests together to their ends; records carry a request's index. Leaving early cancels them."""
        open_ = {}
        try:
            for index, request in enumerate(requests):
                open_[self.submit(request)] = index
            while open_:
                with self._lock:
                    if not any(self._told[ticket] for ticket in open_):
                        self.advance()
                for ticket, index in [*open_.items()]:
                    for record in self.poll(ticket):
                        if isinstance(record, CommitRecord) and record.finish_reason is not None:
                            self.cancel(ticket)
                            del open_[ticket]
                        yield record.of(index)
        finally:
            for ticket in open_:
                self.cancel(ticket)

    @torch.inference_mode()
    def read(
        self, ids: Sequence[int], salt: str = "", keep: bool = False, client: str = ""
    ) -> Generator[None, None, KVCache]:  # fmt: skip
        """K and V of some tokens, for whoever wants to look at them with the model (see `by_turns`); what is cached is not read again.

        keep: what is read stays in the prefix cache as a finished request's would, and its reader gets a copy.
        """
        with self._lock:
            encoded = self.slots.prefixes.open(self.model.new_cache(len(ids)), ids, salt, client=client)
        try:
            kv = encoded.kv
            while kv.length < len(ids):
                chunk = ids[kv.length : kv.length + self._room_beside_others(client)]
                self.model.encode(torch.tensor([[*chunk]], device=self.model.device), [kv])
                if kv.length < len(ids):
                    yield
            encoded.tokens, kv = [*ids], kv.copy() if keep else kv
        except BaseException:
            keep = False
            raise
        finally:
            with self._lock:
                self.slots.prefixes.close(encoded, keep)
        return kv

    def still_wanted(self) -> None:
        """Raise an error where nobody waits any more; here whoever asks also waits."""

    def do(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Call what uses the model by itself. Whoever drives this engine decides where that runs: here, kept apart from passes."""
        with self._lock:
            return fn(*arguments)

    def abandon(self) -> None:
        """After a pass that failed: forget everybody, with what was read for them. What finished requests left stays known."""
        with self._lock:
            self._told.clear()
            self._waiting.clear()
            self.decks.clear()
            self.slots.abandon()
            self.graphs = Graphs(self.model) if self.graphs else None

    def warm(self, most: int) -> None:
        """Run 1, 2 .. `most` short requests at once, so that kernels are compiled and steps captured before anybody waits for them."""
        config = DenoiseConfig(max_denoising_steps=4, stability_threshold=4, eos_token_id=None)
        for count in range(1, most + 1):
            for _ in self.run(
                [Request((0,), self.model.config.canvas_length, seed, config) for seed in range(count)]
            ):
                pass

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.slots.taken

    @property
    def clients(self) -> set[str]:
        """Whose requests are at work or wait for a slot."""
        return self._waiting.clients | {slot.client for slot in self.slots.taken}

    @torch.inference_mode()
    def advance(self) -> None:
        """One pass for everybody who has a slot; nothing where nobody has one."""
        with self._lock:
            self._let_in()
            readers = self._readers()
            for slot in self.slots.taken:
                if slot.unread == slot.reading and not slot.on_deck:
                    kind = slot.request.width(self.model.config), slot.request.ruled
                    self.decks.setdefault(kind, Deck(self.model)).join(slot)
            if self.slots.taken:
                self._pass(readers)

    def _let_in(self) -> None:
        """Give out slots. Who has more than a fair share and stands between two canvases makes room for who has less."""
        given_up = self.slots.admit(self._waiting)
        while ready := [slot for slot in given_up if slot.between_canvases]:
            for slot in ready:
                self._release(slot, keep=True)
                self._waiting.add(slot, first=True)
            given_up = self.slots.admit(self._waiting)

    def _readers(self) -> list[Slot]:
        """Whose clean tokens are in the coming pass: canvases that stood, and at most `prefill_chunk` of prompts."""
        wants: Counter[str] = Counter()
        for slot in self.slots.taken:
            wants[slot.client] += slot.unread
        limits = [min(want, self._room_beside_others(client)) for client, want in wants.items()]
        room = dict(zip(wants, divide(self.config.prefill_chunk, limits), strict=True))
        for slot in self.slots.taken:
            slot.reading = min(room[slot.client], slot.unread)
            room[slot.client] -= slot.reading
        return [slot for slot in self.slots.taken if slot.reading or slot.pending is not None]

    def _room_beside_others(self, client: str) -> int:
        """Prompt tokens that a client may bring to a pass: `prefill_chunk`, or as many rows as any other has canvases there."""
        rows: Counter[str] = Counter()
        for slot in self.slots.taken:
            if slot.on_deck and slot.client != client:
                rows[slot.client] += slot.request.width(self.model.config)
        chunk = self.config.prefill_chunk
        return min(chunk, max(BESIDE_OTHERS, *rows.values())) if rows else chunk

    def _pass(self, readers: list[Slot]) -> None:
        decks = [deck for deck in self.decks.values() if deck.slots]
        load = self._load(readers, decks)
        if self.graphs and not readers and len(decks) == 1 and not decks[0].slots[0].request.ruled:
            told = [self.graphs.step(decks[0])]
        else:
            clean = [(slot.kv, torch.tensor(slot.fresh(), device=self.model.device)) for slot in readers]
            hidden = self.model.both(clean, [deck.canvases() for deck in decks])
            self._count(readers)
            told = [deck.step(states) for deck, states in zip(decks, hidden, strict=True)]
        self.passes, self.last = self.passes + 1, load
        for deck, facts in zip(decks, told, strict=True):
            for slot, record in [*deck.tell(facts)]:
                self._told[slot.ticket].append(record)
                if isinstance(record, CommitRecord) and record.finish_reason is not None:
                    self._release(slot, keep=record.finish_reason != "error")

    def _count(self, readers: list[Slot]) -> None:
        """What the pass read is encoded, and may be shared."""
        prompts = [(slot, len(slot.held.tokens)) for slot in readers if slot.pending is None]
        for slot in readers:
            slot.has_read()
        for (
            slot,
            known,
        ) in prompts:  # a mark is new memory: whatever fails from here on, what was read is counted
            self.slots.prefixes.mark(slot.held, known)

    def _load(self, readers: list[Slot], decks: list[Deck]) -> Load:
        taking_part = {*readers, *(slot for deck in decks for slot in deck.slots)}
        widths = [slot.request.width(self.model.config) for deck in decks for slot in deck.slots]
        believing = sum(deck.believing * deck.slots[0].request.width(self.model.config) for deck in decks)
        context = sum(slot.kv.length for slot in taking_part) // max(1, len(taking_part))
        return Load(
            sum(len(slot.fresh()) for slot in readers), sum(widths), believing, context, len(taking_part)
        )

    def _release(self, slot: Slot, keep: bool) -> None:
        for deck in self.decks.values():
            deck.leave(slot)
        self.slots.release(slot, keep)


def by_turns(engine: Runner, work: Generator[None, None, T]) -> T:
    """Do what makes passes by itself, one at a time: others have theirs wherever `work` yields, and who has left is not worked for.
    -> what it returns."""

    def turn() -> list[T]:
        try:
            next(work)
        except StopIteration as end:
            return [end.value]
        return []

    while not (found := engine.do(turn)):
        pass
    return found[0]
