"""What the model wrote, split into thought, content and tool calls: by control ids, never by text.

Refuses to know when generation stops; it only drops what stands after an end token. Works on ids in any
portions, because one canvas can bring a thought, a call and an answer at once, and another can end in the
middle of each.

Trap: a channel opens with its name and a newline ("thought\\n"), which belongs to neither thought nor
content, and may be cut anywhere; its ids are held back until the newline is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .calls import ToolCall, parse_call
from .tokenizer import Tokenizer

Channel = Literal["thought", "content", "tool_call"]

_CHANNEL_NAME = re.compile(r"[A-Za-z_]{0,32}")


class Span(NamedTuple):
    """Ids of one channel, in the order written. A `tool_call` span is one whole call (see parse_call)."""

    channel: Channel
    ids: list[int]


@dataclass(frozen=True)
class Parts:
    """A reply, split. `malformed` holds the text of calls that could not be read; it is never part of
    `content`.
    """

    thought: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)


def split(ids: Sequence[int], tokenizer: Tokenizer) -> Parts:
    """Split a whole reply. A thought that was not closed is a thought, a call that was cut is malformed."""
    splitter = ChannelSplitter(tokenizer)
    spans = splitter.feed(ids) + splitter.finish()
    ids_of: dict[str, list[int]] = {"thought": [], "content": []}
    calls: list[ToolCall] = []
    malformed: list[str] = []
    for span in spans:
        if span.channel != "tool_call":
            ids_of[span.channel] += span.ids
        elif call := parse_call(span.ids, tokenizer):
            calls.append(call)
        else:
            malformed.append(tokenizer.decode(span.ids, skip_special=False))
    thought = tokenizer.decode(ids_of["thought"]).strip("\n")
    return Parts(thought, tokenizer.decode(ids_of["content"]), calls, malformed)


class ChannelSplitter:
    """Splits ids as they come.

    All spans of `feed`, then `finish`, are the reply, however it was portioned.
    """

    def __init__(self, tokenizer: Tokenizer):
        special = tokenizer.special
        self._tokenizer = tokenizer
        self._special = special
        self._ends = {special.eos, special.end_turn, special.tool_response, special.turn} - {None}
        self._dropped = {special.pad, special.bos}
        self._channel: Channel = "content"
        self._held: list[int] | None = None  # the ids of a call so far, or of a channel's name
        self.ended = False  # an end token was seen; what follows is padding

    def feed(self, ids: Iterable[int]) -> list[Span]:
        """The spans that are certain after these ids. A call appears when it is closed."""
        spans: list[Span] = []
        for token_id in ids:
            if self.ended:
                break
            self._take(token_id, spans)
        return spans

    def finish(self) -> list[Span]:
        """What was still held back: an unclosed call, or the start of a thought.

        Nothing can be fed after it.
        """
        spans: list[Span] = []
        self._leave(spans)
        self.ended = True
        return spans

    def _take(self, token_id: int, spans: list[Span]) -> None:
        special = self._special
        if self._channel == "tool_call":
            closing = special.end_tool_call
        else:
            closing = special.end_channel
        if token_id in self._ends:
            self._leave(spans)
            self.ended = True
        elif token_id == special.channel:
            self._enter("thought", spans)
        elif token_id == special.tool_call:
            self._enter("tool_call", spans)
        elif token_id == closing:
            self._leave(spans)
        elif token_id in self._dropped:
            return
        elif self._channel == "tool_call" and self._held is not None:
            self._held.append(token_id)
        elif token_id in self._tokenizer.control_ids:
            return
        elif self._held is not None:
            self._name([*self._held, token_id], spans)
        else:
            self._emit(spans, [token_id])

    def _enter(self, channel: Channel, spans: list[Span]) -> None:
        """Open a channel. One that is still open ends here: control tokens do not nest."""
        self._leave(spans)
        self._channel = channel
        self._held = []

    def _leave(self, spans: list[Span]) -> None:
        """Back to content; what is held goes out, except the name of a channel."""
        held = self._held
        if held is not None:
            begun = self._tokenizer.decode(held).strip()
            if self._channel == "tool_call" or not "thought".startswith(begun):
                self._emit(spans, held)
        self._channel = "content"
        self._held = None

    def _name(self, held: list[int], spans: list[Span]) -> None:
        """Hold the first line of a channel; drop it if it is a name, give it out if it is something else."""
        name, newline, rest = self._tokenizer.decode(held).partition("\n")
        is_name = _CHANNEL_NAME.fullmatch(name.strip())
        if is_name and not newline:
            self._held = held
            return
        self._held = None
        if not is_name:
            self._emit(spans, held)
        elif rest.strip():
            self._emit(spans, held[-1:])  # one token holds the newline and more: better a newline too many

    def _emit(self, spans: list[Span], ids: list[int]) -> None:
        if self._channel != "tool_call" and spans and spans[-1].channel == self._channel:
            spans[-1].ids.extend(ids)
        else:
            spans.append(Span(self._channel, list(ids)))
