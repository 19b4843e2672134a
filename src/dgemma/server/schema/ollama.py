"""Ollama's dialect: generate (with a suffix: a gap) and chat. Streams are lines of JSON, and the default.

What it tells of the model stands in ollama_models.py.

A chat-tuned model reads the prompt of `generate` as a user's turn, unless it is `raw`; any other model goes on from it. `options`
hold the sampler's settings; those of Ollama's runner (num_ctx, num_gpu ...) change nothing here. Trap: an empty prompt asks that the
model be loaded, which it is.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from ...tasks.events import Committed, Filling, Generation
from ...text.calls import ToolCall
from ...text.content import Unread, joined, note
from ...text.stream import cut_at_stop
from ..app import Service, Task
from ..jobs import Call, Job, Refusal
from .gaps import gap
from .sampling import Sampling, settings, unserved
from .sentinels import MarkedGap, marked_gap, without_marks
from .turn import Turn, drawn, form_of

MEDIA = "application/x-ndjson"
EFFORTS = ("none", "low", "medium", "high", "max")


class Options(Sampling, kw_only=True):
    num_predict: int | None = None  # -1 and -2: the default length
    repeat_penalty: float | None = None
    # these change nothing here
    num_ctx: Any = None
    num_keep: Any = None
    num_batch: Any = None
    num_gpu: Any = None
    main_gpu: Any = None
    num_thread: Any = None
    use_mmap: Any = None
    use_mlock: Any = None
    low_vram: Any = None
    numa: Any = None


class OllamaRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    stream: bool = True
    options: Options | None = None
    think: bool | str | None = None
    format: Any = None
    keep_alive: Any = None  # the model stays
    truncate: Any = None  # no conversation is cut: one that is too long is refused
    shift: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class GenerateRequest(OllamaRequest, kw_only=True):
    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    raw: bool = False
    template: str | None = None
    context: list[int] | None = None
    images: list[Any] | None = None


class OllamaChatRequest(OllamaRequest, kw_only=True):
    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] | None = None


def shape(refusal: Refusal) -> dict[str, Any]:
    """An error's body."""
    return {"error": refusal.message}


class OllamaAnswer:
    """The lines of a generation or, where `chat`, of a conversation's turn."""

    media, watched = MEDIA, False

    def __init__(self, service: Service, chat: bool, stops: Any = None):
        self.model, self.chat, self.stops, self.turn = service.config.name, chat, stops, Turn(service)
        self.told: dict[str, Any] = {"content": ""}  # put together
        self.result: Generation | None = None

    def line(self, parts: dict[str, Any], done: bool = False, **more: Any) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        if self.chat:
            told = {"message": {"role": "assistant", "content": ""} | parts}
        else:
            told = {"response": parts.get("content", "")} | {
                key: value for key, value in parts.items() if key == "thinking"
            }
        return {"model": self.model, "created_at": now} | told | {"done": done} | more

    def begin(self) -> Iterator[bytes]:
        yield from ()

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        for parts in self.parts(event):
            for key, value in parts.items():
                self.told[key] = self.told[key] + value if key in self.told else value
            yield _written(self.line(parts))

    def parts(self, event: Any) -> Iterator[dict[str, Any]]:
        if isinstance(event, Filling):
            self.result = event.generation
            yield {"content": cut_at_stop(event.text, self.stops)[0]}
        elif isinstance(event, Committed | Generation):
            self.result = event if isinstance(event, Generation) else None
            for channel, part in self.turn.take(event):
                if channel == "tool_call":
                    yield {"tool_calls": [_call(part)]}
                else:
                    yield {"thinking" if channel == "thought" else "content": part}

    def end(self) -> Iterator[bytes]:
        yield _written(self.line({}, True, **self.figures()))

    def broken(self, error: Refusal) -> Iterator[bytes]:
        yield _written(shape(error))

    def whole(self) -> dict[str, Any]:
        return self.line(self.told, True, **self.figures())

    def figures(self) -> dict[str, Any]:
        """Times in nanoseconds; `prompt_eval_duration` is the time to the first draft, `eval_duration` what followed."""
        found = self.result
        if found is None:
            return {"done_reason": "load"}
        total, first = round(1e9 * found.seconds), round(1e9 * found.first_draft_seconds)
        return {
            "done_reason": found.finish_reason, "total_duration": total, "load_duration": 0, "prompt_eval_count": found.prompt_tokens,
            "prompt_eval_duration": first, "eval_count": len(found.token_ids), "eval_duration": max(total - first, 0),
            "steps": sum(found.steps), "canvases": found.canvases, "dgemma": {"seed": found.seed, "notes": found.notes},
        }  # fmt: skip


def _written(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _call(call: ToolCall) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": call.arguments}}


def generate(service: Service, body: GenerateRequest) -> Job:
    for name in ("template", "context", "images"):
        if getattr(body, name):
            raise unserved(name)
    options, limit = _options(body)
    around = MarkedGap(body.prompt, body.suffix) if body.suffix else marked_gap(body.prompt)
    if around is not None:
        if body.format:
            raise Refusal(400, "'format' has no meaning in a gap", parameter="format")
        call = gap(service, options, around.prefix, around.suffix, limit, around.files)
        return Job((call,), OllamaAnswer(service, False, without_marks(options.stop)), body.stream)
    if not body.prompt:
        return Job((), OllamaAnswer(service, False), body.stream)
    asked = settings(options) | _form(body.format) | {"max_tokens": limit, "seed": drawn(options.seed)}
    if body.raw or not service.model.chat_tuned:
        if body.think or body.system:
            raise Refusal(
                400,
                "'system' and 'think' are a chat's; a text that is gone on from has neither",
                parameter="system",
            )
        return Job(
            (Call("stream", asked | {"text": body.prompt}),), OllamaAnswer(service, False), body.stream
        )
    told = [{"role": "system", "content": body.system}] if body.system else []
    asked |= {"messages": [*told, {"role": "user", "content": body.prompt}], "thinking": _thinks(body)}
    return Job((Call("stream_chat", asked),), OllamaAnswer(service, False), body.stream)


def chat(service: Service, body: OllamaChatRequest) -> Job:
    options, limit = _options(body)
    if not body.messages:
        return Job((), OllamaAnswer(service, True), body.stream)
    messages, notes = conversation(body.messages)
    asked = (
        settings(options)
        | _form(body.format)
        | {"max_tokens": limit, "seed": drawn(options.seed), "thinking": _thinks(body)}
    )
    is_last = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    begun = is_last and not asked["thinking"] and not body.format  # Ollama goes on from such a message
    asked |= {"tools": body.tools, "messages": messages, "continue_final_message": begun}
    return Job((Call("stream_chat", asked, notes),), OllamaAnswer(service, True), body.stream)


def _options(body: OllamaRequest) -> tuple[Options, int | None]:
    """The sampler's settings and the longest answer. Raises Refusal for what is not served."""
    for name in ("logprobs", "top_logprobs"):
        if getattr(body, name):
            raise unserved(name)
    options = body.options or Options()
    penalty, limit = options.repeat_penalty, options.num_predict
    if penalty is not None:
        options = msgspec.structs.replace(options, repetition_penalty=penalty)
    return options, None if limit in (-1, -2) else limit


def _form(given: Any) -> dict[str, Any]:
    """`format`: "json", or a schema."""
    return form_of(
        {"type": "json_object"}
        if given == "json"
        else {"type": "json_schema", "schema": given}
        if given
        else None
    )


def _thinks(body: OllamaRequest) -> bool:
    """`think`: whether, or how hard, which is one here. Raises Refusal for other words."""
    if isinstance(body.think, str) and body.think not in EFFORTS:
        raise Refusal(400, f"'think' is true, false or one of {', '.join(EFFORTS)}", parameter="think")
    return bool(body.think) and body.think != "none"


def conversation(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Messages as text/turns.py reads them, and notes. Calls have no ids here: results belong to them by name, else in order."""
    found: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []  # calls without a result so far
    unread: Unread = Counter()
    for place, message in enumerate(messages):
        read = {"role": message.get("role"), "content": _content(message, f"messages[{place}]", unread)}
        if calls := message.get("tool_calls"):
            waiting = read["tool_calls"] = _numbered(calls, place)
        if read["role"] == "tool":
            read |= _answered(message, waiting)
        elif thought := message.get("thinking"):
            read["reasoning_content"] = thought
        found.append(read)
        waiting = [call for call in waiting if call["id"] != read.get("tool_call_id")]
    return found, tuple(note(unread))


def _content(message: dict[str, Any], where: str, unread: Unread) -> str:
    pictures = message.get("images")
    parts = [
        message.get("content") or "",
        *[{"type": "image"}] * len(pictures if isinstance(pictures, list) else ()),
    ]
    return joined([part for part in parts if part], where, unread)


def _numbered(calls: Any, place: int) -> list[dict[str, Any]]:
    """The calls of a message, each with an id. Raises Refusal for what is no list of calls."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise Refusal(400, f"messages[{place}]: tool_calls must be a list of calls", parameter="messages")
    return [call | {"id": call.get("id") or f"call_{place}_{number}"} for number, call in enumerate(calls)]


def _answered(message: dict[str, Any], waiting: list[dict[str, Any]]) -> dict[str, Any]:
    """Which of the waiting calls a result is of: by its id, by the tool's name, else the first."""
    key, name = message.get("tool_call_id"), message.get("tool_name") or message.get("name")
    named = [call for call in waiting if key is not None and call["id"] == key]
    named = named or [call for call in waiting if name is not None and _tool(call) == name]
    matching = named or waiting
    return {"tool_call_id": matching[0]["id"]} if matching else {"tool_call_id": key, "name": name}


def _tool(call: dict[str, Any]) -> Any:
    function = call.get("function")
    return function.get("name") if isinstance(function, dict) else None


SHORT = {"model": "dgemma", "options": {"num_predict": 8}}
ROUTES = (
    Task("/api/generate", GenerateRequest, generate, shape, None, SHORT | {"prompt": "def area(r):"}, stream=MEDIA),
    Task("/api/chat", OllamaChatRequest, chat, shape, None, SHORT | {"messages": [{"role": "user", "content": "Hello"}]}, stream=MEDIA),
)  # fmt: skip
