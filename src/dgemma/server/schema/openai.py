"""OpenAI's dialect: what chat completions and completions (with a suffix: infill) may ask, and the job that
each becomes.

Its answers are in openai_answers.py, its list of models in models.py. Fields that would change the answer
and are not served are refused by name; some that change nothing are let through. Trap: `dgemma batch` reads
these requests too, so nothing here may need a socket.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...tasks.infill import default_widths
from ..jobs import Call, Job, RequestError
from ..routes import ServedModel, Task
from .logprobs import chat_logprobs_params, completion_logprobs_params
from .openai_answers import (
    AnswerOptions,
    ChatAnswer,
    ChatReply,
    CompletionAnswer,
    CompletionReply,
    shape,
)
from .sampling import Formed, constraint_of, params_of, seeds, unserved
from .sentinels import MarkedGap, marked_gap, without_marks


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(Formed, kw_only=True):
    """What both kinds of completion may say."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusing: bool = False  # send drafts too


class ChatRequest(Request, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None  # False: the answer ends behind its first call
    # the answer goes on from the last message, as with `prefix: true` in it
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None  # False goes with continue_final_message alone
    logprobs: bool | None = None
    top_logprobs: int | None = None
    thinking: bool | dict[str, Any] | None = None  # or one of the four below: other servers' names
    enable_thinking: bool | None = None
    reasoning: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(Request, kw_only=True):
    prompt: str | list[str | int | list[int]]  # a text, ids, or several of one of these
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None


def chat(service: ServedModel, body: ChatRequest) -> Job:
    count = _count(service, body, 1)
    if body.add_generation_prompt is not None and not body.continue_final_message:
        raise unserved("add_generation_prompt")
    params = params_of(body) | constraint_of(body)
    params |= chat_logprobs_params(body.logprobs, body.top_logprobs)
    params |= {
        "messages": body.messages,
        "max_tokens": body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        "thinking": _thinks(body),
        "tools": body.tools,
        "tool_choice": body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "continue_final_message": body.continue_final_message,
    }
    calls = tuple(Call("stream_chat", params | {"seed": seed}) for seed in seeds(body.seed, count))
    return Job(calls, ChatAnswer(service, _answer_options(body), count), bool(body.stream))


def complete(service: ServedModel, body: CompletionRequest) -> Job:
    prompts = _prompts(body)
    count = _count(service, body, len(prompts))
    if body.best_of not in (None, 1, count):
        raise unserved("best_of")
    prompts = [_gap_of(prompt, body.suffix) or prompt for prompt in prompts]
    has_gaps = any(isinstance(prompt, MarkedGap) for prompt in prompts)
    widths: list[int] = []
    if has_gaps:
        body = msgspec.structs.replace(body, stop=without_marks(body.stop))
        canvas = body.canvas_width or service.model.config.canvas_length
        widths = default_widths(canvas, body.max_tokens)
    params = params_of(body) | constraint_of(body)
    params |= completion_logprobs_params(body.logprobs, has_gaps, bool(body.echo))
    calls = []
    for prompt in prompts:
        for seed in seeds(body.seed, count):
            calls.append(_call(prompt, body, params | {"seed": seed}, widths))
    texts = [_text_of(service, prompt) if body.echo else "" for prompt in prompts]
    answer = CompletionAnswer(service, _answer_options(body), texts, count)
    return Job(tuple(calls), answer, bool(body.stream))


def _answer_options(body: ChatRequest | CompletionRequest) -> AnswerOptions:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop
    wants_logprobs = body.logprobs is not None and body.logprobs is not False  # a completion's may be 0
    if isinstance(body, CompletionRequest):
        top = body.logprobs
    else:
        top = body.top_logprobs
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    return AnswerOptions(stops or [], wants_logprobs, top or 0, body.diffusing, include_usage)


def _gap_of(prompt: str | list[int], suffix: str | None) -> MarkedGap | None:
    """The gap that a suffix or the marks inside a prompt make of it.

    Raises RequestError for ids with a suffix.
    """
    if suffix:
        if not isinstance(prompt, str):
            raise RequestError(400, "a suffix needs a prompt of text", parameter="suffix")
        return MarkedGap(prompt, suffix)
    if isinstance(prompt, str):
        return marked_gap(prompt)
    return None


def _text_of(service: ServedModel, prompt: str | list[int] | MarkedGap) -> str:
    if isinstance(prompt, MarkedGap):
        return prompt.prefix
    return prompt if isinstance(prompt, str) else service.model.tokenizer.decode(prompt)


def _call(
    prompt: str | list[int] | MarkedGap, body: CompletionRequest, params: dict[str, Any], widths: list[int]
) -> Call:
    if isinstance(prompt, MarkedGap):
        params.pop("stop", None)  # cut off the gap when it is known
        params |= {"prefix": prompt.prefix, "suffix": prompt.suffix, "extra": prompt.files, "widths": widths}
        return Call("stream_fill", params)
    params["max_tokens"] = body.max_tokens
    if isinstance(prompt, str):
        return Call("stream", params | {"text": prompt})
    return Call("stream_ids", params | {"prompt_ids": prompt})


def _prompts(body: CompletionRequest) -> list[Any]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if len({type(part) for part in prompt}) != 1:
        message = "prompt must be a text, a list of ids, or a list of one of these"
        raise RequestError(400, message, parameter="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    return prompt


def _count(service: ServedModel, body: Request, prompts: int) -> int:
    """The answers of each prompt. Raises RequestError."""
    count = 1
    if body.n is not None:
        count = body.n
    most = service.config.max_choices
    if count < 1 or count * prompts > most:
        message = f"{count * prompts} answers were asked for; from 1 to {most} may be"
        raise RequestError(400, message, parameter="n")
    return count


def _thinks(body: ChatRequest) -> bool:
    """Whether the model is to think first, by whichever name says so first."""
    thinking = body.thinking
    if isinstance(thinking, dict):  # as messages have it
        thinking = thinking.get("type", "enabled") != "disabled"
    template = body.chat_template_kwargs or {}
    reasoning = body.reasoning or {}
    switches = (
        thinking,
        body.enable_thinking,
        template.get("enable_thinking"),
        template.get("thinking"),
        reasoning.get("enabled"),
    )
    for switch in switches:
        if switch is not None:
            return bool(switch)
    if body.reasoning_effort is None:
        effort = reasoning.get("effort")
    else:
        effort = body.reasoning_effort
    return effort not in (None, "none", "minimal")


ROUTES = (
    Task(
        "/v1/chat/completions",
        ChatRequest,
        chat,
        shape,
        ChatReply,
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8},
    ),
    Task(
        "/v1/completions",
        CompletionRequest,
        complete,
        shape,
        CompletionReply,
        {"prompt": "def area(r):", "max_tokens": 8},
    ),
)
