"""What of an answer's ids may be shown, as they come: thought and content apart, whole characters only, nothing of a stop string.

Fed the ids of committed canvases in any portions; the parts put together are the answer. Stop strings are looked for in the content
alone, across canvases too, and what could be the beginning of one waits.
Trap: of an answer that a stop string cut, the ids go on to the token that completed it; its text does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..text.calls import ToolCall, parse_call
from ..text.channels import ChannelSplitter, Span
from ..text.stream import StopFinder, StreamDecoder
from ..text.tokenizer import Tokenizer

Part = tuple[str, str]  # "thought" or "content", and its text


class Voices:
    """Splits ids into parts; `stop` is the stop string that ended the answer, once one did. Without channels all is content.

    settles: whoever feeds them will settle a call that cannot be read once more, so that nothing behind it is told.
    one_call: the answer ends behind the first call that can be read.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str] = (), channels: bool = True, settles: bool = False, one_call: bool = False
    ):  # fmt: skip
        self._splitter = ChannelSplitter(tokenizer) if channels else None
        self._decoders = {channel: StreamDecoder(tokenizer) for channel in ("thought", "content")}
        self._finder = StopFinder(stops)
        self._tokenizer = tokenizer
        self._settles, self._one_call = settles, one_call
        self._opener = 0  # where the last call begins
        self._read_characters = self._told = 0  # of the content: decoded, and given out
        self._untold: list[
            tuple[int, int, int]
        ] = []  # tokens of the content: place, and where their text starts and ends
        self.starts: dict[
            int, int
        ] = {}  # of the tokens whose text was given out, by place: the characters of content before
        self.taken = 0  # ids that belong to the answer so far
        self.calls: list[ToolCall] = []  # those that can be read, in the order written
        self.unread = 0  # those that cannot, where they are told
        self.resettled = 0  # how often a call was settled again
        self.broken: int | None = None  # the place of a call that cannot be read; nothing behind it is told

    @property
    def stop(self) -> str | None:
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
        """The parts that are certain after these ids; tool calls are left to the reply. Behind the end there are none."""
        parts: list[Part] = []
        for token in ids:
            if self.ended or self.broken is not None:
                break
            if token == self._tokenizer.special.tool_call:
                self._opener = self.taken
            self.taken += 1
            spans = [Span("content", [token])] if self._splitter is None else self._splitter.feed([token])
            for channel, text in self._read(spans):
                if parts and parts[-1][0] == channel:
                    parts[-1] = channel, parts[-1][1] + text
                else:
                    parts.append((channel, text))
        return parts

    def again(self, last: bool) -> None:
        """Go back to behind the opening of the call that cannot be read. last: the next one is told however it comes."""
        opener, self.broken, self._settles = self.broken, None, not last
        if self._splitter is not None and opener is not None:
            self._splitter = ChannelSplitter(self._tokenizer)
            self.taken = opener
            self.feed([self._tokenizer.special.need("tool_call")])

    def finish(self) -> list[Part]:
        """What was held back until now."""
        parts: list[Part] = self._read(self._splitter.finish()) if self._splitter is not None else []
        if self.broken is not None:
            return parts
        for channel, decoder in self._decoders.items():
            parts.append((channel, self._passed(channel, decoder.flush())))
        parts.append(("content", self._given(self._finder.flush())))
        return [part for part in parts if part[1]]

    def told(self) -> list[int]:
        """The places of the content's tokens that were given out whole since this was last asked; one that a stop string cuts never is."""
        count = next((n for n, (_, _, end) in enumerate(self._untold) if end > self._told), len(self._untold))
        told, self._untold = self._untold[:count], self._untold[count:]
        self.starts.update((place, start) for place, start, _ in told)
        return [place for place, _, _ in told]

    def _read(self, spans: Sequence[Span]) -> list[Part]:
        parts: list[Part] = []
        for span in spans:
            if span.channel == "tool_call":
                if call := parse_call(span.ids, self._tokenizer):
                    self.calls.append(call)
                elif self._settles:
                    self.broken = self._opener
                    break
                else:
                    self.unread += 1
            else:
                text = self._decoders[span.channel].feed(span.ids)
                if span.channel == "content" and not self._tokenizer.control_ids.issuperset(span.ids):
                    # a token that brings no whole character waits for the next one
                    start = self._read_characters
                    self._untold.append((self.taken - 1, start, start + max(1, len(text))))
                if text := self._passed(span.channel, text):
                    parts.append((span.channel, text))
        return parts

    def _passed(self, channel: str, text: str) -> str:
        if channel != "content":
            return text
        self._read_characters += len(text)
        return self._given(self._finder.feed(text))

    def _given(self, text: str) -> str:
        self._told += len(text)
        return text
