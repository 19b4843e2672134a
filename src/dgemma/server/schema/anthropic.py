"""Anthropic's dialect: messages, and the count of their tokens.

Thoughts, text and calls are content blocks, in the order in which they were committed. Fields of betas are
let through, because clients send many; what would change the answer and is not served is refused by name.
Trap: a stream opens before the prompt was counted, so `input_tokens` stand in `message_delta`, and in
`message_start` as 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ...tasks.chat import prepare
from ...tasks.events import Generation
from ...text.content import Unread, joined, note, read_parts
from .. import sse
from ..jobs import Call, Job, RequestError
from ..routes import Page, ServedModel, Task
from .sampling import SCHEDULE, params_of, unserved
from .turn import Remarks, Turn, arguments_of, constraint_from_format, drawn, new_id
from .usage import usage_of

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class CountRequest(msgspec.Struct, kw_only=True):
    """What makes up a prompt."""

    messages: list[dict[str, Any]]
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    thinking: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    output_format: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class MessagesRequest(CountRequest, kw_only=True):
    max_tokens: int | None = None  # Anthropic asks for it; without one the answer has the default length
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    seed: int | None = None
    dgemma: dict[str, Any] | None = None  # the sampler's own settings


class MessagesUsage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    canvases: int = 0


class MessagesReply(msgspec.Struct):
    id: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: MessagesUsage
    stop_sequence: str | None = None
    role: str = "assistant"
    type: str = "message"
    dgemma: Remarks | None = None


class Count(msgspec.Struct):
    input_tokens: int


def shape(error: RequestError) -> dict[str, Any]:
    """An error's body."""
    return {
        "type": "error",
        "error": {"type": KINDS.get(error.status, "invalid_request_error"), "message": error.message},
    }


def _event(kind: str, **data: Any) -> bytes:
    return sse.data({"type": kind} | data, kind)


# channel: its block, the key of its text there, and the type of its differences
BLOCKS = {
    "content": ({"type": "text", "text": ""}, "text", "text_delta"),
    "thought": ({"type": "thinking", "thinking": "", "signature": ""}, "thinking", "thinking_delta"),
}


class MessagesAnswer:
    media = sse.MEDIA
    watched = False

    def __init__(self, service: ServedModel):
        self.model = service.config.name
        self.turn = Turn(service)
        self.id = new_id("msg_")
        self.blocks: list[dict[str, Any]] = []
        self.open: str | None = None  # the channel of the last block

    def begin(self) -> Iterator[bytes]:
        yield _event("message_start", message=MessagesReply(self.id, self.model, [], None, MessagesUsage()))

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        for channel, part in self.turn.take(event):
            if channel == "tool_call":
                yield from self.call(part)
            else:
                yield from self.text(channel, part)
        if isinstance(event, Generation) and not self.blocks:
            yield from self.text("content", "")

    def text(self, channel: str, text: str) -> Iterator[bytes]:
        block, key, kind = BLOCKS[channel]
        if self.open != channel:
            yield from self.start(dict(block), channel)
        self.blocks[-1][key] += text
        yield _event("content_block_delta", index=len(self.blocks) - 1, delta={"type": kind, key: text})

    def call(self, call: Any) -> Iterator[bytes]:
        block = {"type": "tool_use", "id": new_id("toolu_"), "name": call.name, "input": {}}
        yield from self.start(block, "tool_call")
        block["input"] = call.arguments
        delta = {"type": "input_json_delta", "partial_json": arguments_of(call)}
        yield _event("content_block_delta", index=len(self.blocks) - 1, delta=delta)

    def start(self, block: dict[str, Any], channel: str) -> Iterator[bytes]:
        yield from self.stop()
        self.blocks.append(block)
        self.open = channel
        yield _event("content_block_start", index=len(self.blocks) - 1, content_block=block)

    def stop(self) -> Iterator[bytes]:
        if self.open:
            yield _event("content_block_stop", index=len(self.blocks) - 1)

    def end(self) -> Iterator[bytes]:
        yield from self.stop()
        delta = {"stop_reason": self.reason(), "stop_sequence": self.turn.result.stop}
        yield _event("message_delta", delta=delta, usage=self.usage(), dgemma=self.turn.notes())
        yield _event("message_stop")

    def broken(self, error: RequestError) -> Iterable[bytes]:
        yield sse.data(shape(error), "error")

    def reason(self) -> str:
        if self.open == "tool_call" or self.turn.calls_given:
            return "tool_use"
        if self.turn.result.stop is not None:
            return "stop_sequence"
        if self.turn.result.finish_reason == "length":
            return "max_tokens"
        return "end_turn"

    def usage(self) -> MessagesUsage:
        usage = usage_of(self.turn.result)
        return MessagesUsage(usage.prompt_tokens, usage.completion_tokens, usage.steps, usage.canvases)

    def whole(self) -> MessagesReply:
        return MessagesReply(
            self.id,
            self.model,
            self.blocks,
            self.reason(),
            self.usage(),
            self.turn.result.stop,
            dgemma=self.turn.notes(),
        )


def messages(service: ServedModel, body: MessagesRequest) -> Job:
    schedule = body.dgemma or {}
    if unknown := sorted(set(schedule) - set(SCHEDULE)):
        raise RequestError(400, f"'dgemma.{unknown[0]:.40}' is no setting; known: {', '.join(SCHEDULE)}")
    unread = Unread()
    params = _prompt(body, unread)
    params |= params_of(body)
    params |= constraint_from_format(body.output_format or (body.output_config or {}).get("format"))
    params |= schedule
    params |= {"max_tokens": body.max_tokens, "seed": drawn(body.seed), "stop": body.stop_sequences or []}
    if isinstance(body.tool_choice, dict) and body.tool_choice.get("disable_parallel_tool_use"):
        params["parallel_tool_calls"] = False
    call = Call("stream_chat", params, tuple(note(unread)))
    return Job((call,), MessagesAnswer(service), bool(body.stream))


async def count(service: ServedModel, body: CountRequest) -> Count:
    params = _prompt(body, Unread())
    prompt = await asyncio.to_thread(prepare, service.model.tokenizer, **params)
    return Count(len(prompt.ids))


def _prompt(body: CountRequest, unread: Unread) -> dict[str, Any]:
    """The arguments of a chat that say what is read. Raises RequestError."""
    if body.mcp_servers:
        raise unserved("mcp_servers")
    messages: list[dict[str, Any]] = []
    if system := joined(body.system, "system", unread):
        messages.append({"role": "system", "content": system})
    for place, message in enumerate(body.messages):
        messages += _message(message, f"messages[{place}]", unread)
    return {
        "messages": messages,
        "tools": [_tool(tool) for tool in body.tools or ()],
        "tool_choice": body.tool_choice,
        "thinking": (body.thinking or {}).get("type", "disabled") != "disabled",
        # the answer goes on from a last message of the assistant's
        "continue_final_message": bool(messages) and messages[-1]["role"] == "assistant",
    }


def _message(message: dict[str, Any], where: str, unread: Unread) -> Iterator[dict[str, Any]]:
    """One message in OpenAI's shape, as text/turns.py reads it: each tool's result is one of its own."""
    blocks = _blocks(message, where)
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind: Any = "text"
        if isinstance(block, dict):
            kind = block.get("type")
        if kind == "tool_result":
            yield _tool_result(block, where, unread)
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": block.get("input")}
            calls.append({"id": block.get("id"), "function": function})
        else:
            for part in read_parts(block, where, unread):
                (thoughts if part.kind == "thought" else texts).append(part.text)
    thoughts = [text for text in thoughts if text]
    if blocks and not (texts or thoughts or calls):
        return  # all of it was results
    turn = {"role": message.get("role"), "content": "\n".join(texts)}
    if calls:
        turn["tool_calls"] = calls
    if thoughts:
        turn["reasoning_content"] = "\n".join(thoughts)
    yield turn


def _blocks(message: dict[str, Any], where: str) -> list[Any]:
    """A message's content as blocks. Raises RequestError."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None and message.get("role") == "assistant":
        return []
    if not isinstance(content, list) or not all(isinstance(block, dict | str) for block in content):
        raise RequestError(400, f"{where}: content must be a text or a list of blocks", parameter=where)
    return content


def _tool_result(block: dict[str, Any], where: str, unread: Unread) -> dict[str, Any]:
    text = joined(block.get("content"), where, unread)
    if block.get("is_error"):
        text = "Error: " + text
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}


def _tool(tool: Any) -> Any:
    """A declaration as a chat takes it. A tool of the provider's is left to the chat, which leaves it out."""
    if not isinstance(tool, dict) or (tool.get("type") or "custom") != "custom":
        return tool
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
    }
    return {"type": "function", "function": function}


SAID = {"messages": [{"role": "user", "content": "Hello"}]}
ROUTES = (
    Task("/v1/messages", MessagesRequest, messages, shape, MessagesReply, SAID | {"max_tokens": 8}),
    Page("/v1/messages/count_tokens", count, shape, CountRequest, Count, SAID),
)
