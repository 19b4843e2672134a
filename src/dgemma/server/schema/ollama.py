"""Ollama's dialect: generate (with a suffix: a gap) and chat. Streams are lines of JSON, and the default.

What it says of the model stands in ollama_models.py.

A chat-tuned model reads the prompt of `generate` as a user's turn, unless it is `raw`; any other model goes
on from it. `options` hold the sampler's settings; those of Ollama's runner (num_ctx, num_gpu ...) change
nothing here. Trap: an empty prompt asks that the model be loaded, which it is.
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
from ..jobs import Call, Job, RequestError
from ..routes import ServedModel, Task
from .gaps import gap
from .sampling import Sampling, params_of, unserved
from .sentinels import MarkedGap, marked_gap, without_marks
from .turn import Turn, constraint_from_format, drawn
from .usage import usage_of

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


def shape(error: RequestError) -> dict[str, Any]:
    """An error's body."""
    return {"error": error.message}


class OllamaAnswer:
    """The lines of a generation or, where `chat`, of a conversation's turn."""

    media = MEDIA
    watched = False

    def __init__(self, service: ServedModel, chat: bool, stops: Any = None):
        self.model = service.config.name
        self.chat = chat
        self.stops = stops
        self.turn = Turn(service)
        self.content: dict[str, Any] = {"content": ""}  # all parts so far, put together
        self.result: Generation | None = None

    def line(self, parts: dict[str, Any], done: bool = False, **more: Any) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        head = {"model": self.model, "created_at": now}
        return head | self.body(parts) | {"done": done} | more

    def body(self, parts: dict[str, Any]) -> dict[str, Any]:
        if self.chat:
            return {"message": {"role": "assistant", "content": ""} | parts}
        body = {"response": parts.get("content", "")}
        if "thinking" in parts:
            body["thinking"] = parts["thinking"]
        return body

    def begin(self) -> Iterator[bytes]:
        yield from ()

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        for parts in self.parts(event):
            for key, value in parts.items():
                self.content[key] = self.content[key] + value if key in self.content else value
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
                elif channel == "thought":
                    yield {"thinking": part}
                else:
                    yield {"content": part}

    def end(self) -> Iterator[bytes]:
        yield _written(self.line({}, True, **self.figures()))

    def broken(self, error: RequestError) -> Iterator[bytes]:
        yield _written(shape(error))

    def whole(self) -> dict[str, Any]:
        return self.line(self.content, True, **self.figures())

    def figures(self) -> dict[str, Any]:
        """Counts, and times in nanoseconds.

        `prompt_eval_duration` is the time to the first draft, `eval_duration` what followed.
        """
        result = self.result
        if result is None:
            return {"done_reason": "load"}
        usage = usage_of(result)
        total = round(1e9 * result.seconds)
        first_draft = round(1e9 * result.first_draft_seconds)
        return {
            "done_reason": result.finish_reason,
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": first_draft,
            "eval_count": usage.completion_tokens,
            "eval_duration": max(total - first_draft, 0),
            "steps": usage.steps,
            "canvases": usage.canvases,
            "dgemma": {"seed": result.seed, "notes": result.notes},
        }


def _written(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _call(call: ToolCall) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": call.arguments}}


def generate(service: ServedModel, body: GenerateRequest) -> Job:
    for name in ("template", "context", "images"):
        if getattr(body, name):
            raise unserved(name)
    options, limit = _options(body)
    marked = MarkedGap(body.prompt, body.suffix) if body.suffix else marked_gap(body.prompt)
    if marked is not None:
        if body.format:
            raise RequestError(400, "'format' has no meaning in a gap", parameter="format")
        call = gap(service, options, marked.prefix, marked.suffix, limit, marked.files)
        return Job((call,), OllamaAnswer(service, False, without_marks(options.stop)), body.stream)
    answer = OllamaAnswer(service, False)
    if not body.prompt:
        return Job((), answer, body.stream)
    params = _params(body, options, limit)
    if service.model.chat_tuned and not body.raw:
        params |= {"messages": _prompt_messages(body), "thinking": _thinks(body)}
        return Job((Call("stream_chat", params),), answer, body.stream)
    if body.think or body.system:
        message = "'system' and 'think' are a chat's; a text that is gone on from has neither"
        raise RequestError(400, message, parameter="system")
    return Job((Call("stream", params | {"text": body.prompt}),), answer, body.stream)


def _prompt_messages(body: GenerateRequest) -> list[dict[str, Any]]:
    prompt = {"role": "user", "content": body.prompt}
    if body.system:
        return [{"role": "system", "content": body.system}, prompt]
    return [prompt]


def chat(service: ServedModel, body: OllamaChatRequest) -> Job:
    options, limit = _options(body)
    answer = OllamaAnswer(service, True)
    if not body.messages:
        return Job((), answer, body.stream)
    messages, notes = conversation(body.messages)
    thinking = _thinks(body)
    is_answer = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    params = _params(body, options, limit)
    params |= {
        "messages": messages,
        "tools": body.tools,
        "thinking": thinking,
        # Ollama goes on from such a message
        "continue_final_message": is_answer and not thinking and not body.format,
    }
    return Job((Call("stream_chat", params, notes),), answer, body.stream)


def _params(body: OllamaRequest, options: Options, limit: int | None) -> dict[str, Any]:
    """What both kinds of answer take: sampling, form, length and seed."""
    params = params_of(options) | _constraint_of(body.format)
    return params | {"max_tokens": limit, "seed": drawn(options.seed)}


def _options(body: OllamaRequest) -> tuple[Options, int | None]:
    """The sampler's settings and the longest answer. Raises RequestError for what is not served."""
    for name in ("logprobs", "top_logprobs"):
        if getattr(body, name):
            raise unserved(name)
    options = body.options or Options()
    if options.repeat_penalty is not None:
        options = msgspec.structs.replace(options, repetition_penalty=options.repeat_penalty)
    limit = options.num_predict
    return options, None if limit in (-1, -2) else limit


def _constraint_of(given: Any) -> dict[str, Any]:
    """`format`: "json", or a schema."""
    if given == "json":
        return constraint_from_format({"type": "json_object"})
    if given:
        return constraint_from_format({"type": "json_schema", "schema": given})
    return constraint_from_format(None)


def _thinks(body: OllamaRequest) -> bool:
    """`think`: whether, or how hard, which is one here. Raises RequestError for other words."""
    if isinstance(body.think, str) and body.think not in EFFORTS:
        raise RequestError(400, f"'think' is true, false or one of {', '.join(EFFORTS)}", parameter="think")
    return bool(body.think) and body.think != "none"


def conversation(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Messages as text/turns.py reads them, and notes.

    Calls have no ids here: results belong to them by name, else in order.
    """
    turns: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []  # calls without a result so far
    unread: Unread = Counter()
    for place, message in enumerate(messages):
        turn = {"role": message.get("role"), "content": _content(message, f"messages[{place}]", unread)}
        if calls := message.get("tool_calls"):
            waiting = turn["tool_calls"] = _numbered(calls, place)
        if turn["role"] == "tool":
            turn |= _answered(message, waiting)
        elif thought := message.get("thinking"):
            turn["reasoning_content"] = thought
        turns.append(turn)
        waiting = [call for call in waiting if call["id"] != turn.get("tool_call_id")]
    return turns, tuple(note(unread))


def _content(message: dict[str, Any], where: str, unread: Unread) -> str:
    parts: list[Any] = [message["content"]] if message.get("content") else []
    pictures = message.get("images")
    if isinstance(pictures, list):
        parts += [{"type": "image"}] * len(pictures)
    return joined(parts, where, unread)


def _numbered(calls: Any, place: int) -> list[dict[str, Any]]:
    """The calls of a message, each with an id. Raises RequestError for what is no list of calls."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RequestError(
            400, f"messages[{place}]: tool_calls must be a list of calls", parameter="messages"
        )
    return [call | {"id": call.get("id") or f"call_{place}_{number}"} for number, call in enumerate(calls)]


def _answered(message: dict[str, Any], waiting: list[dict[str, Any]]) -> dict[str, Any]:
    """Which of the waiting calls a result is of: by its id, by the tool's name, else the first."""
    key = message.get("tool_call_id")
    name = message.get("tool_name") or message.get("name")
    matching = [call for call in waiting if key is not None and call["id"] == key]
    if not matching and name is not None:
        matching = [call for call in waiting if _tool(call) == name]
    if not matching:
        matching = waiting
    if matching:
        return {"tool_call_id": matching[0]["id"]}
    return {"tool_call_id": key, "name": name}


def _tool(call: dict[str, Any]) -> Any:
    function = call.get("function")
    if isinstance(function, dict):
        return function.get("name")
    return None


EXAMPLE = {"model": "dgemma", "options": {"num_predict": 8}}
GENERATE_EXAMPLE = EXAMPLE | {"prompt": "def area(r):"}
CHAT_EXAMPLE = EXAMPLE | {"messages": [{"role": "user", "content": "Hello"}]}
ROUTES = (
    Task("/api/generate", GenerateRequest, generate, shape, None, GENERATE_EXAMPLE, stream=MEDIA),
    Task("/api/chat", OllamaChatRequest, chat, shape, None, CHAT_EXAMPLE, stream=MEDIA),
)
