"""dgemma batch: a file of requests in OpenAI's batch shape, run together, one line of answer each.

A line of the input is {"custom_id", "method": "POST", "url": "/v1/completions" or "/v1/chat/completions", "body"}. All lines are
checked before the first one runs. Answers are appended as they are done, whole lines only, so a killed run goes on where it was:
what the output holds is not asked again. A request that cannot be served gets its error as its answer; the others go on.

Requests share passes because all their streams pull on one engine; see engine/engine.py.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from ..errors import DgemmaError, UsageError
from .flags import Asked, appendable, asking, check, decode, read_file
from .run import tell
from .screen import note, stdout_is_terminal

AT_ONCE = 64  # requests that are open together; the engine lets in as many of them as memory holds
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
# what a body may hold; the sampler's names are allowed beside these
FIELDS = {"model", "prompt", "messages", "max_tokens", "max_completion_tokens", "seed", "tools", "n", "stream", "response_format", "logprobs"}


@dataclass(frozen=True)
class Line:
    """One request of the file."""

    custom_id: str
    url: str
    body: dict[str, Any]


@asking(without=("as_json", "no_live", "max_tokens", "seed"), terms=True)
def command(
    source: Annotated[Path, typer.Argument(help="JSON lines in OpenAI's batch shape.")],
    target: Annotated[Path, typer.Argument(help="Where the answers go; what it holds already is not asked again.")],
    asked: Asked,
) -> None:
    """Run a file of requests together; answers are appended to a file as they are done."""
    lines = read_lines(source)
    done = finished(target)
    left = [line for line in lines if line.custom_id not in done]
    check(asked)
    if not left:
        note(f"all {len(lines)} requests are answered in {target}")
        return
    appendable(target)
    from .. import api

    model = api.load(asked.model, asked.device, asked.dtype, revision=asked.revision, warmup=asked.warmup, memory=asked.memory)
    tell(model.notes)
    start, tokens, failed, begun = time.monotonic(), 0, 0, len(lines) - len(left)
    with target.open("ab") as out:
        for count, answer in enumerate(answers(model, left, asked.settings), 1):
            _append(out, answer)
            usage = answer["response"]["body"].get("usage", {})
            tokens, failed = tokens + usage.get("completion_tokens", 0), failed + (not usage)
            if stdout_is_terminal():
                note(f"{begun + count} of {len(lines)}")
    seconds = time.monotonic() - start
    refused = f", {failed} could not be served (see their lines)" if failed else ""
    note(f"{len(left)} requests, {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s{refused}")


def read_lines(path: Path) -> list[Line]:
    """The requests of a file. Raises UsageError that names the first line which is none."""
    lines: dict[str, Line] = {}
    for number, text in enumerate(decode(read_file(path, f"'{path}'"), f"'{path}'").splitlines(), 1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError(f"{where}: this is not JSON") from None
        name = raw.get("custom_id") if isinstance(raw, dict) else None
        if not isinstance(name, str) or not name:
            raise UsageError(f"{where}: a request needs a custom_id, a text")
        if name in lines:
            raise UsageError(f"{where}: custom_id '{name}' was used before")
        if raw.get("url") not in (COMPLETION, CHAT) or raw.get("method", "POST") != "POST":
            raise UsageError(f"{where}: only POST to {COMPLETION} or {CHAT} is answered here")
        if not isinstance(raw.get("body"), dict):
            raise UsageError(f"{where}: a request needs a body, an object")
        lines[name] = Line(name, raw["url"], raw["body"])
    if not lines:
        raise UsageError(f"{path}: there is no request in it")
    return list(lines.values())


def finished(path: Path) -> set[str]:
    """The custom_ids that the output answers already. A last line that was cut off is taken back."""
    if not path.exists():
        return set()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}") from None
    whole = data[: data.rfind(b"\n") + 1]
    names = set()
    for number, text in enumerate(decode(whole, f"'{path}'").splitlines(), 1):
        try:
            names.add(json.loads(text)["custom_id"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}, line {number}: this is no answer of a batch; name another output file") from None
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return names


def answers(model: Any, lines: list[Line], sampler: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers, in the order in which they are done; AT_ONCE streams are pulled in turn."""
    waiting, open_ = iter(lines), {}
    while True:
        while len(open_) < AT_ONCE and (line := next(waiting, None)) is not None:
            try:
                open_[line.custom_id] = (line, *_begin(model, line, sampler))
            except DgemmaError as error:
                yield _answer(line, 400, _refusal(error))
        if not open_:
            return
        for line, events, finish in [*open_.values()]:
            try:
                if (event := next(events, None)) is not None and not hasattr(event, "finish_reason"):
                    continue
                yield _answer(line, 200, finish(event))
            except DgemmaError as error:
                yield _answer(line, 500 if error.exit_code != UsageError.exit_code else 400, _refusal(error))
            del open_[line.custom_id]


def _begin(model: Any, line: Line, sampler: dict[str, Any]) -> tuple[Iterator[Any], Callable[[Any], dict[str, Any]]]:
    """The request's events, and what makes its answer of the last one. Raises UsageError."""
    body = dict(line.body)
    from ..tasks.terms import form_asked  # late: it brings torch

    own = {name: value for name, value in body.items() if name not in FIELDS}
    if body.get("n", 1) != 1 or body.get("stream", False):
        raise UsageError("a batch answers each request once and whole: leave n and stream out")
    length = body.get("max_completion_tokens", body.get("max_tokens"))
    seed = body.get("seed", 0)
    settings = sampler | own | form_asked(body.get("response_format"))
    if (logprobs := body.get("logprobs")) is not None:  # completions say how many, chats whether
        count = line.url == COMPLETION and not isinstance(logprobs, bool)
        settings |= {"logprobs": True, "top_logprobs": logprobs} if count else {"logprobs": logprobs}
    if line.url == COMPLETION:
        if not isinstance(body.get("prompt"), str):
            raise UsageError("a completion needs a prompt, a text")
        return model.stream(body["prompt"], length, seed, **settings), lambda last: _completion(line, last)
    if not isinstance(body.get("messages"), list):
        raise UsageError("a chat completion needs messages, a list")
    events = model.stream_chat(body["messages"], length, seed, tools=body.get("tools"), **settings)
    return events, lambda last: _chat(model, line, last)


def _completion(line: Line, last: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": last.text, "finish_reason": last.finish_reason, "logprobs": _logprobs(last)}
    return _body(line, "text_completion", choice, last)


def _chat(model: Any, line: Line, last: Any) -> dict[str, Any]:
    from ..tasks.chat import reply

    parts = reply(model.tokenizer, last)
    message: dict[str, Any] = {"role": "assistant", "content": parts.content}
    if parts.thought:
        message["reasoning_content"] = parts.thought
    if parts.tool_calls:
        message["tool_calls"] = [
            {"id": f"call_{line.custom_id}_{place}", "type": "function",
             "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
            for place, call in enumerate(parts.tool_calls)
        ]  # fmt: skip
    reason = "tool_calls" if parts.tool_calls else last.finish_reason
    told = _logprobs(last)
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": told and {"content": told}}
    return _body(line, "chat.completion", choice, last)


def _logprobs(last: Any) -> list[dict[str, Any]] | None:
    """Of each token of the answer, as chat completions tell it."""
    if last.logprobs is None:
        return None
    return [
        {"token": one.text, "logprob": one.log_prob, "top_logprobs": [{"token": text, "logprob": x} for _, text, x in one.top]}
        for one in last.logprobs
    ]


def _body(line: Line, kind: str, choice: dict[str, Any], last: Any) -> dict[str, Any]:
    used = {"prompt_tokens": last.prompt_tokens, "completion_tokens": len(last.token_ids)}
    return {
        "id": f"dgemma-{line.custom_id}", "object": kind, "created": int(time.time()), "model": line.body.get("model", "dgemma"),
        "choices": [choice], "usage": used | {"total_tokens": sum(used.values())},
        "dgemma": {"steps": last.steps, "seed": last.seed, "notes": last.notes},
    }  # fmt: skip


def _refusal(error: DgemmaError) -> dict[str, Any]:
    return {"error": {"message": str(error), "type": "invalid_request_error" if error.exit_code == 2 else "server_error"}}


def _answer(line: Line, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"dgemma-{line.custom_id}", "body": body}
    return {"id": f"batch-{line.custom_id}", "custom_id": line.custom_id, "response": response, "error": None}


def _append(out: IO[bytes], answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    out.flush()
