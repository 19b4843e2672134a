"""A chat turn as dialects tell it: what became certain with each event, in order, and the result's figures.

Knows no dialect. Trap: parts come from the ids, never from the text (tasks/chat.py); calls are told behind the text of their canvas.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from ...tasks.events import Committed, Generation
from ...tasks.terms import form_asked
from ...tasks.voices import Voices
from ...text.calls import ToolCall
from ...text.channels import ChannelSplitter
from ..app import Service

Part = tuple[str, Any]  # ("thought", text), ("content", text) or ("tool_call", ToolCall)


class Remarks(msgspec.Struct):
    """What we have to say of one answer beside a dialect's own fields."""

    seed: int
    notes: list[str]


class Turn:
    """One answer of the model."""

    def __init__(self, service: Service):
        self.tokenizer = service.model.tokenizer
        self.voices, self.told = Voices(self.tokenizer), 0
        self.result: Generation  # the answer's end, there once `take` has seen it

    def take(self, event: Any) -> Iterator[Part]:
        """The parts that an event makes certain."""
        if isinstance(event, Committed):
            self.voices.feed(event.token_ids)  # for its calls
            yield from event.parts
        elif isinstance(event, Generation):
            self.voices.finish()
            self.result = event
            if self.voices.unread:
                event.notes.append("a tool call could not be read and was left out")
        for call in self.voices.calls[self.told :]:
            yield "tool_call", call
        self.told = len(self.voices.calls)

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
    return secrets.randbits(62) if seed is None else seed


def form_of(given: Any) -> dict[str, Any]:
    """The form of an answer, from {"type": "json_schema", "schema": ...} or {"type": "json_object"}. Raises UsageError."""
    return form_asked(
        given | {"json_schema": {"schema": given.get("schema")}} if isinstance(given, dict) else given or None
    )
