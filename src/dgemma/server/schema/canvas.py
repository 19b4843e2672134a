"""Our own event stream, POST /v1/canvas: every task of this model, seen settling step by step. Always a stream.

    step     one denoising step of one canvas; tokens are differences to the step before
    commit   a canvas that became text (of an edit: `change`, a span that settled)
    done     the whole answer, usage and times; or error

A client that reads slowly is told of fewer steps, and differences are then to the last one it was told of. Trap: in `row`s of an infill several
canvases of the same number settle side by side, each with differences of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from ...tasks.chat import reply
from ...tasks.events import Committed, Draft, Generation
from ...tasks.infill import default_widths
from .. import sse
from ..app import Service, Task
from ..jobs import Call, Job, Refusal
from .logprobs import asked_of_chat, of_chat
from .openai import shape
from .sampling import RULES, Formed, Sampling, form, seeds, settings


class CanvasRequest(Formed, kw_only=True):
    """`task` and its own fields: chat (messages, tools, thinking), complete (prompt), infill (prefix, suffix, widths), edit
    (document, instruction, spans: pairs of characters)."""

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
    "chat": ("messages", "tools", "tool_choice", "parallel_tool_calls", "continue_final_message", "thinking", "max_tokens"),
    "complete": ("prompt", "max_tokens"),
    "infill": ("prefix", "suffix", "widths", "max_tokens"), "edit": ("document", "instruction", "spans"),
}  # fmt: skip
# what has no meaning in a text that settles in place; an edit has no rules of tokens either
IN_ORDER = (
    *Formed.__struct_fields__[len(Sampling.__struct_fields__) :],
    "logprobs",
    "top_logprobs",
    "stop",
    "bad_words",
    "min_tokens",
)
UNRULED = {"infill": IN_ORDER, "edit": (*IN_ORDER, *(name for name in RULES if name != "temperature"))}
METHODS = {"chat": "stream_chat", "complete": "stream", "infill": "stream_fill", "edit": "stream_edit"}


class CanvasAnswer:
    """The events of one task."""

    media, watched = sse.MEDIA, True

    def __init__(self, service: Service, task: str):
        self.tokenizer, self.task = service.model.tokenizer, task
        self.shown: dict[
            int, tuple[int, list[int]]
        ] = {}  # by row: the canvas that was last told of, and its ids
        self.committed = 0  # tokens

    def begin(self) -> Iterable[bytes]:
        return ()

    def end(self) -> Iterable[bytes]:
        return ()

    def whole(self) -> Any:
        return None

    def broken(self, error: Refusal) -> Iterator[bytes]:
        yield sse.data(shape(error)["error"], "error")

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        if isinstance(event, Draft):
            yield sse.data(self.step(event), "step")
        elif isinstance(event, Committed):
            self.committed += len(event.token_ids)
            told = {"canvas": event.canvas, "steps": event.steps, "text": event.text}
            if self.task == "chat":
                told["parts"] = [{"channel": channel, "text": text} for channel, text in event.parts]
            if event.logprobs:
                told["logprobs"] = msgspec.to_builtins(of_chat(self.tokenizer, event.logprobs))["content"]
            yield sse.data(told, "commit")
        elif isinstance(event, Generation) or hasattr(event, "generation"):
            yield sse.data(self.done(event), "done")
        else:
            yield sse.data(dataclasses.asdict(event), "change")

    def step(self, draft: Draft) -> dict[str, Any]:
        canvas, ids = self.shown.get(draft.row, (-1, []))
        known = ids if canvas == draft.canvas else [-1] * len(draft.token_ids)
        self.shown[draft.row] = draft.canvas, draft.token_ids
        changed = [at for at, (old, new) in enumerate(zip(known, draft.token_ids, strict=True)) if old != new]
        told = {
            "canvas": draft.canvas, "row": draft.row, "step": draft.step, "start": self.committed, "width": len(draft.token_ids),
            "tokens": [{"at": at, "id": draft.token_ids[at], "text": draft.pieces[at]} for at in changed],
            "accepted": [at for at, taken in enumerate(draft.accepted) if taken],
            "entropy": [round(nats, 3) for nats in draft.entropy],
            "mean_entropy": round(sum(draft.entropy) / len(draft.entropy), 4),
        }  # fmt: skip
        if canvas != draft.canvas:
            told["pinned"] = [at for at, given in enumerate(draft.pinned) if given]
        return told

    def done(self, result: Any) -> dict[str, Any]:
        generation: Generation = getattr(result, "generation", result)
        new, steps = len(generation.token_ids), sum(generation.steps)
        told = {
            "text": result.text, "finish_reason": generation.finish_reason, "seed": generation.seed, "notes": generation.notes,
            "usage": {
                "prompt_tokens": generation.prompt_tokens, "completion_tokens": new,
                "total_tokens": generation.prompt_tokens + new, "steps": steps, "canvases": generation.canvases,
            },
            "timings": {
                "seconds": generation.seconds, "first_draft_seconds": generation.first_draft_seconds,
                "tokens_per_second": generation.tokens_per_second, "steps_per_canvas": generation.steps_per_canvas,
            },
        }  # fmt: skip
        if self.task == "chat":
            parts = reply(self.tokenizer, generation)
            calls = [{"name": call.name, "arguments": call.arguments} for call in parts.tool_calls]
            told |= {
                "text": parts.content,
                "thought": parts.thought,
                "tool_calls": calls,
                "malformed": parts.malformed,
            }
        if self.task == "infill":
            told |= {"width": result.width, "closed": result.closed, "candidates": result.candidates}
        if self.task == "edit":
            told["diff"] = result.diff()
        return told


def canvas(service: Service, body: CanvasRequest) -> Job:
    """A job of one call. Raises Refusal for fields that are another task's, and for those that a task needs."""
    own = FIELDS[body.task]
    given = {name for names in FIELDS.values() for name in names if getattr(body, name) is not None}
    if stray := sorted(given - set(own)):
        raise Refusal(
            400,
            f"'{stray[0]}' has no meaning in the task {body.task}; it takes {', '.join(own)}",
            parameter=stray[0],
        )
    asked = (
        {name: getattr(body, name) for name in own if name in given}
        | settings(body)
        | {"seed": seeds(body.seed, 1)[0]}
    )
    if body.task in ("chat", "complete"):
        asked |= form(body) | asked_of_chat(body.logprobs, body.top_logprobs)
    elif unruled := next((name for name in UNRULED[body.task] if getattr(body, name, None)), None):
        raise Refusal(
            400, f"'{unruled}' has no meaning in the task {body.task}; leave it out", parameter=unruled
        )
    if body.task == "infill":
        asked = {"prefix": "", "suffix": ""} | asked
        longest = asked.pop("max_tokens", None)
        if longest is not None:
            asked.setdefault(
                "widths", default_widths(body.canvas_width or service.model.config.canvas_length, longest)
            )
    elif body.task == "complete":
        asked["text"] = asked.pop("prompt", "")
    elif own[0] not in given:
        raise Refusal(400, f"the task {body.task} needs '{own[0]}'", parameter=own[0])
    return Job((Call(METHODS[body.task], asked),), CanvasAnswer(service, body.task), stream=True)


EXAMPLE = {"task": "infill", "prefix": "def area(r):\n", "suffix": "\n\nprint(area(2))\n", "widths": [4, 8]}
ROUTES = (Task("/v1/canvas", CanvasRequest, canvas, shape, example=EXAMPLE, whole=False),)
