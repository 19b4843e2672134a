"""OpenAI's responses, POST /v1/responses: what Codex speaks, and nothing else.

Input items become a chat, its parts become output items: reasoning, message, function_call. Nothing is kept
between requests: `store` changes nothing, and a request that builds on an earlier one is refused. Items of
another kind become a short text, tools that are no functions are left out, and notes say so. Trap: tools in a
namespace are called by both names, joined with a dot, by the model alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ...text.calls import ToolCall
from ...text.content import Unread, joined, note, substitute
from .. import sse
from ..jobs import Call, Job, RequestError
from ..routes import ServedModel, Task
from .openai_answers import shape
from .sampling import Sampling, params_of, unserved
from .turn import Remarks, Turn, arguments_of, constraint_from_format, drawn, new_id
from .usage import usage_of

# items that are calls, and the field that holds their input
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
RESULTS = ("function_call_output", "custom_tool_call_output")


class ResponsesRequest(Sampling, kw_only=True):
    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None  # False: the answer ends behind its first call
    max_output_tokens: int | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    truncation: str | None = None
    include: list[str] | None = None
    stream_options: Any = None  # changes nothing here


class ResponsesUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    output_tokens_details: dict[str, int]
    steps: int
    canvases: int


class ResponsesReply(msgspec.Struct):
    id: str
    created_at: int
    model: str
    status: str
    output: list[dict[str, Any]]
    usage: ResponsesUsage | None = None
    incomplete_details: dict[str, str] | None = None
    error: dict[str, str] | None = None
    dgemma: Remarks | None = None
    instructions: str | None = None
    tools: list[Any] = []
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    store: bool = False
    object: str = "response"


@dataclass(frozen=True)
class ItemKind:
    """How a channel's text becomes an item: the item, its only part, and what its events are called."""

    id_prefix: str
    fields: dict[str, Any]
    parts: str  # the field that holds the part
    part: dict[str, Any]
    index: str  # the event's field for the part's place
    part_event: str
    text_event: str

    def new(self) -> dict[str, Any]:
        return {"id": new_id(self.id_prefix)} | self.fields | {self.parts: []}


REASONING = ItemKind(
    id_prefix="rs_",
    fields={"type": "reasoning"},
    parts="summary",
    part={"type": "summary_text", "text": ""},
    index="summary_index",
    part_event="reasoning_summary_part",
    text_event="reasoning_summary_text",
)
MESSAGE = ItemKind(
    id_prefix="msg_",
    fields={"type": "message", "role": "assistant", "status": "in_progress"},
    parts="content",
    part={"type": "output_text", "text": "", "annotations": []},
    index="content_index",
    part_event="content_part",
    text_event="output_text",
)


class ResponsesAnswer:
    """Events of items. One item at a time is open for more text; `names`: what the client calls each tool."""

    media = sse.MEDIA
    watched = False

    def __init__(self, service: ServedModel, body: ResponsesRequest, names: dict[str, dict[str, str]]):
        self.turn = Turn(service)
        self.names = names
        self.count = 2  # events so far; the first two are those of `begin`
        self.reply = ResponsesReply(
            new_id("resp_"),
            int(time.time()),
            service.config.name,
            "in_progress",
            [],
            instructions=body.instructions,
            tools=body.tools or [],
            tool_choice=body.tool_choice or "auto",
            parallel_tool_calls=body.parallel_tool_calls is not False,
        )
        self.open: ItemKind | None = None  # of the last item, where more text may come to it

    def event(self, kind: str, **fields: Any) -> bytes:
        name = f"response.{kind}"
        head = {"type": name, "sequence_number": self.count}
        self.count += 1
        return sse.data(head | fields, name)

    def begin(self) -> Iterator[bytes]:
        """The first two events. They are asked for when what follows is there already."""
        opened = msgspec.structs.replace(self.reply, status="in_progress", output=[])
        for number, name in enumerate(("response.created", "response.in_progress")):
            yield sse.data({"type": name, "sequence_number": number, "response": opened}, name)

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        for channel, part in self.turn.take(event):
            if channel == "tool_call":
                yield from self.call(part)
            else:
                yield from self.text(REASONING if channel == "thought" else MESSAGE, part)

    def item(self, kind: str, **fields: Any) -> bytes:
        """An event of the last item."""
        return self.event(kind, output_index=len(self.reply.output) - 1, **fields)

    def add(self, item: dict[str, Any]) -> Iterator[bytes]:
        yield from self.close()
        self.reply.output.append(item)
        yield self.item("output_item.added", item=item)

    def text(self, kind: ItemKind, text: str) -> Iterator[bytes]:
        if self.open is not kind:
            item = kind.new()
            yield from self.add(item)
            part = dict(kind.part)
            item[kind.parts].append(part)
            yield self.part_event(kind, f"{kind.part_event}.added", part=part)
            self.open = kind
        self.last_part(kind)["text"] += text
        yield self.part_event(kind, f"{kind.text_event}.delta", delta=text)

    def last_part(self, kind: ItemKind) -> dict[str, Any]:
        """The part of the last item that holds its text."""
        part: dict[str, Any] = self.reply.output[-1][kind.parts][0]
        return part

    def part_event(self, kind: ItemKind, name: str, **fields: Any) -> bytes:
        """An event of the last item's only part."""
        item = self.reply.output[-1]
        return self.item(name, item_id=item["id"], **{kind.index: 0}, **fields)

    def call(self, call: ToolCall) -> Iterator[bytes]:
        arguments = arguments_of(call)
        item = {
            "id": new_id("fc_"),
            "type": "function_call",
            "call_id": new_id("call_"),
            "arguments": "",
            "status": "in_progress",
        }
        item |= self.names.get(call.name, {"name": call.name})
        yield from self.add(item)
        item["arguments"] = arguments
        item["status"] = "completed"
        yield self.item("function_call_arguments.delta", item_id=item["id"], delta=arguments)
        yield self.item("function_call_arguments.done", item_id=item["id"], arguments=arguments)
        yield self.item("output_item.done", item=item)

    def close(self) -> Iterator[bytes]:
        """End the item that text came to."""
        kind = self.open
        if kind is None:
            return
        item = self.reply.output[-1]
        part = self.last_part(kind)
        yield self.part_event(kind, f"{kind.text_event}.done", text=part["text"])
        yield self.part_event(kind, f"{kind.part_event}.done", part=part)
        if "status" in item:
            item["status"] = "completed"
        yield self.item("output_item.done", item=item)
        self.open = None

    def end(self) -> Iterator[bytes]:
        yield from self.close()
        self.finish()
        yield self.event(self.reply.status, response=self.reply)

    def broken(self, error: RequestError) -> Iterator[bytes]:
        code = "server_error"
        if error.status == 429:
            code = "rate_limit_exceeded"
        self.reply.status = "failed"
        self.reply.error = {"code": code, "message": error.message}
        yield self.event("failed", response=self.reply)

    def finish(self) -> None:
        result = self.turn.result
        usage = usage_of(result)
        reply = self.reply
        reply.usage = ResponsesUsage(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            {"reasoning_tokens": self.turn.thought_tokens},
            usage.steps,
            usage.canvases,
        )
        reply.dgemma = self.turn.notes()
        reply.status = "completed"
        if result.finish_reason == "length":
            reply.status = "incomplete"
            reply.incomplete_details = {"reason": "max_output_tokens"}

    def whole(self) -> ResponsesReply:
        for _ in self.close():
            pass
        self.finish()
        return self.reply


def respond(service: ServedModel, body: ResponsesRequest) -> Job:
    _check(body)
    tools, names = _tools(body.tools or [])
    text = body.text or {}
    effort = (body.reasoning or {}).get("effort")
    unread = Unread()
    params = params_of(body) | constraint_from_format(text.get("format"))
    params |= {
        "max_tokens": body.max_output_tokens,
        "seed": drawn(body.seed),
        "messages": _messages(body, unread),
        "thinking": effort not in (None, "none", "minimal"),
        "tools": tools,
        "tool_choice": _full_names(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
    }
    call = Call("stream_chat", params, tuple(note(unread)))
    return Job((call,), ResponsesAnswer(service, body, names), bool(body.stream))


def _check(body: ResponsesRequest) -> None:
    """Raise RequestError for what is not served and would change the answer."""
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(body, name):
            message = f"'{name}' is not served: nothing is kept between requests; send the whole input"
            raise RequestError(400, message, parameter=name)
    if body.truncation not in (None, "disabled"):
        raise unserved("truncation")
    if (body.text or {}).get("verbosity") not in (None, "medium"):
        raise unserved("text.verbosity")
    for name in body.include or ():
        if name != "reasoning.encrypted_content":
            raise RequestError(400, f"'{name:.60}' cannot be included", parameter="include")


def _tools(given: list[Any]) -> tuple[list[Any], dict[str, dict[str, str]]]:
    """Declarations as a chat takes them, and what each name is to the client.

    What is no function is left to the chat, which leaves it out.
    """
    tools: list[Any] = []
    names: dict[str, dict[str, str]] = {}
    for namespace, tool in _with_namespaces(given):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            tools.append(tool)
            continue
        if isinstance(tool.get("function"), dict):  # as chat completions have it
            tool = tool["function"]
        name = _full(namespace, tool.get("name"))
        function = {
            "name": name,
            "description": tool.get("description"),
            "parameters": tool.get("parameters"),
        }
        tools.append({"type": "function", "function": function})
        names[name] = {"name": str(tool.get("name"))}
        if namespace is not None:
            names[name]["namespace"] = namespace
    return tools, names


def _with_namespaces(given: list[Any]) -> Iterator[tuple[str | None, Any]]:
    """Every tool, and the namespace that it is declared in."""
    for tool in given:
        if not isinstance(tool, dict) or tool.get("type") != "namespace":
            yield None, tool
            continue
        members = tool.get("tools") or []
        for member in members if isinstance(members, list) else []:
            yield str(tool.get("name")), member


def _full_names(choice: Any) -> Any:
    """A choice whose functions have the names that the model knows."""
    if isinstance(choice, list):
        return [_full_names(one) for one in choice]
    if not isinstance(choice, dict):
        return choice
    renamed = dict(choice)
    if "name" in choice:
        renamed["name"] = _full(choice.get("namespace"), choice["name"])
    for field in ("tools", "allowed_tools"):
        if field in choice:
            renamed[field] = _full_names(choice[field])
    return renamed


def _full(space: Any, name: Any) -> Any:
    if space:
        return f"{space}.{name}"
    return name


def _messages(body: ResponsesRequest, unread: Unread) -> list[dict[str, Any]]:
    """The input in the chat's shape.

    What systems and developers say before anybody else is one system message.
    """
    if isinstance(body.input, str):
        items = [{"role": "user", "content": body.input}]
    else:
        items = body.input
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    thought = ""
    for place, item in enumerate(items):
        where = f"input[{place}]"
        kind = item.get("type") or "message"
        if kind == "reasoning":
            thought += joined(item.get("content") or item.get("summary"), where, unread)
            continue
        message = _message(item, kind, where, unread)
        if thought and message["role"] == "assistant":
            message["reasoning_content"] = thought
            thought = ""
        is_system = message["role"] in ("system", "developer")
        if is_system and len(messages) == 1 and messages[0]["role"] == "system":
            messages[0]["content"] += "\n\n" + message["content"]
            continue
        if is_system:
            message["role"] = "system"
        messages.append(message)
    return messages


def _message(item: dict[str, Any], kind: Any, where: str, unread: Unread) -> dict[str, Any]:
    if not isinstance(kind, str):
        raise RequestError(400, f"{where}: an item's type must be a text", parameter=where)
    if kind == "item_reference":
        reason = "nothing is kept here; set store to false, and items are sent"
        raise RequestError(400, f"{where}: an item_reference leads nowhere: {reason}", parameter=where)
    if kind == "message":
        message = {"role": item.get("role"), "content": joined(item.get("content"), where, unread)}
        if item.get("prefix") is True:
            return message | {"prefix": True}
        return message
    if kind in CALLS:
        return _call_message(item, kind)
    if kind in RESULTS:
        output = joined(item.get("output"), where, unread)
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
    return {"role": "assistant", "content": substitute(item, kind, unread)}


def _call_message(item: dict[str, Any], kind: str) -> dict[str, Any]:
    given = item.get(CALLS[kind])
    arguments = given
    if kind != "function_call":
        arguments = {"input": given}
    function = {"name": _full(item.get("namespace"), item.get("name")), "arguments": arguments}
    calls = [{"id": item.get("call_id"), "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


ROUTES = (
    Task(
        "/v1/responses",
        ResponsesRequest,
        respond,
        shape,
        ResponsesReply,
        {"input": "Hello", "max_output_tokens": 8},
    ),
)
