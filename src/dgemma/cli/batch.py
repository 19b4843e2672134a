"""dgemma batch: a file of requests in OpenAI's batch shape, run together, one line of answer each.

A line of the input is {"custom_id", "method": "POST", "url": "/v1/completions" or "/v1/chat/completions", "body"}. All lines are
checked before the first one runs. Answers are appended as they are done, whole lines only, so a killed run goes on where it was:
what the output holds is not asked again. A request that cannot be served gets its error as its answer; the others go on.

Requests share passes because all their streams pull on one engine; see engine/engine.py. Trap: lines end at a line feed and nowhere
else. JSON may hold U+2028 and its kind as they are, at which `str.splitlines` would cut.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import FileLock, Timeout

from ..config.neutral import effective, whole_number
from ..config.reader import shown
from ..errors import INTERRUPTED, DgemmaError, ResourceError, UsageError
from .files import append_whole
from .flags import BOM, FULL, Asked, appendable, asking, check, decode, text_of, write_fault
from .progress import progress
from .run import noted, open_model, tell, with_room
from .screen import count, json_line, note

AT_ONCE = 64  # requests that are open together; the engine lets in as many of them as memory holds
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
JSON_SPACE = " \t\r"
# what a body may hold; the sampler's names are allowed beside these
FIELDS = {
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "tools",
    "n",
    "stream",
    "response_format",
    "logprobs",
}


@dataclass(frozen=True)
class Line:
    """One request of the file."""

    custom_id: str
    url: str
    body: dict[str, Any]


@asking(without=("as_json", "no_live", "max_tokens", "seed"), terms=True)
def command(
    source: Annotated[Path, typer.Argument(help="JSON lines in OpenAI's batch shape.")],
    target: Annotated[
        Path, typer.Argument(help="Where the answers go; what it holds already is not asked again.")
    ],
    asked: Asked,
) -> None:
    """Run a file of requests together; answers are appended to a file as they are done."""
    lines = read_lines(source)
    check(asked)
    if target.exists() and not target.is_file():
        raise UsageError(f"'{target}' is not a regular file; answers are appended to one")
    if not target.parent.is_dir():
        raise UsageError(f"'{target}' cannot be written: there is no folder {target.parent}")
    with only_writer(target):
        answered = finished(target)
        left = [line for line in lines if line.custom_id not in answered]
        if not left:
            note(f"all {len(lines)} requests are answered in {target}")
            return
        appendable(target)
        _run(asked, Output(target, len(lines) - len(left), len(lines)), left)


def _run(asked: Asked, output: Output, left: list[Line]) -> None:
    """Ask what is left and append the answers."""
    model = open_model(asked)
    tell(model.notes)
    start, tokens, failed = time.monotonic(), 0, 0
    with output, progress("answered") as bar:
        bar(output.answered, output.requests)
        for answer in answers(model, left, asked.settings):
            output.append(answer)
            usage = answer["response"]["body"].get("usage", {})
            tokens += usage.get("completion_tokens", 0)
            failed += not usage
            bar(output.answered, output.requests)
    seconds = time.monotonic() - start
    refused = f", {failed} could not be served (see their lines)" if failed else ""
    note(
        f"{count(len(left), 'request')}, {count(tokens, 'token')} in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s{refused}"
    )


class Output:
    """The file that answers are appended to: `answered` of `requests` stand there whole.

    A context: on the way out they are on the disk, and an interruption or a full disk says how many there are. Raises ResourceError.
    """

    def __init__(self, path: Path, answered: int, requests: int):
        self.path, self.answered, self.requests = path, answered, requests

    def __enter__(self) -> Output:
        self._file = self.path.open(
            "ab", buffering=0
        )  # a buffer would be written once more, and fail again, when it is closed
        return self

    def append(self, answer: dict[str, Any]) -> None:
        """One more answer, whole or not at all."""
        try:
            append_whole(self._file, json_line(answer))
        except OSError as error:
            raise self._full(error) from None
        self.answered += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems know no such thing
                raise self._full(error) from None
        finally:
            self._file.close()
        if kind is KeyboardInterrupt:
            note(f"stopped: {self._safe()}; the same command goes on")
            raise typer.Exit(INTERRUPTED) from None

    def _safe(self) -> str:
        return f"{self.answered} of {self.requests} requests are answered in {self.path}"

    def _full(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"'{self.path}': {error.strerror or error}; {self._safe()}; make room and give the same command again"
        )


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Keep every other run from the output. Raises UsageError where one is at work. The empty file that is locked stays there."""
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"'{target}' is being written by another `dgemma batch`; wait for it, or name another file"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise write_fault(target, error) from None
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"'{target}' cannot be written: no lock can be put beside it ({reason})") from None
    try:
        yield
    finally:
        lock.release()


def read_lines(path: Path) -> list[Line]:
    """The requests of a file. Raises UsageError that names the first line which is none."""
    lines: dict[str, Line] = {}
    for number, text in enumerate(text_of(path).split("\n"), 1):
        if not text.strip(JSON_SPACE):
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
            raise UsageError(f"{where}: custom_id {shown(name)} was used before")
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
    for number, text in enumerate(decode(whole, f"'{path}'").removeprefix(BOM).split("\n"), 1):
        if not text.strip(JSON_SPACE):
            continue
        try:
            answer = json.loads(text)
            names.add(answer["custom_id"])
            answer["response"]  # a file of requests has ids, too
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"{path}, line {number}: this is no answer of a batch; name another output file"
            ) from None
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return names


def answers(model: Any, lines: list[Line], sampler: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers, in the order in which they are done; AT_ONCE streams are pulled in turn."""
    waiting = iter(lines)
    open_: dict[str, tuple[Line, Iterator[Any], Callable[[Any], dict[str, Any]]]] = {}
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


def _begin(
    model: Any, line: Line, sampler: dict[str, Any]
) -> tuple[Iterator[Any], Callable[[Any], dict[str, Any]]]:
    """The request's events, and what makes its answer of the last one. Raises UsageError."""
    body = {
        name: whole_number(value)
        for name, value in effective(line.body, FIELDS | {"tool_choice", "thinking"}).items()
    }
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
        events, cut = with_room(
            model, length, lambda most: model.stream(body["prompt"], most, seed, **settings)
        )
        return events, lambda last: _completion(line, noted(last, cut))
    if not isinstance(body.get("messages"), list):
        raise UsageError("a chat completion needs messages, a list")
    events, cut = with_room(
        model,
        length,
        lambda most: model.stream_chat(body["messages"], most, seed, tools=body.get("tools"), **settings),
    )
    return events, lambda last: _chat(model, line, noted(last, cut))


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
        {
            "token": one.text,
            "logprob": one.log_prob,
            "top_logprobs": [{"token": text, "logprob": x} for _, text, x in one.top],
        }
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
    return {
        "error": {
            "message": str(error),
            "type": "invalid_request_error" if error.exit_code == 2 else "server_error",
        }
    }


def _answer(line: Line, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"dgemma-{line.custom_id}", "body": body}
    return {"id": f"batch-{line.custom_id}", "custom_id": line.custom_id, "response": response, "error": None}
