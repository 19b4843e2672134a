"""Our own event stream, POST /v1/canvas: every task of this model, seen settling step by step.

Always a stream.

    step     one denoising step of one canvas; tokens are differences to the step before
    commit   a canvas that became text (of an edit: `change`, a span that settled)
    done     the whole answer, usage and times; or error

A client that reads slowly gets fewer steps, and differences are then to the last one that was sent. Trap: in
`row`s of an infill several canvases of the same number settle side by side, each with differences of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from ...tasks.chat import reply
from ...tasks.events import Committed, Draft, Generation
from ...tasks.infill import default_widths
from .. import sse
from ..jobs import Call, Job, RequestError
from ..routes import ServedModel, Task
from .logprobs import chat_logprobs_params, of_chat
from .openai_answers import shape
from .sampling import FORMS, RULES, Formed, constraint_of, params_of, seeds
from .usage import usage_of


class CanvasRequest(Formed, kw_only=True):
    """`task` and its own fields: chat (messages, tools, thinking), complete (prompt), infill (prefix, suffix,
    widths), edit (document, instruction, spans: pairs of characters).
    """

    task: Literal["chat", "complete", "infill", "edit"]
    model: str | None = None
    max_tokens: int | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    thinking: bool | None = None
    prompt: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    widths: list[int] | None = None
    document: str | None = None
    instruction: str | None = None
    spans: list[tuple[int, int]] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


FIELDS = {
    "chat": (
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "continue_final_message",
        "thinking",
        "max_tokens",
    ),
    "complete": ("prompt", "max_tokens"),
    "infill": ("prefix", "suffix", "widths", "max_tokens"),
    "edit": ("document", "instruction", "spans"),
}
# what has no meaning in a text that settles in place; an edit has no rules of tokens either
IN_ORDER = (*FORMS, "logprobs", "top_logprobs", "stop", "bad_words", "min_tokens")
MEANINGLESS = {"infill": IN_ORDER, "edit": (*IN_ORDER, *RULES)}
METHODS = {"chat": "stream_chat", "complete": "stream", "infill": "stream_fill", "edit": "stream_edit"}


class CanvasAnswer:
    """The events of one task."""

    media = sse.MEDIA
    watched = True

    def __init__(self, service: ServedModel, task: str):
        self.tokenizer = service.model.tokenizer
        self.task = task
        self.shown: dict[
            int, tuple[int, list[int]]
        ] = {}  # by row: the canvas that was last sent, and its ids
        self.committed = 0  # tokens

    def begin(self) -> Iterable[bytes]:
        return ()

    def end(self) -> Iterable[bytes]:
        return ()

    def whole(self) -> Any:
        return None

    def broken(self, error: RequestError) -> Iterator[bytes]:
        yield sse.data(shape(error)["error"], "error")

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        if isinstance(event, Draft):
            yield sse.data(self.step(event), "step")
        elif isinstance(event, Committed):
            self.committed += len(event.token_ids)
            yield sse.data(self.commit(event), "commit")
        elif isinstance(event, Generation) or hasattr(event, "generation"):
            yield sse.data(self.done(event), "done")
        else:
            yield sse.data(dataclasses.asdict(event), "change")

    def commit(self, event: Committed) -> dict[str, Any]:
        data: dict[str, Any] = {"canvas": event.canvas, "steps": event.steps, "text": event.text}
        if self.task == "chat":
            data["parts"] = [{"channel": channel, "text": text} for channel, text in event.parts]
        if event.logprobs:
            data["logprobs"] = of_chat(self.tokenizer, event.logprobs).content
        return data

    def step(self, draft: Draft) -> dict[str, Any]:
        canvas, shown_ids = self.shown.get(draft.row, (-1, []))
        is_new = canvas != draft.canvas
        known = shown_ids
        if is_new:
            known = [-1] * len(draft.token_ids)
        self.shown[draft.row] = (draft.canvas, draft.token_ids)
        pairs = enumerate(zip(known, draft.token_ids, strict=True))
        changed = [at for at, (old, new) in pairs if old != new]
        data = {
            "canvas": draft.canvas,
            "row": draft.row,
            "step": draft.step,
            "start": self.committed,
            "width": len(draft.token_ids),
            "tokens": [{"at": at, "id": draft.token_ids[at], "text": draft.pieces[at]} for at in changed],
            "accepted": [at for at, is_accepted in enumerate(draft.accepted) if is_accepted],
            "entropy": [round(nats, 3) for nats in draft.entropy],
            "mean_entropy": round(sum(draft.entropy) / len(draft.entropy), 4),
        }
        if is_new:
            data["pinned"] = [at for at, is_pinned in enumerate(draft.pinned) if is_pinned]
        return data

    def done(self, result: Any) -> dict[str, Any]:
        generation: Generation = getattr(result, "generation", result)
        data = {
            "text": result.text,
            "finish_reason": generation.finish_reason,
            "seed": generation.seed,
            "notes": generation.notes,
            "usage": usage_of(generation),
            "timings": {
                "seconds": generation.seconds,
                "first_draft_seconds": generation.first_draft_seconds,
                "tokens_per_second": generation.tokens_per_second,
                "steps_per_canvas": generation.steps_per_canvas,
            },
        }
        if self.task == "chat":
            parts = reply(self.tokenizer, generation)
            data["text"] = parts.content
            data["thought"] = parts.thought
            data["tool_calls"] = [
                {"name": call.name, "arguments": call.arguments} for call in parts.tool_calls
            ]
            data["malformed"] = parts.malformed
        if self.task == "infill":
            data |= {"width": result.width, "closed": result.closed, "candidates": result.candidates}
        if self.task == "edit":
            data["diff"] = result.diff()
        return data


def canvas(service: ServedModel, body: CanvasRequest) -> Job:
    """A job of one call.

    Raises RequestError for fields that are another task's, and for those that a task needs.
    """
    task = body.task
    fields = FIELDS[task]
    given = _given_fields(body)
    params = {name: getattr(body, name) for name in fields if name in given}
    params |= params_of(body)
    params["seed"] = seeds(body.seed, 1)[0]
    if task in ("chat", "complete"):
        params |= constraint_of(body) | chat_logprobs_params(body.logprobs, body.top_logprobs)
    else:
        _check_meaning(body)
    if task == "complete":
        params["text"] = params.pop("prompt", "")
    elif task == "infill":
        params = {"prefix": "", "suffix": ""} | params
        longest = params.pop("max_tokens", None)
        if longest is not None and "widths" not in params:
            width = body.canvas_width or service.model.config.canvas_length
            params["widths"] = default_widths(width, longest)
    elif fields[0] not in given:
        raise RequestError(400, f"the task {task} needs '{fields[0]}'", parameter=fields[0])
    return Job((Call(METHODS[task], params),), CanvasAnswer(service, task), stream=True)


def _given_fields(body: CanvasRequest) -> set[str]:
    """The fields of tasks that a body names. Raises RequestError where one is another task's."""
    fields = FIELDS[body.task]
    given = {name for names in FIELDS.values() for name in names if getattr(body, name) is not None}
    for name in sorted(given - set(fields)):
        message = f"'{name}' has no meaning in the task {body.task}; it takes {', '.join(fields)}"
        raise RequestError(400, message, parameter=name)
    return given


def _check_meaning(body: CanvasRequest) -> None:
    """Raise RequestError for a parameter that means nothing in a text that settles in place."""
    for name in MEANINGLESS[body.task]:
        if getattr(body, name, None):
            message = f"'{name}' has no meaning in the task {body.task}; leave it out"
            raise RequestError(400, message, parameter=name)


EXAMPLE = {"task": "infill", "prefix": "def area(r):\n", "suffix": "\n\nprint(area(2))\n", "widths": [4, 8]}
ROUTES = (Task("/v1/canvas", CanvasRequest, canvas, shape, example=EXAMPLE, whole=False),)
