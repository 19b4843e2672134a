"""Continue a prompt given as ids, as a stream of events. chat.py and the completion of plain text both end here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

from ..engine import autoregressive
from ..engine.requests import CommitRecord, LogProbs, Request, Result, StepRecord
from ..engine.runner import Runner
from ..errors import DgemmaError, NumericsError, UsageError
from ..text.tokenizer import Tokenizer
from .events import Committed, Draft, Generation, TokenLogProbs
from .terms import Terms
from .voices import Voices

Event = Draft | Committed | Generation
MOST_ATTEMPTS = 3  # at an answer whose tool calls cannot be read
RESETTLED = "tool calls that could not be read, and were settled again"
EMPTY_ONCE = "the first answer was empty; this one was drawn with the next seed"
EMPTY_TWICE = "the answer is empty, with the next seed too; try another one"


def stream(
    engine: Runner, tokenizer: Tokenizer, request: Request, default_length: bool = False, terms: Terms = Terms(), channels: bool = False,
    goes_on: bool = False, notes: Sequence[str] = (), token_by_token: bool = False,
) -> Iterator[Event]:  # fmt: skip
    """Run one request: a Draft per step, a Committed per canvas, and the Generation last.

    terms: the answer ends before the first stop string of these that its content holds, or behind its only call, and its request with it;
    channels: the content is told from thoughts. An answer in which the model said nothing is drawn once more with the next seed; its
    canvases are not told, a note says so. That is not done where a form says what the answer is, where it `goes_on` from a message, nor
    where a stop string left nothing of it. notes: what the result says beside its own. `default_length` marks a max_tokens that nobody
    asked for: the result says when it cut the answer. token_by_token: the causal pass writes it, without canvases and drafts.
    Raises UsageError for a request that does not fit or cannot be answered in the form it asks for, NumericsError (and no text)
    when the logits are not finite.
    """
    clock, redrawn, asked = Stopwatch(), [], request
    for attempt in range(2):
        asked = again(asked) if attempt else asked
        voices, result, text, silent = (
            Voices(tokenizer, terms.stop, channels, channels, terms.one_call),
            Result(),
            "",
            [],
        )
        for event in _settled(engine, tokenizer, asked, voices, result, clock, token_by_token):
            if isinstance(event, Draft):
                yield event
                continue
            text += event.text
            silent.append(event)
            if text.strip() or voices.spoke:
                yield from silent
                silent = []
        if text.strip() or voices.spoke or voices.stop is not None or terms.form or goes_on:
            break
        redrawn = [EMPTY_TWICE if attempt else EMPTY_ONCE]
    yield from silent
    told = [*notes, *terms.notes, *redrawn]
    if voices.resettled:
        told.append(f"{RESETTLED}: {voices.resettled}")
    if default_length and result.finish_reason == "length":
        told.append(f"cut at {request.max_tokens} tokens, the default length; raise max_tokens for more")
    logprobs = (
        told_logprobs(result, tokenizer, range(len(result.token_ids)), voices)
        if request.rules.logprobs
        else None
    )
    generation = summary(text, result, asked, clock, told)
    yield dataclasses.replace(generation, stop=voices.stop, logprobs=logprobs, autoregressive=token_by_token)


def _settled(
    engine: Runner, tokenizer: Tokenizer, request: Request, voices: Voices, result: Result, clock: Stopwatch,
    token_by_token: bool,
) -> Iterator[Draft | Committed]:  # fmt: skip
    """One request to its end. A tool call that cannot be read is settled anew from its opening on, with the next seeds, at most twice."""
    first = request
    lead: list[int] = []
    for attempt in range(MOST_ATTEMPTS):
        yield from _run(engine, tokenizer, request, voices, result, clock, lead, token_by_token)
        if voices.broken is None:
            break
        kept = result.token_ids[: voices.broken + 1]
        lead = kept[-1:]  # whoever splits the committed ids sees the call opened anew
        request = dataclasses.replace(
            again(request),
            prompt_ids=(*first.prompt_ids, *kept),
            max_tokens=first.max_tokens - len(kept),
            canvas_ids=(),
            pins=None,
        )
        last = attempt == MOST_ATTEMPTS - 1 or not _fits(engine, request)
        voices.again(last)
        if last:  # told as it is
            rest, known = result.token_ids[voices.taken :], len(voices.calls)
            parts = voices.feed(rest) + voices.finish()
            logprobs = told_logprobs(result, tokenizer, voices.told(), voices)
            text = "".join(text for _, text in parts)
            yield Committed(
                len(result.steps) - 1, text, lead + rest, 0, parts, voices.calls[known:], logprobs
            )
            break
        voices.resettled += 1
        result.token_ids, result.logprobs = kept, result.logprobs[: len(kept)]
    if voices.ended:
        result.finish_reason = "stop"
    del result.token_ids[voices.taken :], result.logprobs[voices.taken :]


def _fits(engine: Runner, request: Request) -> bool:
    try:
        engine.check(request)
    except DgemmaError:
        return False
    return True


def _run(
    engine: Runner, tokenizer: Tokenizer, request: Request, voices: Voices, result: Result, clock: Stopwatch,
    lead: list[int], token_by_token: bool,
) -> Iterator[Draft | Committed]:  # fmt: skip
    """The events of one request, until it ends or nothing behind is wanted of it: that cancels it."""
    before = len(result.steps)
    running = autoregressive.run(engine, request) if token_by_token else engine.run([request])
    with closing(running) as records:
        for record in records:
            if isinstance(record, StepRecord):
                clock.drafted()
                event = draft(record, tokenizer, request)
                yield dataclasses.replace(event, canvas=before + event.canvas) if before else event
                continue
            clock.drafted()
            refuse_broken(record)
            result.add(record)
            taken, known, parts = voices.taken, len(voices.calls), voices.feed(record.token_ids)
            is_last = record.finish_reason is not None or voices.ended
            if is_last and voices.stop is None and voices.broken is None:
                parts += voices.finish()
            told = voices.taken if voices.broken is None else max(voices.broken, taken)
            text, ids = "".join(part for _, part in parts), lead + record.token_ids[: told - taken]
            lead = []
            logprobs = told_logprobs(result, tokenizer, voices.told(), voices)
            yield Committed(
                before + record.canvas, text, ids, record.steps, parts, voices.calls[known:], logprobs
            )
            if voices.ended or voices.broken is not None:
                return


def told_logprobs(
    result: Result, tokenizer: Tokenizer, places: Iterable[int], voices: Voices
) -> list[TokenLogProbs]:
    """The log-probabilities of a result's tokens at some places, with their texts; none where they were not asked for."""

    def text(token: int) -> str:
        return tokenizer.token_bytes(token).decode("utf-8", "replace")

    def told(place: int, one: LogProbs) -> TokenLogProbs:
        token, top = result.token_ids[place], zip(one.top_ids, one.top_log_probs, strict=True)
        return TokenLogProbs(
            token, text(token), one.log_prob, [(i, text(i), x) for i, x in top], voices.starts.get(place)
        )

    return [told(place, result.logprobs[place]) for place in places] if result.logprobs else []


def again(request: Request) -> Request:
    """The same request with the next seed."""
    return dataclasses.replace(request, seed=(request.seed + 1) % 2**63)


class Stopwatch:
    """Seconds since the request came in, and until its first draft stood on the screen."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first: float | None = None

    def drafted(self) -> None:
        self.first = self.first if self.first is not None else self.seconds()

    def seconds(self) -> float:
        return time.perf_counter() - self.start


def draft(record: StepRecord, tokenizer: Tokenizer, request: Request) -> Draft:
    pins = request.pins if record.canvas == 0 else None
    pinned = [pin >= 0 for pin in pins] if pins else [False] * len(record.argmax)
    pieces = [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in record.argmax]
    return Draft(
        record.canvas,
        record.step,
        pieces,
        record.accepted,
        pinned,
        record.entropy,
        record.argmax,
        record.request,
    )


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
