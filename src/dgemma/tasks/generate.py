"""Continue a prompt given as ids, as a stream of events. chat.py and the completion of plain text both end here."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..config import EngineConfig
from ..engine.denoise import run
from ..engine.requests import CommitRecord, Request, Result, StepRecord
from ..errors import NumericsError
from ..model.dgemma import DiffusionGemma
from ..text.stream import StreamDecoder
from ..text.tokenizer import Tokenizer
from .events import Committed, Draft, Generation

Event = Draft | Committed | Generation


def stream(
    net: DiffusionGemma, tokenizer: Tokenizer, request: Request, engine: EngineConfig, default_length: bool = False
) -> Iterator[Event]:
    """Run one request: a Draft per step, a Committed per canvas, and the Generation last.

    `default_length` marks a max_tokens that nobody asked for: the result says when it cut the answer.
    Raises UsageError for a request that does not fit, NumericsError (and no text) when the logits are not finite.
    """
    clock = Stopwatch()
    decoder, result, text = StreamDecoder(tokenizer), Result(), []
    for record in run(net, [request], engine):
        if isinstance(record, StepRecord):
            clock.drafted()
            yield draft(record, tokenizer, request)
            continue
        refuse_broken(record)
        result.add(record)
        last = record.finish_reason is not None
        text.append(decoder.feed(record.token_ids) + (decoder.flush() if last else ""))
        yield Committed(record.canvas, text[-1], record.token_ids, record.steps)
    notes = []
    if default_length and result.finish_reason == "length":
        notes.append(f"cut at {request.max_tokens} tokens, the checkpoint's default; raise max_tokens for more")
    yield summary("".join(text), result, request, clock, notes)


class Stopwatch:
    """Seconds since the request came in, and until its first draft stood on the screen."""

    def __init__(self) -> None:
        self.start, self.first = time.perf_counter(), None

    def drafted(self) -> None:
        self.first = self.first if self.first is not None else self.seconds()

    def seconds(self) -> float:
        return time.perf_counter() - self.start


def draft(record: StepRecord, tokenizer: Tokenizer, request: Request) -> Draft:
    pins = request.pins if record.canvas == 0 else None
    pinned = [pin >= 0 for pin in pins] if pins else [False] * len(record.argmax)
    pieces = [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in record.argmax]
    return Draft(record.canvas, record.step, pieces, record.accepted, pinned, record.entropy, record.argmax, record.request)


def refuse_broken(record: CommitRecord) -> None:
    if record.finish_reason == "error":
        raise NumericsError(
            "the model's logits are not finite, so no text was made; check the checkpoint with `dgemma doctor`, "
            "or try another dtype"
        )


def summary(text: str, result: Result, request: Request, clock: Stopwatch, notes: list[str]) -> Generation:
    return Generation(
        text=text, token_ids=result.token_ids, steps=result.steps, finish_reason=result.finish_reason,
        prompt_tokens=len(request.prompt_ids), seed=request.seed, seconds=clock.seconds(),
        first_draft_seconds=clock.first or 0.0, notes=notes,
    )  # fmt: skip
