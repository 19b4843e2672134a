"""OpenAI's answers: chat completions and completions, whole and as chunks of a stream, and the body of an
error.

Text is streamed canvas by canvas, because a token may change until its canvas is committed. With `diffusing`
each draft is sent too: `delta.content` (`text`) is then the whole answer so far, to be put in place of what
was shown before. The task decides what may be shown of committed ids (tasks/output_parser.py). Trap: drafts
go the same way, or they would show what a stop string cuts.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ...tasks.chat import OutputParser, reply
from ...tasks.events import Committed, Draft, Filling, Generation, TokenLogProbs
from ...text.calls import ToolCall
from ...text.stream import cut_at_stop
from .. import sse
from ..jobs import RequestError
from ..routes import ServedModel
from .logprobs import ChatLogProbs, CompletionLogProbs, of_chat, of_completion
from .usage import Usage, usage_of


class Message(msgspec.Struct, omit_defaults=True):
    role: str
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(msgspec.Struct):
    index: int
    message: Message
    finish_reason: str
    logprobs: ChatLogProbs | None = None


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    finish_reason: str
    logprobs: CompletionLogProbs | None = None


class Extras(msgspec.Struct):
    """What we have to say beside OpenAI's fields."""

    seeds: list[int]  # of each choice
    notes: list[str]


class ChatReply(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    dgemma: Extras
    object: str = "chat.completion"


class CompletionReply(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    dgemma: Extras
    object: str = "text_completion"


def shape(error: RequestError) -> dict[str, Any]:
    """An error's body."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.parameter,
            "code": str(error.status),
        }
    }


@dataclass(frozen=True)
class AnswerOptions:
    """What a request asks of how it is answered."""

    stops: list[str]
    wants_logprobs: bool
    top_logprobs: int  # alternatives of each token
    diffusing: bool  # send drafts too
    include_usage: bool  # in a stream


class _Answer:
    """What both kinds share: the envelope, the results so far, usage."""

    media = sse.MEDIA
    kind = ""  # of a chunk: its `object`
    prefix = ""  # of ids
    channels = True
    shared = 1  # choices of one prompt

    def __init__(self, service: ServedModel, options: AnswerOptions, count: int):
        self.model = service.config.name
        self.tokenizer = service.model.tokenizer
        self.id = f"{self.prefix}{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.options = options
        self.count = count  # of the choices
        self.endings: dict[int, Generation] = {}  # by choice, in the order in which they end
        self.ids: list[list[int]] = [[] for _ in range(count)]  # committed
        self.committed = [""] * count  # the content so far
        self.drafts = [""] * count  # sent last
        self.logprobs: list[list[TokenLogProbs]] = [[] for _ in range(count)]
        self.watched = options.diffusing

    @property
    def results(self) -> list[Generation]:
        """Every choice's, in the order of the choices; asked for once all have ended."""
        return [self.endings[index] for index in range(self.count)]

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = {"id": self.id, "object": self.kind, "created": self.created, "model": self.model}
        return sse.data(head | {"choices": choices} | more)

    def begin(self) -> Iterable[bytes]:
        return ()

    def draft(self, index: int, event: Draft) -> str | None:
        """The whole content with this draft, as far as it may be shown; None where that was sent last."""
        parser = OutputParser(self.tokenizer, self.options.stops, self.channels)
        parts = parser.feed([*self.ids[index], *event.token_ids])
        text = "".join(text for channel, text in parts if channel == "content")
        if text == self.drafts[index]:
            return None
        self.drafts[index] = text
        return text

    def end(self) -> Iterator[bytes]:
        if self.options.include_usage:
            yield self.chunk([], usage=self.usage(), dgemma=self.extras())
        yield sse.DONE

    def broken(self, error: RequestError) -> Iterator[bytes]:
        yield sse.data(shape(error))

    def usage(self) -> Usage:
        return usage_of(*self.results, choices=self.shared)

    def extras(self) -> Extras:
        notes = dict.fromkeys(note for result in self.results for note in result.notes)  # each once
        return Extras([result.seed for result in self.results], list(notes))


class ChatAnswer(_Answer):
    kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def __init__(self, service: ServedModel, options: AnswerOptions, count: int):
        super().__init__(service, options, count)
        self.shared = count
        self.calls_sent = [0] * count

    def begin(self) -> Iterator[bytes]:
        for index in range(self.count):
            yield self.delta(index, {"role": "assistant", "content": ""})

    def delta(
        self,
        index: int,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: ChatLogProbs | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self.chunk([choice])

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        if isinstance(event, Draft):
            text = None
            if self.options.diffusing:
                text = self.draft(index, event)
            if text is not None:
                yield self.delta(index, {"content": text})
        elif isinstance(event, Committed):
            self.ids[index] += event.token_ids
            self.logprobs[index] += event.logprobs
            yield from self.parts(index, event)
        else:
            self.endings[index] = event
            whole_again = self.options.diffusing and bool(self.committed[index])
            if whole_again:
                delta = {"content": self.committed[index]}
            else:
                delta = {}
            yield self.delta(index, delta, self.reason(index))

    def parts(self, index: int, event: Committed) -> Iterator[bytes]:
        diffusing = self.options.diffusing
        if diffusing:
            tokens = self.logprobs[index]
        else:
            tokens = event.logprobs
        logprobs = None
        if tokens:
            logprobs = of_chat(self.tokenizer, tokens)
        for channel, text in event.parts:
            if channel == "thought":
                yield self.delta(index, {"reasoning_content": text})
                continue
            self.committed[index] += text
            content = text
            if diffusing:
                content = self.committed[index]
            yield self.delta(index, {"content": content}, logprobs=logprobs)
            if not diffusing:
                logprobs = None  # they came with the first part
        for place, call in enumerate(event.calls, self.calls_sent[index]):
            yield self.delta(index, {"tool_calls": [{"index": place} | _call(call)]})
        self.calls_sent[index] += len(event.calls)

    def reason(self, index: int) -> str:
        if self.calls_sent[index]:
            return "tool_calls"
        return self.endings[index].finish_reason

    def whole(self) -> ChatReply:
        choices = [self.choice(index, result) for index, result in enumerate(self.results)]
        return ChatReply(self.id, self.created, self.model, choices, self.usage(), self.extras())

    def choice(self, index: int, result: Generation) -> ChatChoice:
        parts = reply(self.tokenizer, result)
        result.notes.extend("a tool call could not be read and was left out" for _ in parts.malformed)
        calls = [_call(call) for call in parts.tool_calls]
        content = parts.content or (None if calls else "")
        message = Message("assistant", content, parts.thought or None, calls or None)
        logprobs = None
        if self.options.wants_logprobs:
            logprobs = of_chat(self.tokenizer, self.logprobs[index])
        return ChatChoice(index, message, self.reason(index), logprobs)


class CompletionAnswer(_Answer):
    kind = "text_completion"
    prefix = "cmpl-"
    channels = False

    def __init__(self, service: ServedModel, options: AnswerOptions, openings: list[str], copies: int):
        """openings: what each prompt's choices begin with, which is not generated."""
        super().__init__(service, options, len(openings) * copies)
        self.shared = copies
        self.opening = [text for text in openings for _ in range(copies)]
        self.committed = [*self.opening]

    def begin(self) -> Iterator[bytes]:
        for index, text in enumerate(self.opening):
            if text:
                yield self.piece(index, text)

    def piece(
        self,
        index: int,
        text: str,
        reason: str | None = None,
        tokens: list[TokenLogProbs] | None = None,
    ) -> bytes:
        logprobs = None
        if tokens:
            logprobs = self.logprobs_of(tokens)
        return self.chunk([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}])

    def logprobs_of(self, tokens: list[TokenLogProbs]) -> CompletionLogProbs:
        return of_completion(tokens, self.options.top_logprobs)

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        if isinstance(event, Draft):
            # of a gap several candidates settle: none is the text yet
            is_gap = any(event.pinned)
            text = None
            if self.options.diffusing and not is_gap:
                text = self.draft(index, event)
            if text is not None:
                yield self.piece(index, self.opening[index] + text)
        elif isinstance(event, Committed):
            self.ids[index] += event.token_ids
            self.logprobs[index] += event.logprobs
            yield from self.add(index, event.text, event.logprobs)
        elif isinstance(event, Filling):
            self.endings[index] = event.generation
            yield from self.add(index, cut_at_stop(event.text, self.options.stops)[0], [])
            yield self.last(index)
        else:
            self.endings[index] = event
            yield self.last(index)

    def last(self, index: int) -> bytes:
        text = ""
        if self.options.diffusing:
            text = self.committed[index]
        return self.piece(index, text, self.endings[index].finish_reason)

    def add(self, index: int, text: str, tokens: list[TokenLogProbs]) -> Iterator[bytes]:
        self.committed[index] += text
        if text and self.options.diffusing:
            yield self.piece(index, self.committed[index], tokens=self.logprobs[index])
        elif text:
            yield self.piece(index, text, tokens=tokens)

    def whole(self) -> CompletionReply:
        choices = [self.choice(index) for index in range(self.count)]
        return CompletionReply(self.id, self.created, self.model, choices, self.usage(), self.extras())

    def choice(self, index: int) -> CompletionChoice:
        logprobs = None
        if self.options.wants_logprobs:
            logprobs = self.logprobs_of(self.logprobs[index])
        return CompletionChoice(index, self.committed[index], self.endings[index].finish_reason, logprobs)


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
