"""Continue a prompt given as ids, as a stream of events. chat.py and the completion of plain text both end
here.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from ..engine import autoregressive
from ..engine.requests import CommitRecord, LogProbs, Request, Result, StepRecord, next_seed
from ..engine.runner import Runner
from ..errors import DgemmaError, NumericsError, UsageError
from ..text.tokenizer import Tokenizer
from .events import Committed, Draft, Generation, TokenLogProbs
from .output_parser import OutputParser, Part
from .resolve import ResolvedParams

Event = Draft | Committed | Generation
MOST_ATTEMPTS = 3  # at an answer whose tool calls cannot be read
RESETTLED = "tool calls that could not be read, and were settled again"
EMPTY_ONCE = "the first answer was empty; this one was drawn with the next seed"
EMPTY_TWICE = "the answer is empty, with the next seed too; try another one"


def stream(
    engine: Runner,
    tokenizer: Tokenizer,
    request: Request,
    default_length: bool = False,
    resolved: ResolvedParams = ResolvedParams(),
    channels: bool = False,
    goes_on: bool = False,
    notes: Sequence[str] = (),
    token_by_token: bool = False,
) -> Iterator[Event]:
    """Run one request: a Draft per step, a Committed per canvas, and the Generation last.

    resolved: the answer, and its request with it, ends before the first of these stop strings that its
    content holds, or behind its only call. channels: thoughts are kept apart from the content. notes: what
    the result says beside its own. default_length: nobody asked for max_tokens, so the result says when it
    cut the answer.
    token_by_token: the causal pass writes the answer, without canvases and drafts.

    An answer in which the model said nothing is drawn once more with the next seed: its canvases are not
    shown, and a note says so. That is not done for an answer of a given form, for one that `goes_on` from a
    message, nor where a stop string left nothing of it.

    Raises UsageError for a request that does not fit or cannot be answered in the form it asks for,
    NumericsError (and no text) when the logits are not finite.
    """
    clock = Stopwatch()
    current = request
    redrawn: list[str] = []
    for attempt in range(2):
        if attempt:
            current = again(current)
        parser = OutputParser(tokenizer, resolved.stop, channels, channels, resolved.one_call)
        answer = _Answer(engine, tokenizer, parser, clock, token_by_token)
        text = ""
        held: list[Committed] = []  # of an answer that is empty so far
        for event in answer.settle(current):
            if isinstance(event, Draft):
                yield event
                continue
            text += event.text
            held.append(event)
            if text.strip() or parser.spoke:
                yield from held
                held = []
        may_be_empty = parser.stop is not None or resolved.is_constrained or goes_on
        if text.strip() or parser.spoke or may_be_empty:
            break
        redrawn = [EMPTY_TWICE if attempt else EMPTY_ONCE]
    yield from held
    result = answer.result
    all_notes = [*notes, *resolved.notes, *redrawn]
    if answer.resettled:
        all_notes.append(f"{RESETTLED}: {answer.resettled}")
    if default_length and result.finish_reason == "length":
        all_notes.append(f"cut at {request.max_tokens} tokens, the default length; raise max_tokens for more")
    logprobs = None
    if request.rules.logprobs:
        logprobs = answer.logprobs_at(range(len(result.token_ids)))
    generation = summary(text, result, current, clock, all_notes)
    yield dataclasses.replace(generation, stop=parser.stop, logprobs=logprobs, autoregressive=token_by_token)


@dataclass
class _Answer:
    """An answer as it is drawn: what reads it, and what has come of it."""

    engine: Runner
    tokenizer: Tokenizer
    parser: OutputParser
    clock: Stopwatch
    token_by_token: bool
    result: Result = field(default_factory=Result)
    resettled: int = 0  # how often a tool call was settled again

    def settle(self, request: Request) -> Iterator[Draft | Committed]:
        """One request to its end.

        A tool call that cannot be read is settled anew from its opening on, with the next seeds, at most
        twice.
        """
        parser = self.parser
        result = self.result
        first = request
        lead: list[int] = []
        for attempt in range(MOST_ATTEMPTS):
            yield from self._run(request, lead)
            if parser.broken is None:
                break
            kept = result.token_ids[: parser.broken + 1]
            lead = kept[-1:]  # whoever splits the committed ids sees the call opened anew
            request = _from_opening(request, first, kept)
            is_last = attempt == MOST_ATTEMPTS - 1 or not _fits(self.engine, request)
            parser.again(is_last)
            if is_last:
                yield self._as_it_is(lead)
                break
            self.resettled += 1
            result.token_ids = kept
            result.logprobs = result.logprobs[: len(kept)]
        if parser.ended:
            result.finish_reason = "stop"
        del result.token_ids[parser.taken :]
        del result.logprobs[parser.taken :]

    def _run(self, request: Request, lead: list[int]) -> Iterator[Draft | Committed]:
        """The events of one request, until it ends or nothing behind is wanted of it: that cancels it.

        lead: ids that the first committed ones are shown behind.
        """
        parser = self.parser
        canvases = len(self.result.steps)  # of the requests before
        with closing(self._records(request)) as records:
            for record in records:
                self.clock.drafted()
                if isinstance(record, StepRecord):
                    event = draft(record, self.tokenizer, request)
                    yield event.of_canvas(canvases + event.canvas)
                    continue
                refuse_broken(record)
                self.result.add(record)
                taken = parser.taken
                known_calls = len(parser.calls)
                parts = parser.feed(record.token_ids)
                is_last = record.finish_reason is not None or parser.ended
                if is_last and parser.stop is None and parser.broken is None:
                    parts += parser.finish()
                if parser.broken is None:
                    end = parser.taken
                else:
                    end = max(parser.broken, taken)
                ids = lead + record.token_ids[: end - taken]
                lead = []
                yield self._committed(canvases + record.canvas, ids, record.steps, parts, known_calls)
                if parser.ended or parser.broken is not None:
                    return

    def _records(self, request: Request) -> Generator[StepRecord | CommitRecord, None, None]:
        if self.token_by_token:
            return autoregressive.run(self.engine, request)
        return self.engine.run([request])

    def _as_it_is(self, lead: list[int]) -> Committed:
        """What stands behind the opening of a call that could not be read, which is settled no more."""
        rest = self.result.token_ids[self.parser.taken :]
        known_calls = len(self.parser.calls)
        parts = self.parser.feed(rest) + self.parser.finish()
        return self._committed(len(self.result.steps) - 1, lead + rest, 0, parts, known_calls)

    def _committed(
        self, canvas: int, ids: list[int], steps: int, parts: list[Part], known_calls: int
    ) -> Committed:
        """known_calls: calls that events before this one have shown."""
        text = "".join(part for _, part in parts)
        calls = self.parser.calls[known_calls:]
        logprobs = self.logprobs_at(self.parser.shown_places())
        return Committed(canvas, text, ids, steps, parts, calls, logprobs)

    def logprobs_at(self, places: Iterable[int]) -> list[TokenLogProbs]:
        """Log-probabilities of the tokens at some places, with their texts; none where the request asks for
        none.
        """
        if not self.result.logprobs:
            return []
        return [self._logprobs(place, self.result.logprobs[place]) for place in places]

    def _logprobs(self, place: int, logprobs: LogProbs) -> TokenLogProbs:
        token = self.result.token_ids[place]
        alternatives = [
            (other, self._piece(other), log_prob)
            for other, log_prob in zip(logprobs.top_ids, logprobs.top_log_probs, strict=True)
        ]
        start = self.parser.starts.get(place)
        return TokenLogProbs(token, self._piece(token), logprobs.log_prob, alternatives, start)

    def _piece(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


def _from_opening(request: Request, first: Request, kept: Sequence[int]) -> Request:
    """The request that goes on behind a call's opening, the last of the ids `kept`, with the next seed."""
    return dataclasses.replace(
        again(request),
        prompt_ids=(*first.prompt_ids, *kept),
        max_tokens=first.max_tokens - len(kept),
        canvas_ids=(),
        pins=None,
    )


def _fits(engine: Runner, request: Request) -> bool:
    try:
        engine.check(request)
    except DgemmaError:
        return False
    return True


def again(request: Request) -> Request:
    """The same request with the next seed."""
    return dataclasses.replace(request, seed=next_seed(request.seed))


class Stopwatch:
    """Seconds since the request came in, and until its first draft stood on the screen."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first: float | None = None

    def drafted(self) -> None:
        """A draft stands on the screen; of several the first counts."""
        if self.first is None:
            self.first = self.seconds()

    def seconds(self) -> float:
        return time.perf_counter() - self.start


def draft(record: StepRecord, tokenizer: Tokenizer, request: Request) -> Draft:
    pins = None
    if record.canvas == 0:
        pins = request.pins
    if pins:
        pinned = [pin >= 0 for pin in pins]
    else:
        pinned = [False] * len(record.argmax)
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
            "the model's logits are not finite, so no text was made; check the checkpoint with `dgemma "
            "doctor`, or try another dtype"
        )


def summary(text: str, result: Result, request: Request, clock: Stopwatch, notes: list[str]) -> Generation:
    return Generation(
        text=text,
        token_ids=result.token_ids,
        steps=result.steps,
        finish_reason=result.finish_reason,
        prompt_tokens=len(request.prompt_ids),
        seed=request.seed,
        seconds=clock.seconds(),
        first_draft_seconds=clock.first or 0.0,
        notes=notes,
    )
