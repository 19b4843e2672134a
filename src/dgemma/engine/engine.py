"""Many requests, one pass at a time: prompts being read, canvases being decided and canvases being committed
share it.

    submit(request) -> ticket        checked; waits for a slot
    advance()                        one pass for everybody who has one
    poll(ticket)                     what became of a request since the last look
    cancel(ticket)                   its slot is free at once
    run(requests)                    all of that for some requests, record by record

One pass does what the plain loop (denoise.py, which this must equal token for token) does in several: a
prompt's last chunk and its first step are one, and so are a finished canvas's commit and the next canvas's
first step. Requests join and leave between passes; none waits for another's canvas to stand. Slots are given
out by memory (scheduler.py).

Clients share a pass fairly (shares.py): its room for prompts in equal parts, and beside canvases of others a
client's prompts bring no more rows than the largest of these others has there, so that a long prompt does not
slow down those who answer.

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
from .canvas_batch import CanvasBatch
from .graphs import Graphs, can_capture
from .requests import CommitRecord, Record, Request
from .runner import Runner
from .scheduler import Scheduler
from .shares import Waiting, divide
from .slot import Slot

T = TypeVar("T")
BESIDE_OTHERS = 64  # prompt rows that a client has in a pass at least, however small others' canvases are


class Load(NamedTuple):
    """What one pass carried."""

    clean: int  # prompt and commit rows
    canvas: int  # canvas rows
    conditioned: int  # of these, conditioned on a step before
    context: int  # cached tokens of a sequence, on average
    sequences: int

    @property
    def is_step(self) -> bool:
        """A step of canvases, whatever commits it carried.

        No pass that reads a prompt of more rows than they have.
        """
        return 0 < self.canvas >= self.clean


class Engine:
    """Requests over one model."""

    owner = ""  # whose requests these are, where somebody shares out turns

    def __init__(self, model: DiffusionGemma, config: EngineConfig = EngineConfig()):
        self.model = model
        self.config = config
        self.scheduler = Scheduler(model, config)
        self.batches: dict[tuple[int, bool], CanvasBatch] = {}  # by width, and whether rows need logits
        self.graphs = Graphs(model) if can_capture(model) else None
        self.passes = 0
        self.last = Load(0, 0, 0, 0, 0)
        self._waiting = Waiting()
        self._records: dict[int, list[Record]] = {}  # by ticket: records that nobody has polled yet
        self._tickets = 0
        self._lock = threading.RLock()

    def submit(self, request: Request) -> int:
        """Take a request that `check` lets through. -> its ticket."""
        self.check(request)
        with self._lock:
            ticket = self._tickets
            self._tickets += 1
            self._records[ticket] = []
            self._waiting.add(Slot(ticket, request, request.max_tokens))
        return ticket

    def check(self, request: Request) -> None:
        """Raise UsageError where a request does not fit the model, ResourceError where it would never fit
        memory.
        """
        request.check(self.model.config, self.config.max_prompt_tokens)
        self.scheduler.check(request)

    def cancel(self, ticket: int) -> None:
        """Forget a request, whatever it is doing; it has no more records."""
        with self._lock:
            self._records.pop(ticket, None)
            for slot in [slot for slot in self._waiting if slot.ticket == ticket]:
                self._waiting.remove(slot)
            for slot in [slot for slot in self.scheduler.taken if slot.ticket == ticket]:
                self._release(slot, keep=True)

    def poll(self, ticket: int) -> list[Record]:
        """The records of a request since the last poll, without a pass for them."""
        with self._lock:
            records = self._records.get(ticket, [])
            if ticket in self._records:
                self._records[ticket] = []
            return records

    def run(self, requests: Sequence[Request]) -> Generator[Record, None, None]:
        """Run requests together to their ends; records carry a request's index.

        Leaving early cancels them.
        """
        open_ = {}
        try:
            for index, request in enumerate(requests):
                open_[self.submit(request)] = index
            while open_:
                with self._lock:
                    if not any(self._records[ticket] for ticket in open_):
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
        self, ids: Sequence[int], cache_salt: str = "", keep: bool = False, client: str = ""
    ) -> Generator[None, None, KVCache]:
        """K and V of some tokens, for whoever looks at them with the model (see `by_turns`).

        What is cached is not read again.

        keep: what is read stays in the prefix cache as a finished request's would, and its reader gets a
        copy.
        """
        with self._lock:
            encoded = self.scheduler.prefixes.open(
                self.model.new_cache(len(ids)), ids, cache_salt, client=client
            )
        try:
            kv = encoded.kv
            while kv.length < len(ids):
                chunk = ids[kv.length : kv.length + self._rows_beside_others(client)]
                self.model.encode(torch.tensor([[*chunk]], device=self.model.device), [kv])
                if kv.length < len(ids):
                    yield
            encoded.tokens = [*ids]
            if keep:
                kv = kv.copy()
        except BaseException:
            keep = False
            raise
        finally:
            with self._lock:
                self.scheduler.prefixes.close(encoded, keep)
        return kv

    def still_wanted(self) -> None:
        """Raise an error where nobody waits any more; here whoever asks also waits."""

    def do(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Call what uses the model by itself, kept apart from passes.

        Whoever drives an engine decides where that runs: here, at once.
        """
        with self._lock:
            return fn(*arguments)

    def abandon(self) -> None:
        """After a pass that failed: forget everybody, with what was read for them.

        What finished requests left stays known.
        """
        with self._lock:
            self._records.clear()
            self._waiting.clear()
            self.batches.clear()
            self.scheduler.abandon()
            self.graphs = Graphs(self.model) if self.graphs else None

    def warm(self, most: int) -> None:
        """Run 1, 2 ..

        `most` short requests at once: kernels are compiled and steps captured before anybody waits for them.
        """
        config = DenoiseConfig(max_denoising_steps=4, stability_threshold=4, eos_token_id=None)
        width = self.model.config.canvas_length
        for count in range(1, most + 1):
            for _ in self.run([Request((0,), width, seed, config) for seed in range(count)]):
                pass

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.scheduler.taken

    @property
    def clients(self) -> set[str]:
        """Whose requests are at work or wait for a slot."""
        return self._waiting.clients | {slot.client for slot in self.scheduler.taken}

    @torch.inference_mode()
    def advance(self) -> None:
        """One pass for everybody who has a slot; nothing where nobody has one."""
        with self._lock:
            self._let_in()
            readers = self._readers()
            for slot in self.scheduler.taken:
                if slot.unread == slot.reading and not slot.in_batch:
                    kind = slot.request.width(self.model.config), slot.request.needs_logits
                    self.batches.setdefault(kind, CanvasBatch(self.model)).join(slot)
            if self.scheduler.taken:
                self._pass(readers)

    def _let_in(self) -> None:
        """Give out slots.

        Who has more than a fair share and stands between two canvases makes room for who has less.
        """
        given_up = self.scheduler.admit(self._waiting)
        while ready := [slot for slot in given_up if slot.between_canvases]:
            for slot in ready:
                self._release(slot, keep=True)
                self._waiting.add(slot, first=True)
            given_up = self.scheduler.admit(self._waiting)

    def _readers(self) -> list[Slot]:
        """Whose clean tokens are in the coming pass: canvases that stood, and at most `prefill_chunk` of
        prompts.
        """
        wants: Counter[str] = Counter()
        for slot in self.scheduler.taken:
            wants[slot.client] += slot.unread
        limits = [min(want, self._rows_beside_others(client)) for client, want in wants.items()]
        shares = dict(zip(wants, divide(self.config.prefill_chunk, limits), strict=True))
        for slot in self.scheduler.taken:
            slot.reading = min(shares[slot.client], slot.unread)
            shares[slot.client] -= slot.reading
        return [slot for slot in self.scheduler.taken if slot.reading or slot.pending is not None]

    def _rows_beside_others(self, client: str) -> int:
        """Prompt tokens that a client may bring to a pass: `prefill_chunk`, or as many rows as any other has
        canvases there.
        """
        rows: Counter[str] = Counter()
        for slot in self.scheduler.taken:
            if slot.in_batch and slot.client != client:
                rows[slot.client] += slot.request.width(self.model.config)
        if not rows:
            return self.config.prefill_chunk
        return min(self.config.prefill_chunk, max(BESIDE_OTHERS, *rows.values()))

    def _pass(self, readers: list[Slot]) -> None:
        batches = [batch for batch in self.batches.values() if batch.slots]
        load = self._load(readers, batches)
        alone = None
        if len(batches) == 1 and not readers:
            alone = batches[0]
        if self.graphs and alone is not None and not alone.slots[0].request.needs_logits:
            outputs = [self.graphs.step(alone)]
        else:
            clean = [(slot.kv, torch.tensor(slot.fresh(), device=self.model.device)) for slot in readers]
            hidden = self.model.both(clean, [batch.canvases() for batch in batches])
            self._count(readers)
            outputs = [batch.step(states) for batch, states in zip(batches, hidden, strict=True)]
        self.passes += 1
        self.last = load
        for batch, output in zip(batches, outputs, strict=True):
            for slot, record in [*batch.records(output)]:
                self._records[slot.ticket].append(record)
                if isinstance(record, CommitRecord) and record.finish_reason is not None:
                    self._release(slot, keep=record.finish_reason != "error")

    def _count(self, readers: list[Slot]) -> None:
        """What the pass read is encoded, and may be shared."""
        prompts = [(slot, len(slot.held.tokens)) for slot in readers if slot.pending is None]
        for slot in readers:
            slot.has_read()
        # a resume point is new memory: whatever fails from here on, what was read is counted
        for slot, known in prompts:
            self.scheduler.prefixes.add_resume_point(slot.held, known)

    def _load(self, readers: list[Slot], batches: list[CanvasBatch]) -> Load:
        rows = [(batch, batch.slots[0].request.width(self.model.config)) for batch in batches]
        taking_part = {*readers, *(slot for batch in batches for slot in batch.slots)}
        return Load(
            clean=sum(len(slot.fresh()) for slot in readers),
            canvas=sum(width * len(batch.slots) for batch, width in rows),
            conditioned=sum(width * batch.conditioned for batch, width in rows),
            context=sum(slot.kv.length for slot in taking_part) // max(1, len(taking_part)),
            sequences=len(taking_part),
        )

    def _release(self, slot: Slot, keep: bool) -> None:
        for batch in self.batches.values():
            batch.leave(slot)
        self.scheduler.release(slot, keep)


def by_turns(engine: Runner, work: Generator[None, None, T]) -> T:
    """Do what makes passes by itself, one at a time: others have theirs wherever `work` yields.

    -> what it returns.

    Nobody works for a client who has left.
    """

    def turn() -> list[T]:
        try:
            next(work)
        except StopIteration as end:
            return [end.value]
        return []

    while not (returned := engine.do(turn)):
        pass
    return returned[0]
