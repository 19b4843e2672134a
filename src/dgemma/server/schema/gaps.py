"""What editors send to have a gap filled: llama-server's /infill, and /v1/fim/completions, the shape of
Mistral and Inception.

A gap is sent once, when it is closed and the best of its widths is known. Stop strings cut it there. Trap:
editors send samplers' settings with every gap, because some server has them; they are named in a note, and
the gap is filled all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ...tasks.events import Filling, Generation
from ...tasks.infill import default_widths
from ...text.stream import cut_at_stop
from .. import sse
from ..jobs import Call, Job, RequestError
from ..routes import ServedModel, Task
from .openai import StreamOptions
from .openai_answers import shape
from .sampling import RULES, SCHEDULE, Sampling, params_of
from .sentinels import File, MarkedGap, marked_gap, without_marks
from .turn import Remarks, drawn, new_id
from .usage import Usage, usage_of


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
    """The gap is behind input_prefix and prompt.

    n_predict: 0 answers with nothing at once; editors warm caches with it.
    """

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
    samplers: Any = None  # these are named in a note as not heeded
    t_max_prompt_ms: Any = None
    t_max_predict_ms: Any = None
    n_indent: Any = None
    repeat_penalty: Any = None


UNHEEDED = ("samplers", "t_max_prompt_ms", "t_max_predict_ms", "n_indent", "repeat_penalty")


def gap(
    service: ServedModel,
    body: Sampling,
    prefix: str,
    suffix: str,
    longest: int | None,
    files: Sequence[File] = (),
) -> Call:
    """The call that fills a gap, `files` read before it.

    longest: most tokens, and never more than half a canvas of them. What editors give is a bound, and each
    width that is tried costs them time.
    """
    params = {name: value for name, value in params_of(body).items() if name in SCHEDULE}
    canvas = body.canvas_width or service.model.config.canvas_length
    most = None
    if longest is not None:
        most = min(longest, max(1, canvas // 2))
    params |= {
        "prefix": prefix,
        "suffix": suffix,
        "seed": drawn(body.seed),
        "widths": default_widths(canvas, most),
        "extra": files,
    }
    unheeded = [name for name in UNHEEDED if getattr(body, name, None)]
    unheeded += [name for name in RULES if name != "stop" and getattr(body, name, None) is not None]
    notes: tuple[str, ...] = ()
    if unheeded:
        notes = (f"not heeded: {', '.join(unheeded)}",)
    return Call("stream_fill", params, notes)


class _GapAnswer:
    """What both dialects share: the text up to its stop string, and the figures."""

    media = sse.MEDIA
    watched = False

    def __init__(self, service: ServedModel, stops: str | list[str] | None):
        self.model = service.config.name
        self.stops = stops
        self.text = ""
        self.stop = ""  # the stop string that ended it
        self.is_filled = False
        self.result: Generation  # there once the gap is filled
        self.candidates: list[str] = []

    def begin(self) -> Iterable[bytes]:
        return ()

    def take(self, index: int, event: Any) -> Iterable[bytes]:
        if isinstance(event, Filling):
            self.is_filled = True
            self.result = event.generation
            self.text, self.stop = cut_at_stop(event.text, self.stops)
            self.candidates = [cut_at_stop(text, self.stops)[0] for text in event.candidates]
        return ()

    def broken(self, error: RequestError) -> Iterator[bytes]:
        yield sse.data(shape(error))

    @property
    def reason(self) -> str:
        if self.stop:
            return "stop"
        return self.result.finish_reason

    def remarks(self) -> Remarks:
        return Remarks(self.result.seed, self.result.notes)


class FimAnswer(_GapAnswer):
    def __init__(self, service: ServedModel, body: FimRequest):
        super().__init__(service, body.stop)
        self.id = new_id("fim-")
        self.created = int(time.time())

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
        yield self.chunk("", self.reason, usage=usage_of(self.result), dgemma=self.remarks())
        yield sse.DONE

    def whole(self) -> FimReply:
        choice = FimChoice(0, self.text, {"role": "assistant", "content": self.text}, self.reason)
        return FimReply(self.id, self.created, self.model, [choice], usage_of(self.result), self.remarks())


class InfillAnswer(_GapAnswer):
    def __init__(self, service: ServedModel, body: InfillRequest):
        super().__init__(service, body.stop)
        self.fields = body.response_fields
        self.context = service.model.config.max_position_embeddings

    def end(self) -> Iterator[bytes]:
        if self.text:
            yield sse.data({"index": 0, "content": self.text, "stop": False})
        last = self.whole()
        if not self.fields or "content" in self.fields:
            last |= {"content": ""}
        yield sse.data(last)

    def whole(self) -> dict[str, Any]:
        """llama-server's fields, or those of `response_fields`."""
        reply: dict[str, Any] = {
            "index": 0,
            "content": self.text,
            "stop": True,
            "model": self.model,
            "tokens_predicted": 0,
            "tokens_evaluated": 0,
            "stop_type": "limit",
            "stopping_word": self.stop,
            "truncated": False,
            "generation_settings": {"n_ctx": self.context},
        }
        if self.is_filled:
            reply |= self._figures()
        if not self.fields:
            return reply
        chosen = {name: _at(reply, name) for name in self.fields}
        return {name: value for name, value in chosen.items() if value is not None}

    def _figures(self) -> dict[str, Any]:
        """Of a gap that was filled.

        `prompt_ms` is the time to the first draft, `predicted_ms` what followed.
        """
        usage = usage_of(self.result)
        first = self.result.first_draft_seconds
        rest = max(self.result.seconds - first, 1e-9)
        return {
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "steps": usage.steps,
            "dgemma": self.remarks(),
            "candidates": self.candidates,
            "stop_type": self._stop_type(),
            "timings": {
                "prompt_n": usage.prompt_tokens,
                "prompt_ms": 1e3 * first,
                "prompt_per_second": usage.prompt_tokens / max(first, 1e-9),
                "predicted_n": usage.completion_tokens,
                "predicted_ms": 1e3 * rest,
                "predicted_per_second": usage.completion_tokens / rest,
            },
        }

    def _stop_type(self) -> str:
        if self.stop:
            return "word"
        if self.reason == "stop":
            return "eos"
        return "limit"


def _at(reply: dict[str, Any], path: str) -> Any:
    """What a path such as timings/prompt_n leads to."""
    value: Any = reply
    for part in path.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def fim(service: ServedModel, body: FimRequest) -> Job:
    marked = None
    if not body.suffix:
        marked = marked_gap(body.prompt)
    if marked is None:
        marked = MarkedGap(body.prompt, body.suffix or "")
    if body.seed is None:
        seed = body.random_seed
    else:
        seed = body.seed
    body = msgspec.structs.replace(body, seed=seed, stop=without_marks(body.stop))
    call = gap(service, body, marked.prefix, marked.suffix, body.max_tokens, marked.files)
    return Job((call,), FimAnswer(service, body), bool(body.stream))


def infill(service: ServedModel, body: InfillRequest) -> Job:
    # -1: drawn, as elsewhere
    seed = None
    if body.seed != -1:
        seed = body.seed
    body = msgspec.structs.replace(body, seed=seed)
    answer = InfillAnswer(service, body)
    if body.n_predict == 0:
        return Job((), answer, bool(body.stream))
    longest = None
    if body.n_predict != -1:
        longest = body.n_predict
    prefix = body.input_prefix + body.prompt
    files = [(file.filename, file.text) for file in body.input_extra or ()]
    call = gap(service, body, prefix, body.input_suffix, longest, files)
    return Job((call,), answer, bool(body.stream))


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
