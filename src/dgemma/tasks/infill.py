"""Fill the gap between two texts, in place: a window (pinned.py) of prefix, gap and suffix.

Chooses the widths to try and what is read before the prefix; how a gap settles, is closed and judged is the
window's business.

Trap: the context is one budget for other files and the prefix, and the prefix's end must never be what is
cut.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..config import NO_RULES, DenoiseConfig, TokenRules
from ..config.reader import is_whole
from ..engine.requests import Result, check_width
from ..engine.runner import Runner
from ..errors import UsageError
from ..model.dgemma import DiffusionGemma
from ..text.lines import line_end, plain, with_line_end
from ..text.tokenizer import Tokenizer
from .events import Draft, Filling
from .generate import Stopwatch, summary
from .pinned import Window, lay_out, settle

MOST_WIDTHS = 16  # each is a row of every pass, and of the last one that judges them
CONTEXT_CANVASES = 7  # prompt read before the canvas, in canvases: 448 tokens at width 64, 1,792 at 256
Extra = Sequence[tuple[str, str]]  # other files: their names and texts


def default_widths(canvas: int, longest: int | None = None) -> list[int]:
    """Gap widths to try in one batch: an eighth, a quarter and a half of the canvas, up to `longest`.

    `longest` is tried as well where it is more: beyond a canvas it is settled by successive ones.
    """
    widths = {max(1, canvas // part) for part in (8, 4, 2)}
    if longest is None:
        return sorted(widths)
    return sorted({min(width, longest) for width in [*widths, longest]})


def prepare(
    net: DiffusionGemma,
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    *,
    config: DenoiseConfig,
    seed: int = 0,
    widths: Sequence[int] | None = None,
    context: int | None = None,
    extra: Extra = (),
    rules: TokenRules = NO_RULES,
) -> Window:
    """Lay out one gap, a row per width.

    The texts are read with plain line ends, which `stream` turns into their own.

    Raises UsageError for what cannot be a width, a context, a file or a rule of a gap.
    """
    ends = line_end(prefix, suffix)
    prefix = plain(prefix)
    suffix = plain(suffix)
    canvas = config.canvas_width or net.config.canvas_length
    check_width(canvas, net.config)
    context = context_tokens(canvas, context)
    if widths is None:
        widths = default_widths(canvas)
    _check_widths(widths)
    files = _files(tokenizer, extra, context)
    if files:
        prefix_tokens = len(tokenizer.encode(prefix[-12 * context :]))
        # what the prefix leaves of the context, and half of it in any case
        most_files = max(context // 2, context - prefix_tokens)
        files = files[max(0, len(files) - most_files) :]
    window = lay_out(
        tokenizer,
        [prefix, suffix],
        [[*widths]],
        head=[tokenizer.special.need("bos"), *files],
        context=context - len(files),
        end=tokenizer.special.need("eos"),
        canvas=canvas,
        config=config,
        seed=seed,
        rules=rules,
    )
    most = max(canvas, net.config.max_position_embeddings - len(window.before) - canvas)
    if max(widths) > most:
        raise UsageError(
            f"a gap of {max(widths)} tokens leaves the model's positions; at most {most} fit here"
        )
    return dataclasses.replace(window, line_end=ends)


def _check_widths(widths: Any) -> None:
    """Raise UsageError for what is no list of gap widths."""
    if not isinstance(widths, list | tuple) or not widths:
        raise UsageError(f"widths is {widths!r}; give a list of gap widths in tokens")
    if len(widths) > MOST_WIDTHS:
        raise UsageError(f"widths holds {len(widths)} gap widths; at most {MOST_WIDTHS} are tried")
    for width in widths:
        if not is_whole(width, 1, math.inf):
            raise UsageError(f"widths holds {width!r}; a gap takes a whole number of tokens, at least 1")


def context_tokens(canvas: int, context: int | None) -> int:
    """How many tokens are read before a canvas. Raises UsageError for what is no number of tokens."""
    if context is not None and not is_whole(context, below=math.inf):
        raise UsageError(f"context is {context!r}; it must be a whole number of tokens, at least 0")
    if context is None:
        return CONTEXT_CANVASES * canvas
    return context


def _files(tokenizer: Tokenizer, extra: Extra, context: int) -> list[int]:
    """Other files as one text, each under a comment that names it; of too much the end is kept."""
    parts = []
    for file in extra:
        is_pair = isinstance(file, list | tuple) and len(file) == 2
        if not is_pair or not all(isinstance(part, str) for part in file):
            raise UsageError(f"extra holds {file!r:.40}; each file is a pair of its name and its text")
        name, text = file
        body = plain(text).rstrip("\n")
        parts.append(f"# {name}\n{body}\n\n")
    if not parts or not context:
        return []
    return tokenizer.encode("".join(parts)[-12 * context :])[-context:]


def stream(engine: Runner, tokenizer: Tokenizer, window: Window) -> Iterator[Draft | Filling]:
    """Run all widths in one batch: Drafts of every row, then the best Filling, whose lines end as those
    around it.

    Empty ones are drawn once more.
    """
    clock = Stopwatch()
    for event in settle(engine, tokenizer, window, clock):
        if isinstance(event, Draft):
            yield event
            continue
        text = with_line_end(event.texts[0], window.line_end)
        closed = event.closed[0]
        result = Result(event.token_ids, event.steps, "stop" if closed else "length")
        generation = summary(text, result, event.request, clock, event.notes)
        width = window.holes[0].widths[event.row]
        candidates = [with_line_end(texts[0], window.line_end) for texts in event.rows]
        yield Filling(text, closed, width, event.score, event.row_steps, generation, candidates)
