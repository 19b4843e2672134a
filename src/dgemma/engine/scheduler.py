"""The scheduler: who gets a slot, a request's place on the device with its own K and V, by memory.

A request that fits beside the others is let in; one that would never fit is refused with the number of
tokens that would. What a request needs is the planner's arithmetic (memory/plan.py), so `doctor` and the
engine cannot disagree. A slot that is given back leaves what it read to the prefix cache.

Among clients the one that holds least goes first, each client's requests in the order of arrival. What a
client holds is the larger of its parts of the slots and of the memory. Where all is taken, a client that
holds more than who waits would hold gives its newest slots back as their canvases end: what such a request
has said stays said, and it goes on from there later. Trap: it then reads its prompt and its answer again,
as far as the prefix cache has forgotten them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch

from ..config import EngineConfig
from ..config.sizes import disk_size
from ..errors import ResourceError
from ..memory.plan import estimate_memory, free_on
from ..model.build import trim_memory
from ..model.dgemma import DiffusionGemma
from .prefixes import LEAST, Prefixes, common
from .requests import Request
from .shares import Waiting
from .slot import Slot

UNFUSED = 16  # bytes for each logit that is needed: itself, a copy, what is sorted, its probability (float32)
SHARE_OF_FREE = 0.9  # of a device's free memory, where no budget is set: allocators need some slack
# times that others may be let in before a request that is next and does not fit; then they wait for it
OVERTAKEN = 32
GIVEN_BACK = 1 << 28  # bytes of requests that have left, after which the heap returns what it kept of them
# requests of any size, after which it does so as well: their pieces add up in the gaps between what stays
GONE = 64
GONE_IDLE = 8  # the same where nobody is at work


class Scheduler:
    """Who is in, and whether there is room for more."""

    def __init__(self, model: DiffusionGemma, config: EngineConfig):
        self.model = model
        self.config = config
        self.taken: list[Slot] = []
        self.budget = config.memory if config.memory is not None else _free(model.device)
        # whether others take from this memory after it was counted
        self.shared = config.memory is None and model.device.type == "cpu"
        self.given_back = 0
        self.gone = 0
        share = config.prefix_cache
        if share is None:
            share = self.budget // 8
        self.prefixes = Prefixes(share)

    def need(self, request: Request, prompt_tokens: int | None = None) -> int:
        """Bytes of K, V and work buffers of a request (with a prompt of another length)."""
        width = request.width(self.model.config)
        prompt = len(request.prompt_ids)
        if prompt_tokens is not None:
            prompt = prompt_tokens
        canvases = -(-request.max_tokens // width)
        plan = estimate_memory(
            self.model.config,
            self.model.dtype,
            prompt + canvases * width,
            canvas=width,
            prefill_chunk=min(self.config.prefill_chunk, prompt),
            device=self.model.device.type,
        )
        need = plan.kv + plan.work
        if request.needs_logits:
            need += UNFUSED * width * self.model.config.vocab_size
        return need

    def check(self, request: Request) -> None:
        """Raise ResourceError for a request that would not fit even alone."""
        if self.need(request) <= self.budget:
            return
        advice = "no prompt fits beside so many new tokens"
        if fits := self._longest_prompt(request):
            advice = f"at most {fits} prompt tokens fit"
        raise ResourceError(
            f"a prompt of {len(request.prompt_ids)} tokens and {request.max_tokens} new ones need "
            f"{disk_size(self.need(request))} of {disk_size(self.budget)} free; {advice}"
        )

    def _longest_prompt(self, request: Request) -> int:
        """Prompt tokens that would fit in this request's place; 0: none."""
        fits = 0
        refused = len(request.prompt_ids)
        while refused - fits > 1:
            middle = (fits + refused) // 2
            if self.need(request, middle) <= self.budget:
                fits = middle
            else:
                refused = middle
        return fits

    def admit(self, waiting: Waiting) -> list[Slot]:
        """Let in who fits, whose client holds least first; cached prefixes give way.

        -> slots to be given back for who is next.
        """
        while True:
            line = self._in_turn(waiting)
            place = next((place for place, slot in enumerate(line) if self._fits(slot)), len(line))
            before = line[:place]
            for slot in before:
                if given_up := self._given_up_for(slot):
                    return given_up
                if slot.overtaken >= OVERTAKEN:
                    return []
            if place == len(line):
                return []
            fitting = line[place]
            for slot in before:
                slot.overtaken += 1
            waiting.remove(fitting)
            self.prefixes.shrink(self.spare - fitting.memory)
            self._open(fitting)

    def _in_turn(self, waiting: Waiting) -> list[Slot]:
        """Who may be let in: the first of each client, whose client holds least first.

        Who waits for a prompt that is being read is left out.
        """
        heads = waiting.heads
        if len(heads) > 1:
            held = self._shares(self.taken)
            heads.sort(key=lambda slot: (held.get(slot.client, 0.0), slot.ticket))
        for slot in heads:
            slot.memory = slot.memory or self.need(slot.request)
        return [slot for slot in heads if not self._waits_for_another(slot)]

    def _fits(self, slot: Slot) -> bool:
        if not self._fits_beside(slot, self.taken):
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
        """The newest slots of clients that would still hold no less than this one's without them.

        They are enough for it to fit, or none.
        """
        stay = [*self.taken]
        given_up: list[Slot] = []
        while not self._fits_beside(slot, stay):
            held = self._shares(stay)
            richest = max(held, key=held.__getitem__, default=slot.client)
            theirs = [other for other in stay if other.client == richest]
            if richest == slot.client or not theirs:
                return []
            newest = max(theirs, key=lambda other: other.ticket)
            stay.remove(newest)
            given_up.append(newest)
            if self._shares(stay).get(richest, 0.0) < self._shares([*stay, slot])[slot.client]:
                return []
        return given_up

    def _fits_beside(self, slot: Slot, others: list[Slot]) -> bool:
        free = self.budget - sum(other.memory for other in others)
        return len(others) < self.config.max_slots and slot.memory <= free

    @property
    def spare(self) -> int:
        """Bytes that requests leave to cached prefixes."""
        return self.budget - sum(slot.memory for slot in self.taken)

    def _waits_for_another(self, waiting: Slot) -> bool:
        """Whether more of this prompt is being read for another slot than is known: then it is copied."""
        if not self.prefixes.limit:
            return False
        ids = waiting.text
        cache_salt = waiting.request.cache_salt
        least = max(self.prefixes.known(ids, cache_salt) + LEAST, len(ids) // 2)
        being_read = [slot for slot in self.taken if slot.unread and slot.request.cache_salt == cache_salt]
        return any(common(slot.text, ids) >= least for slot in being_read)

    def _open(self, slot: Slot) -> None:
        request = slot.request
        width = request.width(self.model.config)
        kv = self.model.new_cache(len(request.prompt_ids) + -(-request.max_tokens // width) * width)
        slot.encoded = self.prefixes.open(
            kv, slot.text, request.cache_salt, request.resume_points, request.client
        )
        self.taken.append(slot)

    def release(self, slot: Slot, keep: bool) -> None:
        """Give a slot back; what it read may stay in the prefix cache."""
        self.taken.remove(slot)
        self.prefixes.available = self.spare
        self.prefixes.close(slot.close(), keep)
        self.given_back += slot.memory
        self.gone += 1
        # a busy service has no idle moment to wait for
        most = GONE_IDLE
        if self.taken:
            most = GONE
        if self.given_back > GIVEN_BACK or self.gone >= most:
            self.given_back = 0
            self.gone = 0
            trim_memory()

    def abandon(self) -> None:
        """Give all slots back and keep nothing of what was read in them."""
        self.taken.clear()
        self.prefixes.live.clear()


def _free(device: torch.device) -> int:
    """Bytes that requests may take of a device.

    A memory that tells nothing about itself is taken to be large enough.
    """
    return int(SHARE_OF_FREE * free_on(device.type, device.index)) or 2**62
