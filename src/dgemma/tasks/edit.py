"""Change a document in place: spans of it are free, everything else is pinned and comes back as it was.

The spans are given, or found by a first pass: the document is read causally behind the instruction, and lines whose tokens are
less likely there than most are opened (`unlikely_lines`). Spans that fit a canvas together settle together, window by window
(pinned.py); what was edited before is what the next window reads. Each span is tried at about half its length, at its
length and half as long again.

A chat-tuned model is given instruction and document as a user's turn and writes the document as its own; any other model
reads the instruction as a comment above the text, and owes it nothing: a base model fills the spans with what is likely there.

The model reads plain line ends; places and texts that are told are those of the document as it is.

Trap: only spans are ever replaced in the document, by their places; no text that was decoded stands anywhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from ..config import DenoiseConfig
from ..engine.engine import by_turns
from ..engine.requests import Request, Result, whole
from ..engine.runner import Runner
from ..errors import UsageError
from ..text.lines import PlainView, split_lines
from ..text.tokenizer import Tokenizer
from .chat import prompt_ids
from .events import Change, Draft, Edit
from .generate import Stopwatch, summary
from .infill import context_tokens, default_widths
from .pinned import LEAD, Settled, hold_back, lay_out, log_probs, settle

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
    engine: Runner, tokenizer: Tokenizer, document: str, instruction: str | None, spans: Sequence[Span] | None, *,
    chat: bool, config: DenoiseConfig, seed: int, context: int | None,
) -> Plan:  # fmt: skip
    """Check an edit, and find its spans where none are given. chat: the model is chat-tuned. Raises UsageError, ResourceError."""
    if not document.strip():
        raise UsageError("the document is empty; there is nothing to edit")
    if instruction is None and spans is None:
        raise UsageError("say what to change: give an instruction, spans, or both")
    if instruction is not None and not instruction.strip():
        raise UsageError("the instruction is empty; say what to change, or leave it out and give spans")
    model, special = engine.model.config, tokenizer.special
    canvas = config.canvas_width or model.canvas_length
    tokens, asked = context_tokens(canvas, context), [] if spans is None else _in_order(spans, len(document))
    view = PlainView(document)
    document = view.text
    asked = [(view.to_plain(start), view.to_plain(end)) for start, end in asked]
    head, end = [special.need("bos")], special.need("eos")
    if instruction is not None and chat:
        message = {"role": "user", "content": f"{instruction}\n{document}"}
        head, end = prompt_ids(tokenizer, [message], None, False), special.need("end_turn")
        tokens = tokens if context is not None else model.max_position_embeddings
    elif instruction is not None:
        head += tokenizer.encode("".join(f"# {line}\n" for line in instruction.strip().splitlines()))
    whole_text = (
        *head,
        *(tokenizer.encode(document)[:tokens] if spans is not None else tokenizer.encode(document)),
    )
    engine.check(Request(whole_text, canvas, seed, config))  # no window's prompt is longer
    if spans is None:
        asked = by_turns(engine, unlikely_lines(engine, tokenizer, document, head))
    return Plan(view, asked, head, end, tokens, canvas, config, seed)


def _in_order(spans: Sequence[Span], length: int) -> list[Span]:
    """Spans sorted, those that touch as one. Raises UsageError for one that is no range of the document, or overlaps another."""
    if not isinstance(spans, list | tuple) or not spans:
        raise UsageError(f"spans is {spans!r}; give a list of (start, end) in characters")
    for span in spans:
        pair = isinstance(span, list | tuple) and len(span) == 2 and all(map(whole, span))
        if not pair or not 0 <= span[0] <= span[1] <= length:
            raise UsageError(f"spans holds {span!r}; each is (start, end) in characters, from 0 to {length}")
    found: list[Span] = []
    for start, end in sorted((start, end) for start, end in spans):
        if found and start < found[-1][1]:
            raise UsageError(f"the spans {found[-1]} and {(start, end)} overlap; join them")
        if found and start == found[-1][1]:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def unlikely_lines(
    engine: Runner, tokenizer: Tokenizer, document: str, head: Sequence[int]
) -> Generator[None, None, list[Span]]:
    """The lines that the model would not have written here, neighbours as one span, without the last one's end.

    A line's figure is the mean of -ln p, in nats, of the tokens that begin in it, read by the causal pass behind `head`. Opened is what
    lies more than one standard deviation above the mean of the lines that are not blank, and the least likely of them in any case.
    """
    ids, lines = tokenizer.encode(document), split_lines(document)
    (told,) = yield from log_probs(engine, head, [ids])
    nats = -told.double().cpu()
    sizes = [len(tokenizer.token_bytes(token)) for token in ids]
    spare = sum(sizes) - len(document.encode())  # a space that some tokenizers put in front
    begins = torch.tensor([0, *accumulate(sizes)][:-1]) - spare
    ends = torch.tensor([*accumulate(len(line.encode()) for line in lines)])
    line_of = torch.searchsorted(ends, begins.clamp(0, int(ends[-1]) - 1), right=True)
    count = torch.bincount(line_of, minlength=len(lines))
    mean = torch.bincount(line_of, nats, len(lines)) / count.clamp_min(1)
    judged = torch.tensor([bool(line.strip()) for line in lines]) & (count > 0)
    if not judged.any():  # a token that spans all there is
        judged = torch.tensor([bool(line.strip()) for line in lines])
    limit = mean[judged].mean() + mean[judged].std(correction=0)
    opened = judged & ((mean > limit) | (mean == mean[judged].max()))
    starts = [0, *accumulate(map(len, lines))]
    found: list[tuple[int, int]] = []
    for number in opened.nonzero()[:, 0].tolist():
        start, end = starts[number], starts[number] + len(lines[number].removesuffix("\n"))
        if found and start == found[-1][1] + 1:
            start, _ = found.pop()
        found.append((start, end))
    return found


def widths_of(tokens: int, canvas: int) -> list[int]:
    """Cells to try for a span of so many tokens: shorter, as long (and one to close it), longer."""
    if not tokens:
        widths = default_widths(canvas)
        return [*widths, *[widths[-1]] * (3 - len(widths))]  # as many rows as any other span has
    return [(tokens + 1) // 2, tokens + 1, tokens + max(4, tokens // 2)]


def stream(engine: Runner, tokenizer: Tokenizer, plan: Plan) -> Iterator[Draft | Change | Edit]:
    """Window by window: Drafts of every row, a Change for each span of a window that has settled, the Edit last."""
    for event in _settle_windows(engine, tokenizer, plan):
        if isinstance(event, Change):
            yield _change_as_written(plan.view, event)
        elif isinstance(event, Edit):
            yield _edit_as_written(plan.view, event)
        else:
            yield event


def _change_as_written(view: PlainView, change: Change) -> Change:
    """A change of the plain text as one of the original."""
    start, end = view.to_original(change.start), view.to_original(change.end)
    before = view.original[start:end]
    after = before if change.after == change.before else view.written(change.after)
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


def _settle_windows(engine: Runner, tokenizer: Tokenizer, plan: Plan) -> Iterator[Draft | Change | Edit]:
    """`stream` of the plain text."""
    clock, result, notes = Stopwatch(), Result(finish_reason="stop"), []
    changes: list[Change] = []
    text, place, first = "", 0, None  # the edited document so far, and up to where the document is in it
    for number, (spans, widths) in enumerate(_windows(tokenizer, plan)):
        text += plan.document[place : spans[0][0]]
        between = [plan.document[one[1] : other[0]] for one, other in pairwise(spans)]
        window = lay_out(
            tokenizer, [text, *between, plan.document[spans[-1][1] :]], widths, head=plan.head, context=plan.context,
            end=plan.end, canvas=plan.canvas, config=plan.config, seed=(plan.seed + number) % 2**63,
        )  # fmt: skip
        won, canvases = None, len(result.steps)
        for event in settle(engine, tokenizer, window, clock):
            if isinstance(event, Draft):
                yield event.of_canvas(canvases + event.canvas)
            else:
                won = event
        assert isinstance(won, Settled)
        for span, after, closed, given in zip(spans, won.texts, won.closed, [*between, ""], strict=True):
            changes.append(Change(*span, plan.document[slice(*span)], after, closed, won.row))
            yield changes[-1]
            text += after + given
        place, first = spans[-1][1], first or won.request
        result.token_ids += won.token_ids
        result.steps += won.steps
        result.finish_reason = result.finish_reason if all(won.closed) else "length"
        notes += [note for note in won.notes if note not in notes]
    text += plan.document[place:]
    assert first is not None
    yield Edit(plan.document, text, changes, summary(text, result, first, clock, notes))


def _windows(tokenizer: Tokenizer, plan: Plan) -> Iterator[tuple[list[Span], list[list[int]]]]:
    """The spans that settle together, and the widths of each: as many as fit a canvas between a start and an end of given text."""
    room = plan.canvas - 2 * (plan.canvas // LEAD)
    spans: list[Span] = []
    widths: list[list[int]] = []
    used = 0
    for start, end in plan.spans:
        _, held = hold_back(plan.document[spans[-1][1] if spans else 0 : start])
        own = widths_of(
            len(tokenizer.encode(held + plan.document[start:end])) if end > start else 0, plan.canvas
        )
        given = len(tokenizer.encode(plan.document[spans[-1][1] : start])) if spans else 0
        if spans and used + given + max(own) > room:
            yield spans, widths
            spans, widths, used, given = [], [], 0, 0
        spans, widths, used = [*spans, (start, end)], [*widths, own], used + given + max(own)
    if spans:
        yield spans, widths
