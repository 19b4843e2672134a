"""Fill the gap between two texts, in place: a canvas of [end of prefix | gap | start of suffix], all but the gap pinned.

What stands before the canvas is encoded as prompt; the suffix is seen as far as the canvas reaches. Nobody
knows the gap's true length: several widths run in one batch, and a gap may be closed early by filler (`<pad>`
or an end token). Gaps that were closed come first, then the best mean log-probability. Only the gap is
decoded; prefix and suffix are never touched.

Trap, the seams: " x" is one token, so a prefix that ends in a space leaves the model to begin with a
rare lone "x". Trailing blanks of a line, and a line break with nothing after it, are held back from the
prefix and taken off the front of what comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import DenoiseConfig, EngineConfig
from ..engine.denoise import run
from ..engine.requests import CommitRecord, Request, Result, StepRecord
from ..errors import UsageError
from ..model.dgemma import DiffusionGemma
from ..text.tokenizer import Tokenizer
from .events import Draft, Filling
from .generate import Stopwatch, draft, refuse_broken, summary

CONTEXT_CANVASES = 7  # prompt read before the canvas, in canvases: 448 tokens at width 64, 1,792 at 256


@dataclass(frozen=True)
class Gap:
    """One gap, ready to run: a request per width, and what the answer must not repeat."""

    requests: list[Request]
    widths: list[int]
    start: int  # where the gap begins in the canvas
    held_back: str  # the end of the prefix that the gap is expected to begin with


def default_widths(canvas: int, longest: int | None = None) -> list[int]:
    """Gap widths to try in one batch: an eighth, a quarter and a half of the canvas, capped by `longest`."""
    widths = sorted({max(1, canvas // part) for part in (8, 4, 2)})
    return sorted({min(width, longest) for width in widths}) if longest else widths


def prepare(
    net: DiffusionGemma, tokenizer: Tokenizer, prefix: str, suffix: str, *, config: DenoiseConfig, seed: int = 0,
    widths: Sequence[int] | None = None, context: int | None = None,
) -> Gap:  # fmt: skip
    """Lay out the canvases of one gap. Raises UsageError where a width does not fit."""
    canvas = config.canvas_width or net.config.canvas_length
    context = CONTEXT_CANVASES * canvas if context is None else context
    widths = list(widths) if widths else default_widths(canvas)
    if bad := [width for width in widths if not 1 <= width <= canvas]:
        raise UsageError(f"a gap of {bad[0]} tokens does not fit a canvas of {canvas}; choose 1 to {canvas}")
    kept, held_back = _hold_back(prefix)
    # 12 characters a token is more than any text has: enough to cut long files before encoding them
    before = tokenizer.encode(kept[-12 * (context + canvas) :])[-context:] if context else []
    after = tokenizer.encode(suffix[: 12 * canvas])
    if len(after) < canvas:  # long blanks: what was cut off must not look like the end of the text
        after = tokenizer.encode(suffix)
    lead = min(len(before), canvas // 8, canvas - max(widths))
    prompt = (tokenizer.special.need("bos"), *before[: len(before) - lead])
    # a suffix that ends inside the canvas is followed by the end of text and padding, as in training
    tail = [*after, tokenizer.special.need("eos"), *[tokenizer.special.need("pad")] * canvas]
    requests = []
    for width in widths:
        pins = (*before[len(before) - lead :], *[-1] * width, *tail[: canvas - lead - width])
        requests.append(Request(prompt, canvas, seed, config.replace(eos_token_id=None), pins=pins))
    return Gap(requests, widths, lead, held_back)


def stream(
    net: DiffusionGemma, tokenizer: Tokenizer, gap: Gap, engine: EngineConfig
) -> Iterator[Draft | Filling]:
    """Run all widths in one batch: Drafts of every row, then the best Filling."""
    clock, results = Stopwatch(), [Result() for _ in gap.requests]
    for record in run(net, gap.requests, engine):
        if isinstance(record, StepRecord):
            clock.drafted()
            yield draft(record, tokenizer, gap.requests[record.request])
        elif isinstance(record, CommitRecord):
            refuse_broken(record)
            results[record.request].add(record)
    candidates = [_candidate(tokenizer, gap, row, result) for row, result in enumerate(results)]
    best = max(range(len(candidates)), key=lambda row: (candidates[row].closed, candidates[row].score))
    won = candidates[best]
    result = Result(won.token_ids, results[best].steps, "stop")
    generation = summary(won.text, result, gap.requests[best], clock, [])
    yield Filling(won.text, won.closed, gap.widths[best], won.score, generation)


@dataclass(frozen=True)
class _Candidate:
    text: str
    token_ids: list[int]
    closed: bool
    score: float  # mean log-probability of its tokens and of the filler that closed it


def _candidate(tokenizer: Tokenizer, gap: Gap, row: int, result: Result) -> _Candidate:
    pins, canvas, log_probs = gap.requests[row].pins, result.canvases[0], result.log_probs[0]
    assert pins is not None
    free = [place for place, pin in enumerate(pins) if pin < 0]
    control = tokenizer.control_ids
    end = next((i for i, place in enumerate(free) if canvas[place] in control), len(free))
    tokens = [canvas[place] for place in free[:end]]
    counted = free[: min(end + 1, len(free))]
    score = sum(log_probs[place] for place in counted) / len(counted)
    text = tokenizer.decode(tokens)
    if gap.held_back and text.startswith(gap.held_back):
        text = text[len(gap.held_back) :]
    return _Candidate(text, tokens, end < len(free), score)


def _hold_back(prefix: str) -> tuple[str, str]:
    """Split off what the gap's first token would swallow: blanks after text, or a line break with no indentation."""
    stripped = prefix.rstrip(" \t")
    blanks = prefix[len(stripped) :]
    if blanks and not stripped.endswith("\n"):
        return stripped, blanks
    if not blanks and stripped.endswith("\n"):
        body = stripped.rstrip("\n")
        return body, stripped[len(body) :]
    return prefix, ""
