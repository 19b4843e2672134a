"""Fill the gap between two texts, in place: a canvas of [end of prefix | gap | start of suffix], all but the gap pinned.

What stands before the canvas is encoded as prompt; the suffix is seen as far as the canvas reaches. Nobody
knows the gap's true length: several widths run in one batch, and a gap may be closed early by filler (`<pad>`
or an end token). The best is the one that the causal pass finds likeliest per token, read together with the suffix
behind it; the denoiser's own figure, at its last temperature, is near 0 for whatever stands. Only the gap is decoded;
prefix and suffix are never touched.

Trap, the seams: " x" is one token, so a prefix that ends in a space leaves the model to begin with a
rare lone "x". Trailing blanks of a line, and a line break with nothing after it, are held back from the
prefix and taken off the front of what comes back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..config import DenoiseConfig
from ..engine.engine import Engine
from ..engine.requests import CommitRecord, Request, Result, StepRecord, whole
from ..errors import UsageError
from ..kernels.vocab import soft_capped_logits
from ..model.dgemma import DiffusionGemma
from ..text.tokenizer import Tokenizer
from .events import Draft, Filling
from .generate import EMPTY_ONCE, EMPTY_TWICE, Stopwatch, again, draft, refuse_broken, summary

CONTEXT_CANVASES = 7  # prompt read before the canvas, in canvases: 448 tokens at width 64, 1,792 at 256
JUDGED_SUFFIX = 16  # tokens behind the gap that a candidate is judged by, beside its own


@dataclass(frozen=True)
class Gap:
    """One gap, ready to run: a request per width, and what the answer must not repeat."""

    requests: list[Request]
    widths: list[int]
    before: list[int]  # all that is read before the gap: the prompt and the canvas's pinned start
    after: list[int]  # the first tokens behind it
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
    if not whole(context) or context < 0:
        raise UsageError(f"context is {context!r}; it must be a whole number of tokens, at least 0")
    widths = default_widths(canvas) if widths is None else widths
    if not isinstance(widths, list | tuple) or not widths:
        raise UsageError(f"widths is {widths!r}; give a list of gap widths in tokens")
    widths = list(widths)
    if bad := [width for width in widths if not whole(width) or not 1 <= width <= canvas]:
        raise UsageError(f"a gap of {bad[0]} tokens does not fit a canvas of {canvas}; choose 1 to {canvas}")
    kept, held_back = _hold_back(prefix)
    # 12 characters a token is more than code has: enough to cut long files before encoding them
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
    judged = tail[: min(JUDGED_SUFFIX, len(after) + 1)]  # not the padding behind the end
    return Gap(requests, widths, [*prompt, *before[len(before) - lead :]], judged, held_back)


def stream(engine: Engine, tokenizer: Tokenizer, gap: Gap) -> Iterator[Draft | Filling]:
    """Run all widths in one batch: Drafts of every row, then the best Filling.

    Where every row comes back empty, they are drawn once more with the next seed, and a note says so.
    """
    clock, notes = Stopwatch(), []
    for attempt in range(2):
        requests = [again(request) for request in gap.requests] if attempt else gap.requests
        results = [Result() for _ in requests]
        for record in engine.run(requests):
            if isinstance(record, StepRecord):
                clock.drafted()
                yield draft(record, tokenizer, requests[record.request])
            elif isinstance(record, CommitRecord):
                refuse_broken(record)
                results[record.request].add(record)
        candidates = [_candidate(tokenizer, gap, row, result) for row, result in enumerate(results)]
        if any(candidate.text for candidate in candidates):
            break
        notes = [EMPTY_TWICE if attempt else EMPTY_ONCE]
    scores = judge(engine, gap, [candidate.token_ids for candidate in candidates])
    best = max(range(len(candidates)), key=lambda row: (bool(candidates[row].text), scores[row]))
    won = candidates[best]
    result = Result(won.token_ids, results[best].steps, "stop" if won.closed else "length")
    generation = summary(won.text, result, requests[best], clock, notes)
    row_steps = [row.steps[0] for row in results]
    yield Filling(won.text, won.closed, gap.widths[best], scores[best], row_steps, generation)


@torch.inference_mode()
def judge(engine: Engine, gap: Gap, candidates: Sequence[Sequence[int]]) -> list[float]:
    """Mean log-probability, in nats, of each candidate's tokens and the suffix's first ones under the causal pass."""
    texts = [[*candidate, *gap.after] for candidate in candidates]
    net, read = engine.model, engine.read(gap.before[:-1])
    kv = [read.copy() for _ in texts]
    ids = torch.zeros((len(texts), max(map(len, texts))), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor([gap.before[-1], *text[:-1]])
    hidden = net.encode(ids.to(net.device), kv, [len(text) for text in texts])
    means = []
    for row, text in enumerate(texts):
        logits = soft_capped_logits(hidden[row, : len(text)], net.table, net.config.final_logit_softcapping)
        means.append(-F.cross_entropy(logits, torch.tensor(text, device=net.device)).item())
    return means


@dataclass(frozen=True)
class _Candidate:
    text: str
    token_ids: list[int]
    closed: bool


def _candidate(tokenizer: Tokenizer, gap: Gap, row: int, result: Result) -> _Candidate:
    pins, canvas = gap.requests[row].pins, result.canvases[0]
    assert pins is not None
    free = [place for place, pin in enumerate(pins) if pin < 0]
    control = tokenizer.control_ids
    end = next((i for i, place in enumerate(free) if canvas[place] in control), len(free))
    tokens = [canvas[place] for place in free[:end]]
    text = tokenizer.decode(tokens)
    return _Candidate(text[len(os.path.commonprefix([gap.held_back, text])) :], tokens, end < len(free))


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
