"""One turn of a chat: messages to ids, the answer's ids split into thought, content and tool calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..text.calls import ToolCall, parse_call
from ..text.channels import ChannelSplitter, Span, split
from ..text.stream import StreamDecoder
from ..text.tokenizer import Tokenizer
from ..text.turns import render
from .events import Generation, Reply


def prompt_ids(
    tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None, thinking: bool
) -> list[int]:
    """The conversation as the model reads it, with the turn it is to write opened."""
    return render(messages, tokenizer, tools=tools, thinking=thinking)


def turn_starts(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    """The places in a prompt where a turn begins: from there on a conversation may be edited, or told in another way."""
    return tuple(place for place, token in enumerate(ids) if token == tokenizer.special.turn)


def reply(tokenizer: Tokenizer, generation: Generation) -> Reply:
    """Split a finished answer by the ids of its control tokens, never by its text."""
    parts = split(generation.token_ids, tokenizer)
    content = parts.content if generation.stop is None else parts.content.partition(generation.stop)[0]
    return Reply(content, parts.thought, parts.tool_calls, parts.malformed, generation)


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a model turn here: end of text, end of turn, and a tool's turn to speak."""
    special = tokenizer.special
    return tuple(i for i in (special.eos, special.end_turn, special.tool_response) if i is not None)


class Voices:
    """Splits the ids of a turn into (channel, text) parts as canvases are committed; whole characters only.

    Tool calls are no text: those that were read so far stand in `calls`, in the order written.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._splitter = tokenizer, ChannelSplitter(tokenizer)
        self._decoders = {channel: StreamDecoder(tokenizer) for channel in ("thought", "content")}
        self.calls: list[ToolCall] = []

    def feed(self, ids: Sequence[int]) -> list[tuple[str, str]]:
        """The parts that are certain after these ids."""
        return list(self._parts(self._splitter.feed(ids)))

    def finish(self) -> list[tuple[str, str]]:
        """What was held back until now."""
        parts = list(self._parts(self._splitter.finish()))
        return parts + [(channel, text) for channel, decoder in self._decoders.items() if (text := decoder.flush())]

    def _parts(self, spans: Sequence[Span]) -> Iterator[tuple[str, str]]:
        for span in spans:
            if span.channel == "tool_call":
                self.calls += [call] if (call := parse_call(span.ids, self._tokenizer)) else []
            elif text := self._decoders[span.channel].feed(span.ids):
                yield span.channel, text
