"""Change a document in place: spans of it are free, everything else is pinned and comes back as it was.

The spans are given, or found by a first pass: the document is read causally behind the instruction, and lines
whose tokens are less likely there than most are opened (`unlikely_lines`). Spans that fit a canvas together
settle together, window by window (pinned.py); what was edited before is what the next window reads. Each span
is tried at about half its length, at its length and half as long again.

A chat-tuned model is given instruction and document as a user's turn and writes the document as its own. Any
other model reads the instruction as a comment above the text, and owes it nothing: a base model fills the
spans with what is likely there.

The model reads plain line ends; the places and texts of events are those of the document as it is.

Trap: only spans are ever replaced in the document, by their places; no text that was decoded stands anywhere
else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch

from ..config import DenoiseConfig
from ..config.reader import is_whole
from ..engine.engine import by_turns
from ..engine.requests import Request, Result, next_seed
from ..engine.runner import Runner
from ..errors import UsageError
from ..text.lines import PlainView, split_lines
from ..text.tokenizer import Tokenizer
from .chat import prompt_ids
from .events import Change, Draft, Edit
from .generate import Stopwatch, summary
from .infill import context_tokens, default_widths
from .pinned import LEAD, Settled, Window, hold_back, lay_out, log_probs, settle

Span = tuple[int, int]  # characters of the document, end excluded


@dataclass(frozen=True)
class Plan:
    """An edit, ready to run."""

    view: PlainView  # of the document; the spans are places in its plain text
    spans: list[Span]  # in order, apart from each other
    head: list[int]  # ids that every prompt opens with
    end: int  # the token that ends the document
    context: int  # tokens of the document that are read before a window
    canvas: int
    config: DenoiseConfig
    seed: int

    @property
    def document(self) -> str:
        """As the model reads it."""
        return self.view.text


def prepare(
    engine: Runner,
    tokenizer: Tokenizer,
    document: str,
    instruction: str | None,
    spans: Sequence[Span] | None,
    *,
    chat: bool,
    config: DenoiseConfig,
    seed: int,
    context: int | None,
) -> Plan:
    """Check an edit, and find its spans where none are given. chat: the model is chat-tuned.

    Raises UsageError, ResourceError.
    """
    if not document.strip():
        raise UsageError("the document is empty; there is nothing to edit")
    if instruction is None and spans is None:
        raise UsageError("say what to change: give an instruction, spans, or both")
    if instruction is not None and not instruction.strip():
        raise UsageError("the instruction is empty; say what to change, or leave it out and give spans")
    model = engine.model.config
    canvas = config.canvas_width or model.canvas_length
    tokens = context_tokens(canvas, context)
    if spans is None:
        sorted_spans = []
    else:
        sorted_spans = _in_order(spans, len(document))
    view = PlainView(document)
    plain_spans = [(view.to_plain(start), view.to_plain(end)) for start, end in sorted_spans]
    head, end = _prompt_head(tokenizer, view.text, instruction, chat)
    if instruction is not None and chat and context is None:
        tokens = model.max_position_embeddings
    document_ids = tokenizer.encode(view.text)
    if spans is not None:
        document_ids = document_ids[:tokens]
    # no window's prompt is longer
    engine.check(Request((*head, *document_ids), canvas, seed, config))
    if spans is None:
        plain_spans = by_turns(engine, unlikely_lines(engine, tokenizer, view.text, head))
    return Plan(view, plain_spans, head, end, tokens, canvas, config, seed)


def _prompt_head(
    tokenizer: Tokenizer, document: str, instruction: str | None, chat: bool
) -> tuple[list[int], int]:
    """The ids that every prompt opens with, and the token that ends the document."""
    special = tokenizer.special
    if instruction is not None and chat:
        message = {"role": "user", "content": f"{instruction}\n{document}"}
        return prompt_ids(tokenizer, [message], None, False), special.need("end_turn")
    head = [special.need("bos")]
    if instruction is not None:
        comment = "".join(f"# {line}\n" for line in instruction.strip().splitlines())
        head += tokenizer.encode(comment)
    return head, special.need("eos")


def _in_order(spans: Sequence[Span], length: int) -> list[Span]:
    """Spans sorted, those that touch as one.

    Raises UsageError for one that is no range of the document, or overlaps another.
    """
    if not isinstance(spans, list | tuple) or not spans:
        raise UsageError(f"spans is {spans!r}; give a list of (start, end) in characters")
    for span in spans:
        is_pair = isinstance(span, list | tuple) and len(span) == 2 and all(map(is_whole, span))
        if not is_pair or not 0 <= span[0] <= span[1] <= length:
            raise UsageError(f"spans holds {span!r}; each is (start, end) in characters, from 0 to {length}")
    merged: list[Span] = []
    for start, end in sorted((start, end) for start, end in spans):
        if merged and start < merged[-1][1]:
            raise UsageError(f"the spans {merged[-1]} and {(start, end)} overlap; join them")
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def unlikely_lines(
    engine: Runner, tokenizer: Tokenizer, document: str, head: Sequence[int]
) -> Generator[None, None, list[Span]]:
    """The lines that the model would not have written here, neighbours as one span, without the last one's
    end.

    A line's figure is the mean of -ln p, in nats, of the tokens that begin in it, read by the causal pass
    behind `head`. Opened is what lies more than one standard deviation above the mean of the lines that are
    not blank, and the least likely of them in any case.
    """
    ids = tokenizer.encode(document)
    lines = split_lines(document)
    (log_p,) = yield from log_probs(engine, head, [ids])
    line_of = _lines_of_tokens(tokenizer, document, ids, lines)
    count = torch.bincount(line_of, minlength=len(lines))
    nats = torch.bincount(line_of, -log_p.double().cpu(), len(lines))
    mean = nats / count.clamp_min(1)
    written = torch.tensor([bool(line.strip()) for line in lines])
    judged = written & (count > 0)
    if not judged.any():  # a token that spans all there is
        judged = written
    limit = mean[judged].mean() + mean[judged].std(correction=0)
    opened = judged & ((mean > limit) | (mean == mean[judged].max()))
    return _line_spans(lines, opened.nonzero()[:, 0].tolist())


def _lines_of_tokens(
    tokenizer: Tokenizer, document: str, ids: Sequence[int], lines: Sequence[str]
) -> torch.Tensor:
    """The number of the line in which each token begins, [T] int64."""
    sizes = [len(tokenizer.token_bytes(token)) for token in ids]
    leading = sum(sizes) - len(document.encode())  # a space that some tokenizers put in front
    begins = torch.tensor([0, *accumulate(sizes)][:-1]) - leading
    ends = torch.tensor([*accumulate(len(line.encode()) for line in lines)])
    return torch.searchsorted(ends, begins.clamp(0, int(ends[-1]) - 1), right=True)


def _line_spans(lines: Sequence[str], numbers: Sequence[int]) -> list[Span]:
    """The characters of some lines, without their ends; neighbours as one span."""
    starts = [0, *accumulate(map(len, lines))]
    spans: list[Span] = []
    for number in numbers:
        start = starts[number]
        end = start + len(lines[number].removesuffix("\n"))
        if spans and start == spans[-1][1] + 1:
            start, _ = spans.pop()
        spans.append((start, end))
    return spans


def widths_of(tokens: int, canvas: int) -> list[int]:
    """Cells to try for a span of so many tokens: shorter, as long (and one to close it), longer."""
    if not tokens:
        widths = default_widths(canvas)
        return [*widths, *[widths[-1]] * (3 - len(widths))]  # as many rows as any other span has
    return [(tokens + 1) // 2, tokens + 1, tokens + max(4, tokens // 2)]


def stream(engine: Runner, tokenizer: Tokenizer, plan: Plan) -> Iterator[Draft | Change | Edit]:
    """Window by window: Drafts of every row, a Change for each span of a window that has settled, the Edit
    last.
    """
    for event in _settle_windows(engine, tokenizer, plan):
        if isinstance(event, Change):
            yield _change_as_written(plan.view, event)
        elif isinstance(event, Edit):
            yield _edit_as_written(plan.view, event)
        else:
            yield event


def _change_as_written(view: PlainView, change: Change) -> Change:
    """A change of the plain text as one of the original."""
    start = view.to_original(change.start)
    end = view.to_original(change.end)
    before = view.original[start:end]
    after = before
    if change.after != change.before:
        after = view.written(change.after)
    return dataclasses.replace(change, start=start, end=end, before=before, after=after)


def _edit_as_written(view: PlainView, edit: Edit) -> Edit:
    """An edit of the plain text as one of the original: all that is not in a span is as it was."""
    changes = [_change_as_written(view, change) for change in edit.changes]
    text = ""
    place = 0
    for change in changes:
        text += view.original[place : change.start] + change.after
        place = change.end
    text += view.original[place:]
    return Edit(view.original, text, changes, dataclasses.replace(edit.generation, text=text))


@dataclass
class _Progress:
    """The edit so far."""

    text: str = ""  # of the edited document
    place: int = 0  # up to where the document is in it
    changes: list[Change] = field(default_factory=list)
    result: Result = field(default_factory=lambda: Result(finish_reason="stop"))
    notes: list[str] = field(default_factory=list)
    first: Request | None = None  # of the first window

    def add(self, settled: Settled) -> None:
        """What a window's figures add."""
        self.first = self.first or settled.request
        self.result.token_ids += settled.token_ids
        self.result.steps += settled.steps
        if not all(settled.closed):
            self.result.finish_reason = "length"
        self.notes += [note for note in settled.notes if note not in self.notes]


def _settle_windows(engine: Runner, tokenizer: Tokenizer, plan: Plan) -> Iterator[Draft | Change | Edit]:
    """`stream` of the plain text."""
    clock = Stopwatch()
    done = _Progress()
    document = plan.document
    for number, (spans, widths) in enumerate(_windows(tokenizer, plan)):
        done.text += document[done.place : spans[0][0]]
        between = [document[one[1] : other[0]] for one, other in pairwise(spans)]
        window = lay_out(
            tokenizer,
            [done.text, *between, document[spans[-1][1] :]],
            widths,
            head=plan.head,
            context=plan.context,
            end=plan.end,
            canvas=plan.canvas,
            config=plan.config,
            seed=next_seed(plan.seed, number),
        )
        settled = yield from _settle_window(engine, tokenizer, window, clock, len(done.result.steps))
        for span, after, closed, given in zip(
            spans, settled.texts, settled.closed, [*between, ""], strict=True
        ):
            change = Change(*span, document[slice(*span)], after, closed, settled.row)
            done.changes.append(change)
            yield change
            done.text += after + given
        done.place = spans[-1][1]
        done.add(settled)
    done.text += document[done.place :]
    assert done.first is not None
    generation = summary(done.text, done.result, done.first, clock, done.notes)
    yield Edit(document, done.text, done.changes, generation)


def _settle_window(
    engine: Runner, tokenizer: Tokenizer, window: Window, clock: Stopwatch, canvases: int
) -> Generator[Draft, None, Settled]:
    """The Drafts of one window, numbered behind the `canvases` before it, and its best row."""
    settled = None
    for event in settle(engine, tokenizer, window, clock):
        if isinstance(event, Draft):
            yield event.of_canvas(canvases + event.canvas)
        else:
            settled = event
    assert settled is not None
    return settled


def _windows(tokenizer: Tokenizer, plan: Plan) -> Iterator[tuple[list[Span], list[list[int]]]]:
    """The spans that settle together, and the widths of each.

    They are as many as fit a canvas between a start and an end of given text.
    """
    cells = plan.canvas - 2 * (plan.canvas // LEAD)
    spans: list[Span] = []
    widths: list[list[int]] = []
    used = 0
    for start, end in plan.spans:
        before = 0
        if spans:
            before = spans[-1][1]
        span_widths = _span_widths(tokenizer, plan, before, (start, end))
        given = 0
        if spans:
            given = len(tokenizer.encode(plan.document[before:start]))
        if spans and used + given + max(span_widths) > cells:
            yield spans, widths
            spans = []
            widths = []
            used = 0
            given = 0
        spans.append((start, end))
        widths.append(span_widths)
        used += given + max(span_widths)
    if spans:
        yield spans, widths


def _span_widths(tokenizer: Tokenizer, plan: Plan, before: int, span: Span) -> list[int]:
    """Cells to try for a span; before: where the span before it ends."""
    start, end = span
    if end == start:
        return widths_of(0, plan.canvas)
    _, held = hold_back(plan.document[before:start])
    return widths_of(len(tokenizer.encode(held + plan.document[start:end])), plan.canvas)
