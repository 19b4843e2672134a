"""Anthropic's dialect: messages, and the count of their tokens.

Thoughts, text and calls are content blocks, in the order in which they were committed. Fields of betas are let through, because
clients send many; what would change the answer and is not served is refused by name. Trap: a stream opens before the prompt was
counted, so `input_tokens` stand in `message_delta`, and in `message_start` as 0.
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
from ..app import Page, Service, Task
from ..jobs import Call, Job, Refusal
from .sampling import OWN, settings, unserved
from .turn import Remarks, Turn, arguments_of, drawn, form_of, new_id

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
    500: "api_error", 503: "overloaded_error",
}  # fmt: skip


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


def shape(refusal: Refusal) -> dict[str, Any]:
    """An error's body."""
    return {
        "type": "error",
        "error": {"type": KINDS.get(refusal.status, "invalid_request_error"), "message": refusal.message},
    }


def _event(kind: str, **data: Any) -> bytes:
    return sse.data({"type": kind} | data, kind)


# channel: its block, the key of its text there, and the type of its differences
BLOCKS = {
    "content": ({"type": "text", "text": ""}, "text", "text_delta"),
    "thought": ({"type": "thinking", "thinking": "", "signature": ""}, "thinking", "thinking_delta"),
}


class MessagesAnswer:
    media, watched = sse.MEDIA, False

    def __init__(self, service: Service):
        self.model, self.turn, self.id = service.config.name, Turn(service), new_id("msg_")
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

    def broken(self, error: Refusal) -> Iterable[bytes]:
        yield sse.data(shape(error), "error")

    def reason(self) -> str:
        if self.open == "tool_call" or self.turn.told:
            return "tool_use"
        if self.turn.result.stop is not None:
            return "stop_sequence"
        return "max_tokens" if self.turn.result.finish_reason == "length" else "end_turn"

    def usage(self) -> MessagesUsage:
        result = self.turn.result
        return MessagesUsage(result.prompt_tokens, len(result.token_ids), sum(result.steps), result.canvases)

    def whole(self) -> MessagesReply:
        stop, told = self.turn.result.stop, self.turn.notes()
        return MessagesReply(self.id, self.model, self.blocks, self.reason(), self.usage(), stop, dgemma=told)


def messages(service: Service, body: MessagesRequest) -> Job:
    own, unread = body.dgemma or {}, Unread()
    if unknown := sorted(set(own) - set(OWN)):
        raise Refusal(400, f"'dgemma.{unknown[0]:.40}' is no setting; known: {', '.join(OWN)}")
    asked = (
        _prompt(body, unread)
        | settings(body)
        | form_of(body.output_format or (body.output_config or {}).get("format"))
        | own
    )
    asked |= {"max_tokens": body.max_tokens, "seed": drawn(body.seed), "stop": body.stop_sequences or []}
    if isinstance(body.tool_choice, dict) and body.tool_choice.get("disable_parallel_tool_use"):
        asked["parallel_tool_calls"] = False
    return Job((Call("stream_chat", asked, tuple(note(unread))),), MessagesAnswer(service), bool(body.stream))


async def count(service: Service, body: CountRequest) -> Count:
    asked = _prompt(body, Unread())
    prompt = await asyncio.to_thread(prepare, service.model.tokenizer, **asked)
    return Count(len(prompt.ids))


def _prompt(body: CountRequest, unread: Unread) -> dict[str, Any]:
    """The arguments of a chat that say what is read. Raises Refusal."""
    if body.mcp_servers:
        raise unserved("mcp_servers")
    system = joined(body.system, "system", unread)
    told = [{"role": "system", "content": system}] if system else []
    for n, message in enumerate(body.messages):
        told += _message(message, f"messages[{n}]", unread)
    is_open = bool(told) and told[-1]["role"] == "assistant"  # the answer goes on from it
    tools = [_tool(tool) for tool in body.tools or ()]
    thinking = (body.thinking or {}).get("type", "disabled") != "disabled"
    return {
        "messages": told, "tools": tools, "tool_choice": body.tool_choice, "thinking": thinking, "continue_final_message": is_open,
    }  # fmt: skip


def _message(message: dict[str, Any], where: str, unread: Unread) -> Iterator[dict[str, Any]]:
    """One message in OpenAI's shape, as text/turns.py reads it: each tool's result is one of its own."""
    content, role = message.get("content"), message.get("role")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if blocks is None and role == "assistant":
        blocks = []
    if not isinstance(blocks, list) or not all(isinstance(block, dict | str) for block in blocks):
        raise Refusal(400, f"{where}: content must be a text or a list of blocks", parameter=where)
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    thought: list[str] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else "text"
        if kind == "tool_result":
            text = ("Error: " if block.get("is_error") else "") + joined(block.get("content"), where, unread)
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
        elif kind == "tool_use":
            calls.append(
                {
                    "id": block.get("id"),
                    "function": {"name": block.get("name"), "arguments": block.get("input")},
                }
            )
        else:
            for part in read_parts(block, where, unread):
                (thought if part.kind == "thought" else texts).append(part.text)
    thought = [text for text in thought if text]
    if thought or texts or calls or not blocks:
        told = {"role": role, "content": "\n".join(texts)}
        yield (
            told
            | ({"tool_calls": calls} if calls else {})
            | ({"reasoning_content": "\n".join(thought)} if thought else {})
        )


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
