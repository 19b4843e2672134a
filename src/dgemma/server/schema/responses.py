"""OpenAI's responses, POST /v1/responses: what Codex speaks, and nothing else.

Input items become a chat, its parts become output items: reasoning, message, function_call. Nothing is kept between requests: `store`
changes nothing, and a request that builds on an earlier one is refused. Items of another kind become a short text, tools that are no
functions are left out, and notes say so. Trap: tools in a namespace are called by both names, joined with a dot, by the model alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from ...text.calls import ToolCall
from ...text.content import Unread, joined, note, substitute
from .. import sse
from ..app import Service, Task
from ..jobs import Call, Job, Refusal
from .openai import shape
from .sampling import Sampling, settings, unserved
from .turn import Remarks, Turn, arguments_of, drawn, form_of, new_id

CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
}  # items that are calls, and what holds their input
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


class ResponsesAnswer:
    media, watched = sse.MEDIA, False

    def __init__(self, service: Service, body: ResponsesRequest, names: dict[str, dict[str, str]]):
        self.turn, self.names, self.count = Turn(service), names, 2
        self.reply = ResponsesReply(
            new_id("resp_"), int(time.time()), service.config.name, "in_progress", [], instructions=body.instructions,
            tools=body.tools or [], tool_choice=body.tool_choice or "auto", parallel_tool_calls=body.parallel_tool_calls is not False,
        )  # fmt: skip
        self.open: str | None = None  # the channel of an item that more text may come to

    def event(self, kind: str, **data: Any) -> bytes:
        self.count += 1
        return sse.data(
            {"type": f"response.{kind}", "sequence_number": self.count - 1} | data, f"response.{kind}"
        )

    def begin(self) -> Iterator[bytes]:
        """The two events that `count` begins behind: they are asked for when the first of the others is there."""
        opened = msgspec.structs.replace(self.reply, status="in_progress", output=[])
        for number, kind in enumerate(("response.created", "response.in_progress")):
            yield sse.data({"type": kind, "sequence_number": number, "response": opened}, kind)

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        for channel, part in self.turn.take(event):
            if channel == "tool_call":
                yield from self.call(part)
            else:
                yield from self.text(channel, part)

    def item(self, kind: str, **data: Any) -> bytes:
        """An event of the last item."""
        return self.event(kind, output_index=len(self.reply.output) - 1, **data)

    def add(self, item: dict[str, Any]) -> Iterator[bytes]:
        yield from self.close()
        self.reply.output.append(item)
        yield self.item("output_item.added", item=item)

    def text(self, channel: str, text: str) -> Iterator[bytes]:
        thought = channel == "thought"
        if self.open != channel:
            item: dict[str, Any] = {"id": new_id("rs_"), "type": "reasoning", "summary": []} if thought else {
                "id": new_id("msg_"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}  # fmt: skip
            yield from self.add(item)
            part = (
                {"type": "summary_text", "text": ""}
                if thought
                else {"type": "output_text", "text": "", "annotations": []}
            )
            item["summary" if thought else "content"].append(part)
            yield self.part("reasoning_summary_part.added" if thought else "content_part.added", part=part)
            self.open = channel
        self.last["text"] += text
        yield self.part("reasoning_summary_text.delta" if thought else "output_text.delta", delta=text)

    @property
    def last(self) -> dict[str, Any]:
        """The part of the last item that holds its text."""
        item = self.reply.output[-1]
        part: dict[str, Any] = item["summary" if item["type"] == "reasoning" else "content"][0]
        return part

    def part(self, kind: str, **data: Any) -> bytes:
        """An event of the last item's only part."""
        item = self.reply.output[-1]
        place = "summary_index" if item["type"] == "reasoning" else "content_index"
        return self.item(kind, item_id=item["id"], **{place: 0}, **data)

    def call(self, call: ToolCall) -> Iterator[bytes]:
        arguments, named = arguments_of(call), self.names.get(call.name, {"name": call.name})
        item = {
            "id": new_id("fc_"),
            "type": "function_call",
            "call_id": new_id("call_"),
            "arguments": "",
            "status": "in_progress",
        }
        item |= named
        yield from self.add(item)
        item["arguments"], item["status"] = arguments, "completed"
        yield self.item("function_call_arguments.delta", item_id=item["id"], delta=arguments)
        yield self.item("function_call_arguments.done", item_id=item["id"], arguments=arguments)
        yield self.item("output_item.done", item=item)

    def close(self) -> Iterator[bytes]:
        """End the item that text came to."""
        if self.open:
            thought, item = self.open == "thought", self.reply.output[-1]
            yield self.part(
                "reasoning_summary_text.done" if thought else "output_text.done", text=self.last["text"]
            )
            yield self.part("reasoning_summary_part.done" if thought else "content_part.done", part=self.last)
            if not thought:
                item["status"] = "completed"
            yield self.item("output_item.done", item=item)
        self.open = None

    def end(self) -> Iterator[bytes]:
        yield from self.close()
        self.finish()
        yield self.event(self.reply.status, response=self.reply)

    def broken(self, error: Refusal) -> Iterator[bytes]:
        self.reply.status = "failed"
        self.reply.error = {
            "code": "rate_limit_exceeded" if error.status == 429 else "server_error",
            "message": error.message,
        }
        yield self.event("failed", response=self.reply)

    def finish(self) -> None:
        result, reply = self.turn.result, self.reply
        new = len(result.token_ids)
        thought = {"reasoning_tokens": self.turn.thought_tokens}
        reply.usage = ResponsesUsage(
            result.prompt_tokens, new, result.prompt_tokens + new, thought, sum(result.steps), result.canvases
        )
        reply.status, reply.dgemma = "completed", self.turn.notes()
        if result.finish_reason == "length":
            reply.status, reply.incomplete_details = "incomplete", {"reason": "max_output_tokens"}

    def whole(self) -> ResponsesReply:
        for _ in self.close():
            pass
        self.finish()
        return self.reply


def respond(service: Service, body: ResponsesRequest) -> Job:
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(body, name):
            raise Refusal(
                400,
                f"'{name}' is not served: nothing is kept between requests; send the whole input",
                parameter=name,
            )
    if body.truncation not in (None, "disabled"):
        raise unserved("truncation")
    if (body.text or {}).get("verbosity") not in (None, "medium"):
        raise unserved("text.verbosity")
    if stray := [name for name in body.include or () if name != "reasoning.encrypted_content"]:
        raise Refusal(400, f"'{stray[0]:.60}' cannot be included", parameter="include")
    tools, names = _tools(body.tools or [])
    unread = Unread()
    effort = (body.reasoning or {}).get("effort")
    asked = (
        settings(body)
        | form_of((body.text or {}).get("format"))
        | {"max_tokens": body.max_output_tokens, "seed": drawn(body.seed)}
    )
    asked |= {"messages": _messages(body, unread), "thinking": effort not in (None, "none", "minimal")}
    asked |= {
        "tools": tools,
        "tool_choice": _full_names(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
    }
    return Job(
        (Call("stream_chat", asked, tuple(note(unread))),),
        ResponsesAnswer(service, body, names),
        bool(body.stream),
    )


def _tools(given: list[Any]) -> tuple[list[Any], dict[str, dict[str, str]]]:
    """Declarations as a chat takes them, and what each name is to the client. What is no function is left to the chat, which leaves it out."""
    tools, names = [], {}
    for tool in given:
        is_space = isinstance(tool, dict) and tool.get("type") == "namespace"
        space = {"namespace": str(tool.get("name"))} if is_space else {}
        inside = (tool.get("tools") or []) if is_space else [tool]
        for one in inside if isinstance(inside, list) else []:
            if not isinstance(one, dict) or one.get("type") != "function":
                tools.append(one)
                continue
            one = (
                one["function"] if isinstance(one.get("function"), dict) else one
            )  # as chat completions have it
            name = _full(space.get("namespace"), one.get("name"))
            function = {
                "name": name,
                "description": one.get("description"),
                "parameters": one.get("parameters"),
            }
            tools.append({"type": "function", "function": function})
            names[name] = {"name": str(one.get("name"))} | space
    return tools, names


def _full_names(choice: Any) -> Any:
    """A choice whose functions have the names that the model knows."""
    if isinstance(choice, list):
        return [_full_names(one) for one in choice]
    if not isinstance(choice, dict):
        return choice
    named = {"name": _full(choice.get("namespace"), choice["name"])} if "name" in choice else {}
    return (
        choice
        | named
        | {name: _full_names(choice[name]) for name in ("tools", "allowed_tools") if name in choice}
    )


def _full(space: Any, name: Any) -> Any:
    return f"{space}.{name}" if space else name


def _messages(body: ResponsesRequest, unread: Unread) -> list[dict[str, Any]]:
    """The input in the chat's shape. What systems and developers say before anybody else is one system message."""
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    told: list[dict[str, Any]] = (
        [{"role": "system", "content": body.instructions}] if body.instructions else []
    )
    thought = ""
    for n, item in enumerate(items):
        where, kind = f"input[{n}]", item.get("type") or "message"
        if kind == "reasoning":
            thought += joined(item.get("content") or item.get("summary"), where, unread)
            continue
        message = _message(item, kind, where, unread)
        if thought and message["role"] == "assistant":
            message["reasoning_content"], thought = thought, ""
        if message["role"] in ("system", "developer") and len(told) == 1 and told[0]["role"] == "system":
            told[0]["content"] += "\n\n" + message["content"]
        else:
            told.append(message | ({"role": "system"} if message["role"] == "developer" else {}))
    return told


def _message(item: dict[str, Any], kind: Any, where: str, unread: Unread) -> dict[str, Any]:
    if not isinstance(kind, str):
        raise Refusal(400, f"{where}: an item's type must be a text", parameter=where)
    if kind == "item_reference":
        raise Refusal(
            400,
            f"{where}: an item_reference leads nowhere: nothing is kept here; set store to false, and items are sent",
            parameter=where,
        )
    if kind == "message":
        message = {"role": item.get("role"), "content": joined(item.get("content"), where, unread)}
        return message | ({"prefix": True} if item.get("prefix") is True else {})
    if kind in CALLS:
        given = item.get(CALLS[kind])
        arguments = given if kind == "function_call" else {"input": given}
        function = {"name": _full(item.get("namespace"), item.get("name")), "arguments": arguments}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": item.get("call_id"), "function": function}],
        }
    if kind in RESULTS:
        return {
            "role": "tool",
            "tool_call_id": item.get("call_id"),
            "content": joined(item.get("output"), where, unread),
        }
    return {"role": "assistant", "content": substitute(item, kind, unread)}


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
