"""What a model learns from, one piece at a time: token ids, and which of them the model itself would write.

A conversation is laid out exactly as a prompt is (text/turns.py), so that what is trained is what is served.
The model writes its own turns, calls included, but not the results of tools that stand between them. Of a
text without turns it writes everything.

Trap: the token that ends a piece of the model's writing (the end of its turn, the opening of a tool's result)
belongs to the piece. Without it a model never learns to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import UsageError
from ..tasks.pinned import hold_back
from ..text.tokenizer import Tokenizer
from ..text.turns import render

Span = tuple[int, int]  # places in `ids`, end excluded


@dataclass(frozen=True)
class Sample:
    """One training example.

    `ids` open with <bos>; `written` are the spans of the model's own writing, in order.
    """

    ids: list[int]
    written: list[Span]
    gaps: bool = False  # a document to fill: most of its canvases keep a beginning and an end
    gap: Span | None = None  # the place of `ids` to open first of all


class Source(Protocol):
    """Unlimited examples.

    The same (seed, number) gives the same example, so that a run can go on anywhere.
    """

    @property
    def fingerprint(self) -> str:
        """Tells one source from another."""

    @property
    def converses(self) -> bool:
        """Whether there are conversations among them."""

    def sample(self, seed: int, number: int) -> Sample: ...


def conversation(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, tokenizer: Tokenizer
) -> Sample:
    """A conversation that the model answers. Raises UsageError where it has no turn of the model."""
    ids = render(messages, tokenizer, tools=tools, add_generation_prompt=False)
    written = spans_of_model(ids, tokenizer)
    if not written:
        raise UsageError("a conversation to learn from needs a turn of the assistant")
    return Sample(ids[: written[-1][1]], written)


def document(text: str, tokenizer: Tokenizer, gap: Span | None = None) -> Sample:
    """A text by itself, all of which the model writes; it closes with the end of text.

    gap: characters to open. Its first token swallows what it would swallow at inference (tasks/pinned.py).
    """
    special = tokenizer.special
    body = tokenizer.encode(text)
    ids = [special.need("bos"), *body, special.need("eos")]
    place = None
    if gap is not None:
        place = _place(body, text, gap, tokenizer)
    return Sample(ids, [(1, len(ids))], gaps=True, gap=place)


def _place(body: list[int], text: str, gap: Span, tokenizer: Tokenizer) -> Span | None:
    """The tokens of a gap, behind <bos>; None where they would not be cut there."""
    before = tokenizer.encode(hold_back(text[: gap[0]])[0])
    after = tokenizer.encode(text[gap[1] :])
    end = len(body) - len(after)
    if body[: len(before)] != before or body[end:] != after or len(before) > end:
        return None
    return 1 + len(before), 1 + end


def spans_of_model(ids: Sequence[int], tokenizer: Tokenizer) -> list[Span]:
    """Where the model's turns stand in a rendered conversation, without the results of tools."""
    special = tokenizer.special
    opening = [special.need("turn"), *tokenizer.encode("model\n")]
    spans: list[Span] = []
    place = 0
    while place < len(ids):
        if list(ids[place : place + len(opening)]) != opening:
            place += 1
            continue
        place += len(opening)
        end = _index(ids, special.need("end_turn"), place)
        spans += _pieces(ids, place, end, tokenizer)
        place = end
    return spans


def _pieces(ids: Sequence[int], start: int, end: int, tokenizer: Tokenizer) -> list[Span]:
    """The parts of one turn [start, end) that the model wrote, cut at the results of tools."""
    response = tokenizer.special.tool_response
    closing = tokenizer.special.end_tool_response
    spans: list[Span] = []
    for place in range(start, end):
        if ids[place] == response:
            spans.append((start, place + 1))
        elif ids[place] == closing:
            start = place + 1
    spans.append((start, end))
    return [span for span in spans if span[0] < span[1] and not _follows_result(ids, span, response)]


def _follows_result(ids: Sequence[int], span: Span, response: int | None) -> bool:
    """Whether a piece is no more than another result's opening: two results stand behind each other."""
    return span[1] - span[0] == 1 and ids[span[0]] == response


def _index(ids: Sequence[int], token: int, start: int) -> int:
    """The place behind the first `token` from `start` on, or the end."""
    for place in range(start, len(ids)):
        if ids[place] == token:
            return place + 1
    return len(ids)
