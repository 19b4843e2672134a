"""A chat turn as dialects tell it: what became certain with each event, in order, and the result's figures.

Knows no dialect. Trap: parts come from the ids, never from the text (tasks/chat.py); calls come behind the
text of their canvas.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from ...tasks.events import Committed, Generation
from ...tasks.output_parser import OutputParser
from ...tasks.resolve import response_format_params
from ...text.calls import ToolCall
from ...text.channels import ChannelSplitter
from ..routes import ServedModel

Part = tuple[str, Any]  # ("thought", text), ("content", text) or ("tool_call", ToolCall)


class Remarks(msgspec.Struct):
    """What we have to say of one answer beside a dialect's own fields."""

    seed: int
    notes: list[str]


class Turn:
    """One answer of the model."""

    def __init__(self, service: ServedModel):
        self.tokenizer = service.model.tokenizer
        self.parser = OutputParser(self.tokenizer)
        self.calls_given = 0  # those that `take` has yielded
        self.result: Generation  # the answer's end, there once `take` has seen it

    def take(self, event: Any) -> Iterator[Part]:
        """The parts that an event makes certain."""
        if isinstance(event, Committed):
            self.parser.feed(event.token_ids)  # for its calls
            yield from event.parts
        elif isinstance(event, Generation):
            self.parser.finish()
            self.result = event
            if self.parser.unread:
                event.notes.append("a tool call could not be read and was left out")
        for call in self.parser.calls[self.calls_given :]:
            yield "tool_call", call
        self.calls_given = len(self.parser.calls)

    @property
    def thought_tokens(self) -> int:
        splitter = ChannelSplitter(self.tokenizer)
        spans = [*splitter.feed(self.result.token_ids), *splitter.finish()]
        return sum(len(span.ids) for span in spans if span.channel == "thought")

    def notes(self) -> Remarks:
        return Remarks(self.result.seed, self.result.notes)


def arguments_of(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)


def new_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:24]


def drawn(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(62)
    return seed


def constraint_from_format(given: Any) -> dict[str, Any]:
    """The form of an answer, from {"type": "json_schema", "schema": ...} or {"type": "json_object"}.

    Raises UsageError.
    """
    if isinstance(given, dict):
        return response_format_params(given | {"json_schema": {"schema": given.get("schema")}})
    return response_format_params(given or None)
