"""What editors send to have a gap filled: llama-server's /infill, and /v1/fim/completions, the shape of Mistral and Inception.

A gap is told once, when it is closed and the best of its widths is known. Stop strings cut it there. Trap: editors send samplers'
settings with every gap, because some server has them; they are named in a note, and the gap is filled all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from ...tasks.events import Filling, Generation
from ...tasks.infill import default_widths
from ...text.stream import cut_at_stop
from .. import sse
from ..app import Service, Task
from ..jobs import Call, Job, Refusal
from .openai import StreamOptions, Usage, shape
from .sampling import OWN, RULES, Sampling, settings
from .sentinels import File, MarkedGap, marked_gap, without_marks
from .turn import Remarks, drawn, new_id


class FimRequest(Sampling, kw_only=True):
    prompt: str
    suffix: str | None = None
    max_tokens: int | None = None
    random_seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    model: str | None = None
    user: Any = None


class FimChoice(msgspec.Struct):
    index: int
    text: str
    message: dict[str, Any]
    finish_reason: str


class FimReply(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[FimChoice]
    usage: Usage
    dgemma: Remarks
    object: str = "text_completion"


class ExtraFile(msgspec.Struct):
    text: str
    filename: str = "file"
    time: Any = None


class InfillRequest(Sampling, kw_only=True):
    """The gap is behind input_prefix and prompt. n_predict: 0 answers with nothing at once; editors warm caches with it."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraFile] | None = None
    prompt: str = ""
    n_predict: int | None = None
    stream: bool | None = None
    response_fields: list[str] | None = None
    model: str | None = None
    cache_prompt: Any = None  # these two change nothing here
    id_slot: Any = None
    samplers: Any = None  # and these are told as not heeded
    t_max_prompt_ms: Any = None
    t_max_predict_ms: Any = None
    n_indent: Any = None
    repeat_penalty: Any = None


UNHEEDED = ("samplers", "t_max_prompt_ms", "t_max_predict_ms", "n_indent", "repeat_penalty")


def gap(
    service: Service,
    body: Sampling,
    prefix: str,
    suffix: str,
    longest: int | None,
    files: Sequence[File] = (),
) -> Call:
    """The call that fills a gap, `files` read before it, of at most `longest` tokens, and never of more than half a canvas: what editors give is a bound, and
    each width that is tried costs them time."""
    asked = settings(SimpleNamespace(**{name: getattr(body, name) for name in OWN}))
    unheeded = [name for name in UNHEEDED if getattr(body, name, None)]
    for name in RULES:
        value = None if name == "stop" else getattr(body, name, None)
        if value is None:
            continue
        if name == "temperature":  # of the schedule, which a gap has too
            asked[name] = value
        else:
            unheeded.append(name)
    canvas = body.canvas_width or service.model.config.canvas_length
    widths = default_widths(canvas, None if longest is None else min(longest, max(1, canvas // 2)))
    asked |= {"prefix": prefix, "suffix": suffix, "seed": drawn(body.seed), "widths": widths}
    asked["extra"] = files
    return Call("stream_fill", asked, (f"not heeded: {', '.join(unheeded)}",) if unheeded else ())


class _GapAnswer:
    """What both dialects share: the text up to its stop string, and the figures."""

    media, watched = sse.MEDIA, False

    def __init__(self, service: Service, stops: str | list[str] | None):
        self.model, self.stops = service.config.name, stops
        self.text, self.stop = "", ""
        self.is_filled = False
        self.result: Generation  # there once the gap is filled
        self.candidates: list[str] = []

    def begin(self) -> Iterable[bytes]:
        return ()

    def take(self, index: int, event: Any) -> Iterable[bytes]:
        if isinstance(event, Filling):
            self.is_filled, self.result = True, event.generation
            self.text, self.stop = cut_at_stop(event.text, self.stops)
            self.candidates = [cut_at_stop(text, self.stops)[0] for text in event.candidates]
        return ()

    def broken(self, error: Refusal) -> Iterator[bytes]:
        yield sse.data(shape(error))

    @property
    def reason(self) -> str:
        return "stop" if self.stop else self.result.finish_reason

    def told(self) -> Remarks:
        return Remarks(self.result.seed, self.result.notes)


class FimAnswer(_GapAnswer):
    def __init__(self, service: Service, body: FimRequest):
        super().__init__(service, body.stop)
        self.id, self.created = new_id("fim-"), int(time.time())

    def chunk(self, text: str, reason: str | None = None, **more: Any) -> bytes:
        choice = {
            "index": 0,
            "text": text,
            "delta": {"role": "assistant", "content": text},
            "finish_reason": reason,
        }
        head = {
            "id": self.id,
            "object": "text_completion.chunk",
            "created": self.created,
            "model": self.model,
        }
        return sse.data(head | {"choices": [choice]} | more)

    def end(self) -> Iterator[bytes]:
        yield self.chunk(self.text)
        yield self.chunk("", self.reason, usage=self.usage(), dgemma=self.told())
        yield sse.DONE

    def usage(self) -> Usage:
        found, new = self.result, len(self.result.token_ids)
        return Usage(found.prompt_tokens, new, found.prompt_tokens + new, sum(found.steps), found.canvases)

    def whole(self) -> FimReply:
        choice = FimChoice(0, self.text, {"role": "assistant", "content": self.text}, self.reason)
        return FimReply(self.id, self.created, self.model, [choice], self.usage(), self.told())


class InfillAnswer(_GapAnswer):
    def __init__(self, service: Service, body: InfillRequest):
        super().__init__(service, body.stop)
        self.fields, self.context = body.response_fields, service.model.config.max_position_embeddings

    def end(self) -> Iterator[bytes]:
        if self.text:
            yield sse.data({"index": 0, "content": self.text, "stop": False})
        yield sse.data(
            self.whole() | ({"content": ""} if not self.fields or "content" in self.fields else {})
        )

    def whole(self) -> dict[str, Any]:
        """llama-server's figures. `prompt_ms` is the time to the first draft, `predicted_ms` what followed."""
        told: dict[str, Any] = {
            "index": 0, "content": self.text, "stop": True, "model": self.model, "tokens_predicted": 0, "tokens_evaluated": 0,
            "stop_type": "limit", "stopping_word": self.stop, "truncated": False, "generation_settings": {"n_ctx": self.context},
        }  # fmt: skip
        if self.is_filled:
            found = self.result
            new, first = len(found.token_ids), found.first_draft_seconds
            rest = max(found.seconds - first, 1e-9)
            told |= {
                "tokens_predicted": new,
                "tokens_evaluated": found.prompt_tokens,
                "steps": sum(found.steps),
                "dgemma": self.told(),
            }
            told["candidates"] = self.candidates
            told["stop_type"] = "word" if self.stop else "eos" if self.reason == "stop" else "limit"
            told["timings"] = {
                "prompt_n": found.prompt_tokens, "prompt_ms": 1e3 * first, "prompt_per_second": found.prompt_tokens / max(first, 1e-9),
                "predicted_n": new, "predicted_ms": 1e3 * rest, "predicted_per_second": new / rest,
            }  # fmt: skip
        return (
            told
            if not self.fields
            else {name: value for name in self.fields if (value := _at(told, name)) is not None}
        )


def _at(told: dict[str, Any], name: str) -> Any:
    """What a path such as timings/prompt_n leads to."""
    value: Any = told
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def fim(service: Service, body: FimRequest) -> Job:
    body = msgspec.structs.replace(body, seed=body.random_seed if body.seed is None else body.seed)
    marked = marked_gap(body.prompt) if not body.suffix else None
    around = marked or MarkedGap(body.prompt, body.suffix or "")
    body = msgspec.structs.replace(body, stop=without_marks(body.stop))
    call = gap(service, body, around.prefix, around.suffix, body.max_tokens, around.files)
    return Job((call,), FimAnswer(service, body), bool(body.stream))


def infill(service: Service, body: InfillRequest) -> Job:
    seed = None if body.seed == -1 else body.seed  # -1: drawn, as elsewhere
    body, longest = msgspec.structs.replace(body, seed=seed), body.n_predict if body.n_predict != -1 else None
    prefix = body.input_prefix + body.prompt
    files = [(file.filename, file.text) for file in body.input_extra or ()]
    calls = () if longest == 0 else (gap(service, body, prefix, body.input_suffix, longest, files),)
    return Job(calls, InfillAnswer(service, body), bool(body.stream))


ROUTES = (
    Task(
        "/infill",
        InfillRequest,
        infill,
        shape,
        None,
        {"input_prefix": "def area(r):\n", "input_suffix": "\n", "n_predict": 8},
    ),
    Task(
        "/v1/fim/completions",
        FimRequest,
        fim,
        shape,
        FimReply,
        {"prompt": "def area(r):\n", "suffix": "\n", "max_tokens": 8},
    ),
)
