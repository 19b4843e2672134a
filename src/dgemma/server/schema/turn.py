"""A chat turn as dialects tell it: what became certain with each event, in order, and the result's figures.

Knows no dialect. Trap: parts come from the ids, never from the text (tasks/chat.py); calls are told behind the text of their canvas.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ...tasks.events import Committed, Generation
from ...tasks.terms import form_asked
from ...tasks.voices import Voices
from ...text.calls import ToolCall
from ...text.channels import ChannelSplitter
from ..app import Service
from ..jobs import Refusal
from .sampling import unserved

Part = tuple[str, Any]  # ("thought", text), ("content", text) or ("tool_call", ToolCall)


class Remarks(msgspec.Struct):
    """What we have to say of one answer beside a dialect's own fields."""

    seed: int
    notes: list[str]


class Turn:
    """One answer of the model. `one_call`: what it calls after the first is not told, and a note says so."""

    def __init__(self, service: Service, one_call: bool = False):
        self.tokenizer, self.one_call = service.model.tokenizer, one_call
        self.voices, self.told = Voices(self.tokenizer), 0
        self.result: Generation | None = None

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
            if self.one_call and len(self.voices.calls) > 1:
                event.notes.append("one call at a time was asked for; further ones were left out")
        calls = self.voices.calls[: 1 if self.one_call else None]
        for call in calls[self.told :]:
            yield "tool_call", call
        self.told = len(calls)

    @property
    def thought_tokens(self) -> int:
        splitter = ChannelSplitter(self.tokenizer)
        spans = [*splitter.feed(self.result.token_ids), *splitter.finish()]
        return sum(len(span.ids) for span in spans if span.channel == "thought")

    def notes(self) -> Remarks:
        return Remarks(self.result.seed, self.result.notes)


def arguments_of(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)


def forced(name: Any) -> dict[str, Any]:
    """A choice of one tool, in the shape that api.Model takes. Raises Refusal where none is named."""
    if not isinstance(name, str):
        raise unserved("tool_choice")
    return {"type": "function", "function": {"name": name}}


def new_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:24]


def drawn(seed: int | None) -> int:
    return secrets.randbits(62) if seed is None else seed


def form_of(given: Any) -> dict[str, Any]:
    """The form of an answer, from {"type": "json_schema", "schema": ...} or {"type": "json_object"}. Raises UsageError."""
    return form_asked(given | {"json_schema": {"schema": given.get("schema")}} if isinstance(given, dict) else given or None)


def joined(content: Any, kinds: Iterable[str], where: str) -> str:
    """The text of a content that is a text, or a list of parts of these kinds. Raises Refusal for another kind, by its name."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind not in kinds or not isinstance(part.get("text"), str):
            raise Refusal(400, f"{where}: content of type {kind!r:.40} cannot be read; only text can", parameter=where)
        texts.append(part["text"])
    return "\n".join(texts)
