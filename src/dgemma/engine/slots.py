"""Slots: a request's place on the device, its own K and V included, given out by memory.

A request that fits beside the others is let in; one that would never fit is refused with the number of tokens that
would. What a request needs is the planner's arithmetic (weights/plan.py), so `doctor` and the engine cannot disagree. A
slot that is given back leaves what it read to the prefix cache.

Among clients the one that holds least goes first, each client's requests in the order of arrival. What a client holds is the
larger of its parts of the slots and of the memory. Where all is taken, a client that holds more than who waits would hold gives
its newest slots back as their canvases end: what such a request has said stays said, and it goes on from there later.
Trap: it then reads its prompt and its answer again, as far as the prefix cache has forgotten them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from ..config import EngineConfig
from ..config.sizes import disk_size
from ..errors import ResourceError
from ..model.build import trim_memory
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from ..weights.plan import fit, free_on
from .prefixes import LEAST, Encoded, Prefixes, common
from .requests import Request
from .rules import Ruler, ruler_of
from .shares import Waiting

UNFUSED = (
    16  # bytes for each logit of a canvas with rules: logits, a copy, what is sorted, probabilities (float32)
)
SHARE_OF_FREE = 0.9  # of a device's free memory, where no budget is set: allocators need some slack
OVERTAKEN = 32  # times that others may be let in before a request that is next and does not fit; then they wait for it
GIVEN_BACK = (
    1 << 28
)  # bytes of requests that have left, after which an idle process returns what its heap kept of them


@dataclass(eq=False)
class Slot:
    """One request at work."""

    ticket: int
    request: Request
    left: int  # tokens that its answer may still grow by
    encoded: Encoded | None = None  # what was read of its prompt and its canvases
    reading: int = 0  # prompt tokens in the coming pass
    pending: list[int] | None = None  # a canvas that stood, to be encoded by the coming pass
    canvas: int = 0  # number of the canvas that is being decided
    memory: int = 0  # bytes it is let in with
    on_deck: bool = False  # its canvas is being decided
    overtaken: int = 0  # how often another client's request was let in before this one, which did not fit
    text: Sequence[int] = field(
        init=False
    )  # what is read before the canvas: the prompt, and an answer that goes on in a new slot
    ruler: Ruler | None = field(init=False)  # its rules at work

    def __post_init__(self) -> None:
        self.text = self.request.prompt_ids
        self.ruler = ruler_of(self.request)

    @property
    def client(self) -> str:
        return self.request.client

    @property
    def held(self) -> Encoded:
        """What was read, of a slot that is in."""
        if self.encoded is None:
            raise RuntimeError("a slot that is not in holds nothing")
        return self.encoded

    @property
    def kv(self) -> KVCache:
        return self.held.kv

    @property
    def unread(self) -> int:
        return max(0, len(self.text) - len(self.held.tokens))

    @property
    def between_canvases(self) -> bool:
        """Whether nothing is lost but time where it is given back now."""
        return self.pending is not None or not self.on_deck

    def fresh(self) -> list[int]:
        """The clean tokens that the coming pass reads: a canvas that stood, or a chunk of the prompt."""
        if self.pending is not None:
            return self.pending
        done = len(self.held.tokens)
        return list(self.text[done : done + self.reading])

    def has_read(self) -> None:
        """After a pass: what it read is encoded."""
        self.held.tokens += self.fresh()
        self.reading, self.pending = 0, None

    def commit(self, canvas: list[int]) -> None:
        """A canvas stood, all of its tokens join the answer, and the next one begins."""
        self.pending, self.canvas, self.left = canvas, self.canvas + 1, self.left - len(canvas)

    def close(self) -> Encoded:
        """Between two canvases: make ready to go on in another slot. -> what was read."""
        encoded = self.held
        if self.pending is not None:
            self.text = [*encoded.tokens, *self.pending]
        self.encoded, self.pending, self.reading = None, None, 0
        return encoded


class Slots:
    """Who is in, and whether there is room for more."""

    def __init__(self, model: DiffusionGemma, config: EngineConfig):
        self.model, self.config = model, config
        self.taken: list[Slot] = []
        self.budget = config.memory if config.memory is not None else _free(model.device)
        self.shared = (
            config.memory is None and model.device.type == "cpu"
        )  # others take from this memory after it was counted
        self.given_back = 0
        share = self.budget // 8 if config.prefix_cache is None else config.prefix_cache
        self.prefixes = Prefixes(share)

    def need(self, request: Request, prompt_tokens: int | None = None) -> int:
        """Bytes of K, V and work buffers of a request (with a prompt of another length)."""
        width = request.width(self.model.config)
        prompt = len(request.prompt_ids) if prompt_tokens is None else prompt_tokens
        plan = fit(
            self.model.config, self.model.dtype, prompt + -(-request.max_tokens // width) * width, canvas=width,
            prefill_chunk=min(self.config.prefill_chunk, prompt), device=self.model.device.type,
        )  # fmt: skip
        unfused = UNFUSED * width * self.model.config.vocab_size if request.ruled else 0
        return plan.kv + plan.work + unfused

    def check(self, request: Request) -> None:
        """Raise ResourceError for a request that would not fit even alone."""
        if self.need(request) <= self.budget:
            return
        fits, refused = 0, len(request.prompt_ids)
        while refused - fits > 1:
            middle = (fits + refused) // 2
            fits, refused = (middle, refused) if self.need(request, middle) <= self.budget else (fits, middle)
        raise ResourceError(
            f"a prompt of {len(request.prompt_ids)} tokens and {request.max_tokens} new ones need "
            f"{disk_size(self.need(request))} of {disk_size(self.budget)} free; "
            + (f"at most {fits} prompt tokens fit" if fits else "no prompt fits beside so many new tokens")
        )

    def admit(self, waiting: Waiting) -> list[Slot]:
        """Let in who fits, whose client holds least first; cached prefixes make room. -> slots to be given back for who is next."""
        while True:
            line = self._in_turn(waiting)
            fitting = next((slot for slot in line if self._fits(slot)), None)
            before = line if fitting is None else line[: line.index(fitting)]
            for slot in before:
                if given_up := self._given_up_for(slot):
                    return given_up
                if slot.overtaken >= OVERTAKEN:
                    return []
            if fitting is None:
                return []
            for slot in before:
                slot.overtaken += 1
            waiting.remove(fitting)
            self.prefixes.shrink(self.spare - fitting.memory)
            self._open(fitting)

    def _in_turn(self, waiting: Waiting) -> list[Slot]:
        """Who may be let in, the first of each client that does not wait for a prompt being read; whose client holds least first."""
        heads = waiting.heads
        if len(heads) > 1:
            held = self._shares(self.taken)
            heads.sort(key=lambda slot: (held.get(slot.client, 0.0), slot.ticket))
        for slot in heads:
            slot.memory = slot.memory or self.need(slot.request)
        return [slot for slot in heads if not self._waits_for_another(slot)]

    def _fits(self, slot: Slot) -> bool:
        if len(self.taken) >= self.config.max_slots or slot.memory > self.spare:
            return False
        return not (self.taken and self.shared and slot.memory > _free(self.model.device))

    def _shares(self, slots: Iterable[Slot]) -> dict[str, float]:
        """By client: the larger of its parts of all slots and of all memory."""
        counts: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        for slot in slots:
            counts[slot.client] += 1
            memory[slot.client] += slot.memory
        return {
            name: max(counts[name] / self.config.max_slots, memory[name] / self.budget) for name in counts
        }

    def _given_up_for(self, slot: Slot) -> list[Slot]:
        """The newest slots of clients that would still hold no less than this one's without them; enough for it to fit, or none."""
        stay, given_up = [*self.taken], []
        while len(stay) >= self.config.max_slots or slot.memory > self.budget - sum(
            other.memory for other in stay
        ):
            held = self._shares(stay)
            richest = max(held, key=held.__getitem__, default=slot.client)
            newest = max(
                (other for other in stay if other.client == richest),
                key=lambda other: other.ticket,
                default=None,
            )
            if richest == slot.client or newest is None:
                return []
            stay.remove(newest)
            given_up.append(newest)
            if self._shares(stay).get(richest, 0.0) < self._shares([*stay, slot])[slot.client]:
                return []
        return given_up

    @property
    def spare(self) -> int:
        """Bytes that requests leave to cached prefixes."""
        return self.budget - sum(slot.memory for slot in self.taken)

    def _waits_for_another(self, waiting: Slot) -> bool:
        """Whether more of this prompt is being read for another slot than is known: once read, it is copied."""
        if not self.prefixes.limit:
            return False
        ids, salt = waiting.text, waiting.request.salt
        known = self.prefixes.known(ids, salt)
        coming = [slot for slot in self.taken if slot.unread and slot.request.salt == salt]
        return any(common(slot.text, ids) >= max(known + LEAST, len(ids) // 2) for slot in coming)

    def _open(self, slot: Slot) -> None:
        request = slot.request
        width = request.width(self.model.config)
        kv = self.model.new_cache(len(request.prompt_ids) + -(-request.max_tokens // width) * width)
        slot.encoded = self.prefixes.open(kv, slot.text, request.salt, request.marks, request.client)
        self.taken.append(slot)

    def release(self, slot: Slot, keep: bool) -> None:
        """Give a slot back; what it read may stay in the prefix cache."""
        self.taken.remove(slot)
        self.prefixes.room = self.spare
        self.prefixes.close(slot.close(), keep)
        self.given_back += slot.memory
        if not self.taken and self.given_back > GIVEN_BACK:
            self.given_back = 0
            trim_memory()

    def abandon(self) -> None:
        """Give all slots back and keep nothing of what was read in them."""
        self.taken.clear()
        self.prefixes.live.clear()


def _free(device: torch.device) -> int:
    """Bytes that requests may take of a device; a memory that tells nothing about itself is taken to be large enough."""
    return int(SHARE_OF_FREE * free_on(device.type, device.index)) or 2**62
