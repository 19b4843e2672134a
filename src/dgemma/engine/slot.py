"""One request at work: what was read of it, what the coming pass reads, how far its answer is.

Knows its own request and K and V, and nothing of the others; who is let in is decided in scheduler.py. Trap:
a request may go on in another slot later, so what must outlive a slot leaves it through `close`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..model.kv import KVCache
from .logits_processor import LogitsProcessor, logits_processor_of
from .prefixes import Encoded
from .requests import Request


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
    in_batch: bool = False  # its canvas is being decided
    overtaken: int = 0  # how often another client's request was let in before this one, which did not fit
    # what is read before the canvas: the prompt, and an answer that goes on in a new slot
    text: Sequence[int] = field(init=False)
    processor: LogitsProcessor | None = field(init=False)  # its rules at work

    def __post_init__(self) -> None:
        self.text = self.request.prompt_ids
        self.processor = logits_processor_of(self.request)

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
        return self.pending is not None or not self.in_batch

    def fresh(self) -> list[int]:
        """The clean tokens that the coming pass reads: a canvas that stood, or a chunk of the prompt."""
        if self.pending is not None:
            return self.pending
        done = len(self.held.tokens)
        return list(self.text[done : done + self.reading])

    def has_read(self) -> None:
        """After a pass: what it read is encoded."""
        self.held.tokens += self.fresh()
        self.reading = 0
        self.pending = None

    def commit(self, canvas: list[int]) -> None:
        """A canvas stood, all of its tokens join the answer, and the next one begins."""
        self.pending = canvas
        self.canvas += 1
        self.left -= len(canvas)

    def close(self) -> Encoded:
        """Between two canvases: make ready to go on in another slot. -> what was read."""
        encoded = self.held
        if self.pending is not None:
            self.text = [*encoded.tokens, *self.pending]
        self.encoded = None
        self.pending = None
        self.reading = 0
        return encoded
