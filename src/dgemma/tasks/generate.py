"""Continue a prompt given as ids, as a stream of events. chat.py and the completion of plain text both end here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from ..engine.engine import Engine
from ..engine.requests import CommitRecord, Request, Result, StepRecord
from ..errors import NumericsError, UsageError
from ..text.tokenizer import Tokenizer
from .events import Committed, Draft, Generation, TokenLogProbs
from .voices import Voices

Event = Draft | Committed | Generation
EMPTY_ONCE = "the first answer was empty; this one was drawn with the next seed"
EMPTY_TWICE = "the answer is empty, with the next seed too; try another one"


def stream(
    engine: Engine, tokenizer: Tokenizer, request: Request, default_length: bool = False, *,
    stops: Sequence[str] = (), channels: bool = False, may_be_empty: bool = False,
) -> Iterator[Event]:  # fmt: skip
    """Run one request: a Draft per step, a Committed per canvas, and the Generation last.

    stops: the answer ends before the first of these that its content holds, and its request with it; channels: the content is told
    from thoughts. An answer without text is drawn once more with the next seed (not where it `may_be_empty`); its canvases are not
    told, a note says so. `default_length` marks a max_tokens that nobody asked for: the result says when it cut the answer.
    Raises UsageError for a request that does not fit or cannot be answered in the form it asks for, NumericsError (and no text)
    when the logits are not finite.
    """
    clock, notes = Stopwatch(), []
    for attempt in range(2):
        request = again(request) if attempt else request
        voices, result, text, silent = Voices(tokenizer, stops, channels), Result(), "", []
        with closing(engine.run([request])) as records:  # whoever stops pulling cancels the request
            for record in records:
                if isinstance(record, StepRecord):
                    clock.drafted()
                    yield draft(record, tokenizer, request)
                    continue
                refuse_broken(record)
                result.add(record)
                before, parts = voices.taken, voices.feed(record.token_ids)
                if record.finish_reason is not None and voices.stop is None:
                    parts += voices.finish()
                piece = "".join(part for _, part in parts)
                text += piece
                silent.append(Committed(record.canvas, piece, record.token_ids[: voices.taken - before], record.steps, parts))
                if text.strip() or voices.calls:
                    yield from silent
                    silent = []
                if voices.stop is not None:
                    break
        if text.strip() or voices.calls or may_be_empty:
            break
        notes = [EMPTY_TWICE if attempt else EMPTY_ONCE]
    yield from silent
    _cut(result, voices)
    if default_length and result.finish_reason == "length":
        notes.append(f"cut at {request.max_tokens} tokens, the checkpoint's default; raise max_tokens for more")
    logprobs = told_logprobs(result, tokenizer) if request.rules.logprobs else None
    yield dataclasses.replace(summary(text, result, request, clock, notes), stop=voices.stop, logprobs=logprobs)


def _cut(result: Result, voices: Voices) -> None:
    """What a stop string ended has the tokens up to it."""
    if voices.stop is not None:
        result.finish_reason = "stop"
    del result.token_ids[voices.taken :], result.logprobs[voices.taken :]


def told_logprobs(result: Result, tokenizer: Tokenizer) -> list[TokenLogProbs]:
    """The log-probabilities of a result with their tokens' texts."""

    def text(token: int) -> str:
        return tokenizer.token_bytes(token).decode("utf-8", "replace")

    return [
        TokenLogProbs(token, text(token), one.log_prob, [(i, text(i), x) for i, x in zip(one.top_ids, one.top_log_probs, strict=True)])
        for token, one in zip(result.token_ids, result.logprobs, strict=True)
    ]


def again(request: Request) -> Request:
    """The same request with the next seed."""
    return dataclasses.replace(request, seed=(request.seed + 1) % 2**63)


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
    if record.fault is not None:
        raise UsageError(record.fault)
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
