"""Text settled in place: canvases of given text with holes in it, tried at several widths, the best row
taken.

Infill is a window with one hole, an edit a series of windows with some. What stands before the canvas is
prompt, the text around the holes is pinned, what follows is seen as far as the canvas reaches. Nobody knows a
hole's true length: rows of several widths run in one batch, and a hole may be closed early by a control
token. The best row is the one that the causal pass finds likeliest per token, read together with what
follows; the denoiser's own figure, at its last temperature, is near 0 for any text. A hole wider than a
canvas is settled by successive canvases: those before the last see nothing behind it, and may not close it.

Refuses to know documents: only a hole's own text comes back, and the caller splices it into bytes that were
never decoded.

Trap, the seams: " x" and "return" are tokens, so given text that ends in a space, or with "ret", leaves the
model to begin with a lone "x" or "urn" that it has never read. What a hole's first token would have swallowed
is held back from what is pinned, and taken off the front of what comes back: trailing blanks of a line, a
line break with nothing after it, and the last token of a word, whose place may then hold nothing but that
token and those which begin with it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import NO_RULES, DenoiseConfig, TokenRules
from ..engine.engine import by_turns
from ..engine.requests import CommitRecord, Request, StepRecord, next_seed
from ..engine.runner import Runner
from ..kernels.ops.vocab import soft_capped_logits
from ..model.dgemma import DiffusionGemma
from ..text.tokenizer import Tokenizer
from .events import Draft
from .generate import EMPTY_ONCE, EMPTY_TWICE, Stopwatch, draft, refuse_broken

LEAD = 8  # an eighth of a canvas repeats the end of what stands before it
JUDGED = 16  # tokens behind the last hole that a row is judged by, beside its own
ROWS_OF_LOGITS = 64  # that are looked at at a time: at 262,144 tokens 64 MiB in float32


@dataclass(frozen=True)
class Hole:
    """Free cells, and the given text up to the next hole."""

    held_back: str  # the end of the text before it, which it is expected to begin with
    widths: list[int]  # cells, one number for each row
    only: tuple[int, ...]  # the tokens that may stand first; none: any
    behind: list[int]  # tokens up to the next hole; none behind the last


@dataclass(frozen=True)
class Window:
    """Holes that settle together, ready to run. All but a single hole must fit one canvas."""

    before: list[int]  # all that is read before the first hole
    fixed: int  # of these, tokens from the start on that no canvas may repeat
    holes: list[Hole]
    after: list[int]  # behind the last hole: text, its end and padding, a canvas of them
    judged: int  # of these, what a row is judged by
    canvas: int
    config: DenoiseConfig
    seed: int
    control: tuple[int, ...]  # ids that close a hole
    rules: TokenRules = NO_RULES
    line_end: str = "\n"  # of the text around it, which was read with plain ones

    def first(self) -> list[Request]:
        """The requests that it begins with, one for each row."""
        return _requests(self, _rows(self))


@dataclass(frozen=True)
class Settled:
    """The best row of a window."""

    texts: list[str]  # of each hole
    rows: list[list[str]]  # the same of every row
    closed: list[bool]  # the text ended inside its hole; False: it is exactly as long
    row: int
    score: float  # nats per token of the holes and what is judged with them, read by the causal pass
    token_ids: list[int]
    steps: list[int]  # one number for each of its canvases
    row_steps: list[int]  # of every row, all canvases together
    request: Request  # what it began with
    notes: list[str]


@dataclass
class _Row:
    """One row at work."""

    front: list[int]  # cells of the canvases that come before the last
    widths: list[int]  # cells of each hole in the last one
    tokens: list[list[int]] = field(default_factory=list)  # of each hole
    closed: list[bool] = field(default_factory=list)
    lost: int = 0  # tokens of text behind a control token, which are left out
    steps: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def grown(self) -> list[int]:
        """What its hole has of the canvases before."""
        if self.tokens:
            return self.tokens[0]
        return []


def lay_out(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    widths: Sequence[list[int]],
    *,
    head: list[int],
    context: int,
    end: int,
    canvas: int,
    config: DenoiseConfig,
    seed: int,
    rules: TokenRules = NO_RULES,
) -> Window:
    """A window of the given `texts` around its holes, one more than there are holes, whose `widths` are the
    rows'.

    head: ids that the prompt opens with; context: tokens of the first text that are read before the hole;
    end: the token that a text which ends inside the canvas is followed by, with padding, as in training.
    """
    kept, held = zip(*map(hold_back, texts[:-1]), strict=True)
    before = []
    if context:
        # 12 characters a token is more than code has: enough to cut long files before encoding them
        before = tokenizer.encode(kept[0][-12 * (context + canvas) :])[-context:]
    given = [before, *map(tokenizer.encode, kept[1:])]
    # takes a begun word's last token off what is given
    seams = [_word_begun(tokenizer, rules, *parts) for parts in zip(kept, held, given, strict=True)]
    behind = [*given[1:], []]
    holes = [
        Hole(held_back, hole_widths, only, ids)
        for (held_back, only), hole_widths, ids in zip(seams, widths, behind, strict=True)
    ]
    after = tokenizer.encode(texts[-1][: 12 * canvas])
    if len(after) < canvas:  # long blanks: what was cut off must not look like the end of the text
        after = tokenizer.encode(texts[-1])
    padding = [tokenizer.special.need("pad")] * canvas
    return Window(
        before=[*head, *before],
        fixed=len(head),
        holes=holes,
        after=[*after, end, *padding][: canvas + JUDGED],
        judged=min(JUDGED, len(after) + 1),  # not the padding behind the end
        canvas=canvas,
        config=config.replace(eos_token_id=None),
        seed=seed,
        control=(*sorted(tokenizer.control_ids),),
        rules=rules,
    )


def hold_back(text: str) -> tuple[str, str]:
    """Split off what a hole's first token would swallow: blanks after text, or a line break with no
    indentation.
    """
    stripped = text.rstrip(" \t")
    blanks = text[len(stripped) :]
    if blanks and not stripped.endswith("\n"):
        return stripped, blanks
    if not blanks and stripped.endswith("\n"):
        body = stripped.rstrip("\n")
        return body, stripped[len(body) :]
    return text, ""


def _word_begun(
    tokenizer: Tokenizer, rules: TokenRules, kept: str, held: str, tokens: list[int]
) -> tuple[str, tuple[int, ...]]:
    """What is held back before a hole, and what may stand first in it.

    Where a text ends in a word, that is its last token (taken off `tokens`) or one that begins with it. Where
    no other does, all stays as it is.
    """
    if held or not tokens or not (kept[-1].isalnum() or kept[-1] == "_"):
        return held, ()
    piece = tokenizer.token_bytes(tokens[-1])
    only = tuple(i for i in tokenizer.beginning_with(piece) if i not in rules.banned_tokens)
    begun = piece.decode(errors="ignore")  # of a part of a character nothing, or less than it is
    if not begun or begun.encode() != piece or not kept.endswith(begun) or len(only) < 2:
        return held, ()
    tokens.pop()
    return begun, only


def settle(
    engine: Runner, tokenizer: Tokenizer, window: Window, clock: Stopwatch
) -> Iterator[Draft | Settled]:
    """Run all rows in one batch: Drafts of every row, then the best one.

    Where every row comes back empty, they are drawn once more with the next seed, and a note says so. Raises
    NumericsError where the logits are not finite.
    """
    notes = []
    for attempt in range(2):
        if attempt:
            window = dataclasses.replace(window, seed=next_seed(window.seed))
        rows = yield from _run(engine, tokenizer, window, clock)
        texts = [_texts(tokenizer, window, row) for row in rows]
        if any(map(any, texts)):
            break
        notes = [EMPTY_TWICE if attempt else EMPTY_ONCE]
    scores = by_turns(engine, judge(engine, window, [row.tokens for row in rows]))
    best = max(range(len(rows)), key=lambda number: (any(texts[number]), scores[number]))
    row = rows[best]
    if row.lost:
        notes.append(
            f"{row.lost} tokens behind the end of a gap were left out: it was closed inside its text"
        )
    yield Settled(
        texts=texts[best],
        rows=texts,
        closed=row.closed,
        row=best,
        score=scores[best],
        token_ids=[token for tokens in row.tokens for token in tokens],
        steps=row.steps,
        row_steps=[sum(each.steps) for each in rows],
        request=window.first()[best],
        notes=notes,
    )


def _run(
    engine: Runner, tokenizer: Tokenizer, window: Window, clock: Stopwatch
) -> Generator[Draft, None, list[_Row]]:
    """Every canvas of every row; rows of more canvases than others go on alone."""
    rows = _rows(window)
    control = tokenizer.control_ids
    canvas = 0
    while active := [number for number, row in enumerate(rows) if not row.done]:
        requests = _requests(window, [rows[number] for number in active])
        for record in engine.run(requests):
            number = active[record.request]
            request = requests[record.request]
            if isinstance(record, StepRecord):
                clock.drafted()
                yield draft(record, tokenizer, request).of_canvas(canvas, number)
            elif isinstance(record, CommitRecord):
                refuse_broken(record)
                lead = next(place for place, pin in enumerate(request.pins or ()) if pin < 0)
                _take(window, rows[number], record.canvas_ids[lead:], control)
                rows[number].steps.append(record.steps)
        canvas += 1
    return rows


def _rows(window: Window) -> list[_Row]:
    rows = []
    for widths in zip(*(hole.widths for hole in window.holes), strict=True):
        if len(widths) == 1:
            front = _front(widths[0], window.canvas)
        else:
            front = []
        rows.append(_Row(front, [widths[0] - sum(front), *widths[1:]]))
    return rows


def _front(width: int, canvas: int) -> list[int]:
    """The cells of a hole that are settled before its last canvas, which holds half a canvas of it.

    None where one canvas is enough.
    """
    if width <= canvas:
        return []
    rest = width - max(1, canvas // 2)
    count = -(-rest // (canvas - canvas // LEAD))
    return [rest // count + (place < rest % count) for place in range(count)]


def _requests(window: Window, rows: Sequence[_Row]) -> list[Request]:
    """The next canvas of each row. They begin alike, so that a prompt is read once for all rows."""
    given = sum(len(hole.behind) for hole in window.holes)
    cells = [row.front[0] if row.front else sum(row.widths) + given for row in rows]
    most_lead = min(window.canvas // LEAD, window.canvas - max(cells))
    return [_request(window, row, most_lead) for row in rows]


def _request(window: Window, row: _Row, most_lead: int) -> Request:
    """The next canvas of one row, which repeats at most `most_lead` tokens of what is read before it."""
    before = [*window.before, *row.grown]
    lead = min(len(before) - window.fixed, most_lead)
    start = len(before) - lead
    pins = before[start:]
    rules = window.rules
    only: list[tuple[int, tuple[int, ...]]] = []
    if window.holes[0].only and not row.grown:
        only.append((lead, window.holes[0].only))
    if row.front:
        pins += [-1] * row.front[0]
        rules = dataclasses.replace(rules, banned_tokens=(*rules.banned_tokens, *window.control))
    else:
        for number, (hole, width) in enumerate(zip(window.holes, row.widths, strict=True)):
            if hole.only and number:
                only.append((len(pins), hole.only))
            pins += [-1] * width + hole.behind
        pins += window.after[: window.canvas - len(pins)]
    config = window.config
    if len(pins) != window.canvas:
        config = config.replace(canvas_width=len(pins))
    prompt = tuple(before[:start])
    return Request(prompt, len(pins), window.seed, config, pins=tuple(pins), rules=rules, only=tuple(only))


def _take(window: Window, row: _Row, cells: Sequence[int], control: frozenset[int]) -> None:
    """What a canvas, from its first hole on, adds to its row."""
    if row.front:
        tokens, is_closed, lost = _until_closed(cells, control)
        row.tokens = [row.grown + tokens]
        row.front = row.front[1:]
        row.lost += lost
        row.closed = [is_closed]
        row.done = is_closed
        return
    grown = row.grown
    row.tokens = []
    row.closed = []
    start = 0
    for hole, width in zip(window.holes, row.widths, strict=True):
        tokens, is_closed, lost = _until_closed(cells[start : start + width], control)
        row.tokens.append(tokens)
        row.closed.append(is_closed)
        row.lost += lost
        start += width + len(hole.behind)
    row.tokens[0] = grown + row.tokens[0]
    row.done = True


def _until_closed(cells: Sequence[int], control: frozenset[int]) -> tuple[list[int], bool, int]:
    """The tokens of a hole, whether a control token closed it, and how many tokens of text stand behind that
    one.
    """
    end = next((place for place, token in enumerate(cells) if token in control), len(cells))
    return [*cells[:end]], end < len(cells), sum(token not in control for token in cells[end:])


def _texts(tokenizer: Tokenizer, window: Window, row: _Row) -> list[str]:
    texts = []
    for hole, tokens in zip(window.holes, row.tokens, strict=True):
        if hole.only:
            text = b"".join(map(tokenizer.token_bytes, tokens)).decode("utf-8", "replace")
            texts.append(text.removeprefix(hole.held_back))
            continue
        text = tokenizer.decode(tokens)
        texts.append(text[len(os.path.commonprefix([hole.held_back, text])) :])
    return texts


def judge(
    engine: Runner, window: Window, rows: Sequence[Sequence[Sequence[int]]]
) -> Generator[None, None, list[float]]:
    """Mean log-probability, in nats, of each row under the causal pass.

    Counted are its holes' tokens and what is given between and behind them.
    """
    after = window.after[: window.judged]
    texts = []
    for row in rows:
        ids: list[int] = []
        for tokens, hole in zip(row, window.holes, strict=True):
            ids += [*tokens, *hole.behind]
        texts.append([*ids, *after])
    log_p = yield from log_probs(engine, window.before, texts)
    return [one.mean().item() for one in log_p]


@torch.inference_mode()
def log_probs(
    engine: Runner, before: Sequence[int], texts: Sequence[Sequence[int]]
) -> Generator[None, None, list[Tensor]]:
    """Log-probabilities, in nats, of every token of some texts that go on from `before` (one token at least):
    [T] each.

    Uses the model by itself: called through `by_turns`.
    """
    net = engine.model
    chunk = engine.config.prefill_chunk
    prefix = yield from engine.read(before[:-1])
    kv = [prefix.copy() for _ in texts]
    ids = torch.zeros((len(texts), max(map(len, texts))), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor([before[-1], *text[:-1]])
    pieces: list[list[Tensor]] = [[] for _ in texts]
    for start in range(0, ids.shape[1], chunk):
        part = ids[:, start : start + chunk].to(net.device)
        counts = [min(max(len(text) - start, 0), part.shape[1]) for text in texts]
        hidden = net.encode(part, kv, counts)
        for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
            pieces[row] += _log_probs_of(net, hidden[row, :count], text[start : start + count])
        if start + chunk < ids.shape[1]:
            yield
    return [torch.cat(parts) for parts in pieces]


def _log_probs_of(net: DiffusionGemma, hidden: Tensor, tokens: Sequence[int]) -> Iterator[Tensor]:
    """Log-probabilities of tokens that hidden states [T, D] predict, ROWS_OF_LOGITS at a time."""
    for start in range(0, len(tokens), ROWS_OF_LOGITS):
        rows = hidden[start : start + ROWS_OF_LOGITS]
        logits = soft_capped_logits(rows, net.table, net.config.final_logit_softcapping)
        targets = torch.tensor(tokens[start : start + ROWS_OF_LOGITS], device=net.device)
        yield logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
