"""OpenAI's dialect: chat completions, completions (with a suffix: infill). Its list of models is in models.py.

Text is streamed canvas by canvas, because a token may change until its canvas is committed. With `diffusing` each draft is told too:
`delta.content` (`text`) is then the whole answer so far, to be put in place of what was shown before. Fields that would change the answer
and are not served are refused by name; some that change nothing are let through. What may be shown of committed ids the task says
(tasks/voices.py). Trap: drafts go the same way, or they would tell what a stop string cuts.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ...tasks.chat import Voices, reply
from ...tasks.events import Committed, Draft, Filling, Generation, TokenLogProbs
from ...tasks.infill import default_widths
from ...text.calls import ToolCall
from ...text.stream import cut_at_stop
from .. import sse
from ..app import Service, Task
from ..jobs import Call, Job, Refusal
from .logprobs import (
    ChatLogProbs,
    CompletionLogProbs,
    asked_of_chat,
    asked_of_completion,
    of_chat,
    of_completion,
)
from .sampling import Formed, form, seeds, settings, unserved
from .sentinels import MarkedGap, marked_gap, without_marks


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(Formed, kw_only=True):
    """What both kinds of completion may say."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusing: bool = False  # tell drafts too


class ChatRequest(Request, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None  # False: the answer ends behind its first call
    continue_final_message: bool | None = (
        None  # the answer goes on from the last message, as with `prefix: true` in it
    )
    add_generation_prompt: bool | None = None  # False goes with continue_final_message alone
    logprobs: bool | None = None
    top_logprobs: int | None = None
    thinking: bool | dict[str, Any] | None = None  # or one of the four below: other servers' names
    enable_thinking: bool | None = None
    reasoning: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(Request, kw_only=True):
    prompt: str | list[str | int | list[int]]  # a text, ids, or several of one of these
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    steps: int  # denoising steps of all canvases
    canvases: int


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


class Told(msgspec.Struct):
    """What we have to say beside OpenAI's fields."""

    seeds: list[int]  # of each choice
    notes: list[str]


class ChatReply(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    dgemma: Told
    object: str = "chat.completion"


class CompletionReply(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    dgemma: Told
    object: str = "text_completion"


def shape(refusal: Refusal) -> dict[str, Any]:
    """An error's body."""
    return {"error": {
        "message": refusal.message, "type": refusal.kind, "param": refusal.parameter, "code": str(refusal.status),
    }}  # fmt: skip


class _Answer:
    """What both kinds share: the envelope, the results so far, usage."""

    media = sse.MEDIA
    kind, prefix, channels = "", "", True

    def __init__(self, service: Service, body: ChatRequest | CompletionRequest, count: int):
        self.model, self.tokenizer = service.config.name, service.model.tokenizer
        self.id, self.created = f"{self.prefix}{uuid.uuid4().hex}", int(time.time())
        self.count = count  # of the choices
        self.endings: dict[int, Generation] = {}  # by choice, in the order in which they end
        self.ids: list[list[int]] = [[] for _ in range(count)]  # committed
        self.committed = [""] * count  # the content so far
        self.drafts = [""] * count  # told last
        self.stops = [body.stop] if isinstance(body.stop, str) and body.stop else body.stop or []
        self.logprobs: list[list[TokenLogProbs]] = [[] for _ in range(count)]
        self.wants_logprobs = (
            body.logprobs is not None and body.logprobs is not False
        )  # a completion's may be 0
        self.diffusing = self.watched = body.diffusing
        self.usage_wanted = body.stream_options is not None and body.stream_options.include_usage

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
        """The whole content with this draft, as far as it may be shown; None where that was told last."""
        voices, ids = Voices(self.tokenizer, self.stops, self.channels), [*self.ids[index], *event.token_ids]
        text = "".join(text for channel, text in voices.feed(ids) if channel == "content")
        told, self.drafts[index] = self.drafts[index], text
        return None if text == told else text

    def end(self) -> Iterator[bytes]:
        if self.usage_wanted:
            yield self.chunk([], usage=self.usage(), dgemma=self.told())
        yield sse.DONE

    def broken(self, error: Refusal) -> Iterator[bytes]:
        yield sse.data(shape(error))

    def usage(self) -> Usage:
        """Of all choices; a prompt that several share is read, and counted, once."""
        done = self.results
        prompt = sum(result.prompt_tokens for result in done[:: self.shared])
        new = sum(len(result.token_ids) for result in done)
        steps = sum(sum(result.steps) for result in done)
        return Usage(prompt, new, prompt + new, steps, sum(result.canvases for result in done))

    shared = 1  # choices of one prompt

    def told(self) -> Told:
        notes = [note for result in self.results for note in result.notes]
        return Told([result.seed for result in self.results], list(dict.fromkeys(notes)))


class ChatAnswer(_Answer):
    kind, prefix = "chat.completion.chunk", "chatcmpl-"

    def __init__(self, service: Service, body: ChatRequest, count: int):
        super().__init__(service, body, count)
        self.shared = count
        self.called = [0] * count  # calls that were told

    def begin(self) -> Iterator[bytes]:
        for index in range(self.count):
            yield self.delta(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, delta: dict[str, Any], reason: str | None = None, found: Any = None) -> bytes:
        return self.chunk([{"index": index, "delta": delta, "logprobs": found, "finish_reason": reason}])

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        if isinstance(event, Draft):
            text = self.draft(index, event) if self.diffusing else None
            if text is not None:
                yield self.delta(index, {"content": text})
        elif isinstance(event, Committed):
            self.ids[index] += event.token_ids
            self.logprobs[index] += event.logprobs
            yield from self.parts(index, event)
        else:
            self.endings[index] = event
            last = {"content": self.committed[index]} if self.diffusing and self.committed[index] else {}
            yield self.delta(index, last, self.reason(index))

    def parts(self, index: int, event: Committed) -> Iterator[bytes]:
        fresh = self.logprobs[index] if self.diffusing else event.logprobs
        found = of_chat(self.tokenizer, fresh) if fresh else None
        for channel, text in event.parts:
            if channel == "thought":
                yield self.delta(index, {"reasoning_content": text})
                continue
            self.committed[index] += text
            yield self.delta(
                index, {"content": self.committed[index] if self.diffusing else text}, found=found
            )
            found = found if self.diffusing else None
        for place, call in enumerate(event.calls, self.called[index]):
            yield self.delta(index, {"tool_calls": [{"index": place} | _call(call)]})
        self.called[index] += len(event.calls)

    def reason(self, index: int) -> str:
        return "tool_calls" if self.called[index] else self.endings[index].finish_reason

    def whole(self) -> ChatReply:
        choices = []
        for index, result in enumerate(self.results):
            parts = reply(self.tokenizer, result)
            result.notes.extend("a tool call could not be read and was left out" for _ in parts.malformed)
            calls = [_call(call) for call in parts.tool_calls] or None
            message = Message(
                "assistant", parts.content or (None if calls else ""), parts.thought or None, calls
            )
            found = of_chat(self.tokenizer, self.logprobs[index]) if self.wants_logprobs else None
            choices.append(ChatChoice(index, message, self.reason(index), found))
        return ChatReply(self.id, self.created, self.model, choices, self.usage(), self.told())


class CompletionAnswer(_Answer):
    kind, prefix, channels = "text_completion", "cmpl-", False

    def __init__(self, service: Service, body: CompletionRequest, prompts: list[str], copies: int):
        super().__init__(service, body, len(prompts) * copies)
        self.shared, self.top_logprobs = copies, body.logprobs or 0
        self.opening = [prompt if body.echo else "" for prompt in prompts for _ in range(copies)]
        self.committed = [*self.opening]

    def begin(self) -> Iterator[bytes]:
        for index, text in enumerate(self.opening):
            if text:
                yield self.piece(index, text)

    def piece(
        self, index: int, text: str, reason: str | None = None, fresh: list[TokenLogProbs] | None = None
    ) -> bytes:
        found = self.found(index, fresh) if fresh else None
        return self.chunk([{"index": index, "text": text, "logprobs": found, "finish_reason": reason}])

    def found(self, index: int, fresh: list[TokenLogProbs]) -> CompletionLogProbs:
        return of_completion(fresh, self.top_logprobs)

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        if isinstance(event, Draft):
            wanted = self.diffusing and not any(
                event.pinned
            )  # of a gap several candidates settle: none is the text yet
            text = self.draft(index, event) if wanted else None
            if text is not None:
                yield self.piece(index, self.opening[index] + text)
        elif isinstance(event, Committed):
            self.ids[index] += event.token_ids
            self.logprobs[index] += event.logprobs
            yield from self.add(index, event.text, event.logprobs)
        else:
            self.endings[index] = event.generation if isinstance(event, Filling) else event
            if isinstance(event, Filling):
                yield from self.add(index, cut_at_stop(event.text, self.stops)[0], [])
            yield self.piece(
                index, self.committed[index] if self.diffusing else "", self.endings[index].finish_reason
            )

    def add(self, index: int, text: str, fresh: list[TokenLogProbs]) -> Iterator[bytes]:
        self.committed[index] += text
        if text and self.diffusing:
            yield self.piece(index, self.committed[index], fresh=self.logprobs[index])
        elif text:
            yield self.piece(index, text, fresh=fresh)

    def whole(self) -> CompletionReply:
        choices = []
        for index, text in enumerate(self.committed):
            found = self.found(index, self.logprobs[index]) if self.wants_logprobs else None
            choices.append(CompletionChoice(index, text, self.endings[index].finish_reason, found))
        return CompletionReply(self.id, self.created, self.model, choices, self.usage(), self.told())


def chat(service: Service, body: ChatRequest) -> Job:
    count = _count(service, body, 1)
    if body.add_generation_prompt is not None and not body.continue_final_message:
        raise unserved("add_generation_prompt")
    length = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    asked = settings(body) | form(body) | asked_of_chat(body.logprobs, body.top_logprobs)
    asked |= {"messages": body.messages, "max_tokens": length, "thinking": _thinks(body), "tools": body.tools}
    asked |= {
        name: getattr(body, name) for name in ("tool_choice", "parallel_tool_calls", "continue_final_message")
    }
    calls = tuple(Call("stream_chat", asked | {"seed": seed}) for seed in seeds(body.seed, count))
    return Job(calls, ChatAnswer(service, body, count), bool(body.stream))


def complete(service: Service, body: CompletionRequest) -> Job:
    prompts = _prompts(body)
    count = _count(service, body, len(prompts))
    if body.best_of not in (None, 1, count):
        raise unserved("best_of")
    prompts = [_gap_of(prompt, body.suffix) or prompt for prompt in prompts]
    gaps = any(isinstance(prompt, MarkedGap) for prompt in prompts)
    if gaps:
        body = msgspec.structs.replace(body, stop=without_marks(body.stop))
    asked = settings(body) | form(body) | asked_of_completion(body.logprobs, gaps, bool(body.echo))
    widths = (
        default_widths(body.canvas_width or service.model.config.canvas_length, body.max_tokens)
        if gaps
        else []
    )
    calls = tuple(
        Call(*_completion(prompt, body, asked | {"seed": seed}, widths))
        for prompt in prompts
        for seed in seeds(body.seed, count)
    )
    texts = [_text_of(service, prompt) if body.echo else "" for prompt in prompts]
    return Job(calls, CompletionAnswer(service, body, texts, count), bool(body.stream))


def _gap_of(prompt: str | list[int], suffix: str | None) -> MarkedGap | None:
    """The gap that a suffix or the marks inside a prompt make of it. Raises Refusal for ids with a suffix."""
    if suffix:
        if not isinstance(prompt, str):
            raise Refusal(400, "a suffix needs a prompt of text", parameter="suffix")
        return MarkedGap(prompt, suffix)
    return marked_gap(prompt) if isinstance(prompt, str) else None


def _text_of(service: Service, prompt: str | list[int] | MarkedGap) -> str:
    if isinstance(prompt, MarkedGap):
        return prompt.prefix
    return prompt if isinstance(prompt, str) else service.model.tokenizer.decode(prompt)


def _completion(
    prompt: str | list[int] | MarkedGap, body: CompletionRequest, asked: dict[str, Any], widths: list[int]
) -> tuple[str, dict[str, Any]]:
    if isinstance(prompt, MarkedGap):
        asked.pop("stop", None)  # cut off the gap when it is known
        given = {"prefix": prompt.prefix, "suffix": prompt.suffix, "extra": prompt.files, "widths": widths}
        return "stream_fill", asked | given
    if isinstance(prompt, str):
        return "stream", asked | {"text": prompt, "max_tokens": body.max_tokens}
    return "stream_ids", asked | {"prompt_ids": prompt, "max_tokens": body.max_tokens}


def _prompts(body: CompletionRequest) -> list[Any]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if len({type(part) for part in prompt}) != 1:
        raise Refusal(
            400, "prompt must be a text, a list of ids, or a list of one of these", parameter="prompt"
        )
    return [prompt] if isinstance(prompt[0], int) else prompt


def _count(service: Service, body: Request, prompts: int) -> int:
    count, most = 1 if body.n is None else body.n, service.config.max_choices
    if not 1 <= count or count * prompts > most:
        raise Refusal(
            400, f"{count * prompts} answers were asked for; from 1 to {most} may be", parameter="n"
        )
    return count


def _thinks(body: ChatRequest) -> bool:
    """Whether the model is to think first, by whichever name says so first."""
    thinking, template, reasoning = body.thinking, body.chat_template_kwargs or {}, body.reasoning or {}
    if isinstance(thinking, dict):  # as messages have it
        thinking = thinking.get("type", "enabled") != "disabled"
    for said in (
        thinking,
        body.enable_thinking,
        template.get("enable_thinking"),
        template.get("thinking"),
        reasoning.get("enabled"),
    ):
        if said is not None:
            return bool(said)
    effort = body.reasoning_effort if body.reasoning_effort is not None else reasoning.get("effort")
    return effort not in (None, "none", "minimal")


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


ROUTES = (
    Task(
        "/v1/chat/completions",
        ChatRequest,
        chat,
        shape,
        ChatReply,
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8},
    ),
    Task(
        "/v1/completions",
        CompletionRequest,
        complete,
        shape,
        CompletionReply,
        {"prompt": "def area(r):", "max_tokens": 8},
    ),
)
