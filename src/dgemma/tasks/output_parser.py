"""What of an answer's ids may be shown, as they come.

Thought and content are kept apart; only whole characters are given out, and nothing of a stop string.

The parser is fed the ids of committed canvases in any portions; the parts put together are the answer. Stop
strings are looked for in the content alone, across canvases too; what could be the beginning of one waits.

Trap: of an answer that a stop string cut, the ids go on to the token that completed it; its text does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..text.calls import ToolCall, parse_call
from ..text.channels import ChannelSplitter, Span
from ..text.stream import StopFinder, StreamDecoder
from ..text.tokenizer import Tokenizer

Part = tuple[str, str]  # "thought" or "content", and its text


@dataclass(frozen=True)
class _TokenText:
    """Where a token's text stands in the content, in characters."""

    place: int  # of the token, among the answer's ids
    start: int
    end: int


class OutputParser:
    """Splits ids into parts. Without channels all is content.

    settles: a call that cannot be read will be settled once more, so nothing behind it is given out.
    one_call: the answer ends behind the first call that can be read.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        channels: bool = True,
        settles: bool = False,
        one_call: bool = False,
    ):
        self._splitter = None
        if channels:
            self._splitter = ChannelSplitter(tokenizer)
        self._decoders = {channel: StreamDecoder(tokenizer) for channel in ("thought", "content")}
        self._finder = StopFinder(stops)
        self._tokenizer = tokenizer
        self._settles = settles
        self._one_call = one_call
        self._opener = 0  # where the last call begins
        self._decoded = 0  # characters of the content
        self._given_out = 0  # of these
        self._waiting: list[_TokenText] = []  # tokens of the content that are not given out whole
        self.starts: dict[int, int] = {}  # by place of a token given out: the characters of content before it
        self.taken = 0  # ids that belong to the answer so far
        self.calls: list[ToolCall] = []  # those that can be read, in the order written
        self.unread = 0  # calls that cannot be read, and are not settled again
        self.broken: int | None = (
            None  # the place of a call that cannot be read; nothing behind it is given out
        )

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer, once one did."""
        return self._finder.hit

    @property
    def ended(self) -> bool:
        """Whether nothing that follows belongs to the answer."""
        return self.stop is not None or (self._one_call and bool(self.calls))

    @property
    def spoke(self) -> bool:
        """Whether there was any call: an answer without text that has one is not empty."""
        return bool(self.calls or self.unread)

    def feed(self, ids: Iterable[int]) -> list[Part]:
        """The parts that are certain after these ids; tool calls are left to the reply.

        Behind the end there are none.
        """
        parts: list[Part] = []
        for token in ids:
            if self.ended or self.broken is not None:
                break
            if token == self._tokenizer.special.tool_call:
                self._opener = self.taken
            self.taken += 1
            for channel, text in self._read(self._spans(token)):
                if parts and parts[-1][0] == channel:
                    parts[-1] = (channel, parts[-1][1] + text)
                else:
                    parts.append((channel, text))
        return parts

    def again(self, last: bool) -> None:
        """Go back to behind the opening of the call that cannot be read. last: the next one is kept however
        it comes.
        """
        opener = self.broken
        self.broken = None
        self._settles = not last
        if self._splitter is not None and opener is not None:
            self._splitter = ChannelSplitter(self._tokenizer)
            self.taken = opener
            self.feed([self._tokenizer.special.need("tool_call")])

    def finish(self) -> list[Part]:
        """What was held back until now."""
        parts: list[Part] = []
        if self._splitter is not None:
            parts = self._read(self._splitter.finish())
        if self.broken is not None:
            return parts
        for channel, decoder in self._decoders.items():
            parts.append((channel, self._passed(channel, decoder.flush())))
        parts.append(("content", self._give_out(self._finder.flush())))
        return [part for part in parts if part[1]]

    def shown_places(self) -> list[int]:
        """The places of the content's tokens that were given out whole since the last call.

        A token that a stop string cuts is never among them.
        """
        shown: list[int] = []
        for token in self._waiting:
            if token.end > self._given_out:
                break
            self.starts[token.place] = token.start
            shown.append(token.place)
        del self._waiting[: len(shown)]
        return shown

    def _spans(self, token: int) -> Sequence[Span]:
        if self._splitter is None:
            return [Span("content", [token])]
        return self._splitter.feed([token])

    def _read(self, spans: Sequence[Span]) -> list[Part]:
        parts: list[Part] = []
        for span in spans:
            if span.channel == "tool_call":
                self._read_call(span)
                if self.broken is not None:
                    break
                continue
            text = self._decoders[span.channel].feed(span.ids)
            if span.channel == "content" and not self._tokenizer.control_ids.issuperset(span.ids):
                # a token that brings no whole character waits for the next one
                end = self._decoded + max(1, len(text))
                self._waiting.append(_TokenText(self.taken - 1, self._decoded, end))
            if text := self._passed(span.channel, text):
                parts.append((span.channel, text))
        return parts

    def _read_call(self, span: Span) -> None:
        if call := parse_call(span.ids, self._tokenizer):
            self.calls.append(call)
        elif self._settles:
            self.broken = self._opener
        else:
            self.unread += 1

    def _passed(self, channel: str, text: str) -> str:
        """What of a channel's new text may be shown now."""
        if channel != "content":
            return text
        self._decoded += len(text)
        return self._give_out(self._finder.feed(text))

    def _give_out(self, text: str) -> str:
        self._given_out += len(text)
        return text
