"""dgemma batch: a file of requests in OpenAI's batch shape, run together, one line of answer each.

A line of the input is {"custom_id", "method": "POST", "url": "/v1/completions" or "/v1/chat/completions",
"body"}. All lines are checked before the first one runs. Answers are appended as they are done, whole lines
only, so a killed run goes on where it was: what the output holds is not asked again. A request that cannot
be served gets its error as its answer; the others go on.

A line's body is read, run and answered by the service's own code (server/offline.py), so that its answer is
the one that `dgemma serve` gives to the same body. Requests share passes because all their streams pull on
one engine; see engine/engine.py. Trap: lines end at a line feed and nowhere else. JSON may hold U+2028 and
its kind as they are, at which `str.splitlines` would cut.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from filelock import FileLock, Timeout

from ..config.reader import shown
from ..errors import INTERRUPTED, ResourceError, UsageError
from .files import append_whole
from .flags import (
    BOM,
    FULL,
    WRITTEN,
    CommandOptions,
    appendable,
    check,
    decode,
    text_of,
    with_options,
    write_fault,
)
from .progress import progress
from .run import open_model, print_notes
from .screen import count, json_line, note

if TYPE_CHECKING:
    from ..api import Model

AT_ONCE = 64  # requests that are open together; the engine lets in as many of them as memory holds
COMPLETION = "/v1/completions"
CHAT = "/v1/chat/completions"
JSON_SPACE = " \t\r"
SEED = 0  # of a request that names none: the same file gives the same answers


@dataclass(frozen=True)
class Line:
    """One request of the file."""

    custom_id: str
    url: str
    body: dict[str, Any]


@with_options(without=("as_json", "no_live", "max_tokens", "seed"), groups=WRITTEN)
def command(
    source: Annotated[Path, typer.Argument(help="JSON lines in OpenAI's batch shape.")],
    target: Annotated[
        Path, typer.Argument(help="Where the answers go; what it holds already is not asked again.")
    ],
    options: CommandOptions,
) -> None:
    """Run a file of requests together; answers are appended to a file as they are done."""
    lines = read_lines(source)
    check(options)
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
        _run(options, Output(target, len(lines) - len(left), len(lines)), left)


def _run(options: CommandOptions, output: Output, left: list[Line]) -> None:
    """Ask what is left and append the answers."""
    model = open_model(options)
    print_notes(model.notes)
    start = time.monotonic()
    tokens = failed = 0
    with output, progress("answered") as bar:
        bar(output.answered, output.requests)
        for answer in answers(model, left, options.params.given):
            output.append(answer)
            usage = answer["response"]["body"].get("usage", {})
            tokens += usage.get("completion_tokens", 0)
            failed += not usage
            bar(output.answered, output.requests)
    seconds = time.monotonic() - start
    refused = ""
    if failed:
        refused = f", {failed} could not be served (see their lines)"
    done = f"{count(len(left), 'request')}, {count(tokens, 'token')} in {seconds:.1f} s"
    note(f"{done}, {tokens / seconds:.0f} tokens/s{refused}")


class Output:
    """The file that answers are appended to: `answered` of `requests` stand there whole.

    A context: on the way out they are on the disk, and an interruption or a full disk says how many there
    are. Raises ResourceError.
    """

    def __init__(self, path: Path, answered: int, requests: int):
        self.path = path
        self.answered = answered
        self.requests = requests

    def __enter__(self) -> Output:
        # a buffer would be written once more, and fail again, when it is closed
        self._file = self.path.open("ab", buffering=0)
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
            f"'{self.path}': {error.strerror or error}; {self._safe()}; "
            "make room and give the same command again"
        )


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Keep every other run from the output.

    Raises UsageError where one is at work. The empty file that is locked stays there.
    """
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
        name = None
        if isinstance(raw, dict):
            name = raw.get("custom_id")
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


def answers(model: Model, lines: list[Line], defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers, in the order in which they are done; AT_ONCE requests are open together.

    defaults: settings of the lines that do not say otherwise.
    """
    from ..server.offline import OfflineRequest
    from ..server.routes import ServedModel
    from ..server.settings import ServerConfig

    served = ServedModel(model, ServerConfig())
    defaults = {"seed": SEED} | defaults
    waiting = iter(lines)
    opened: dict[str, tuple[Line, OfflineRequest]] = {}
    while True:
        for line in itertools.islice(waiting, AT_ONCE - len(opened)):
            opened[line.custom_id] = line, OfflineRequest(served, line.url, line.body, defaults)
        if not opened:
            return
        for line, request in [*opened.values()]:
            if not request.done:
                request.step()
            if request.body is not None:
                yield _answer(line, request.status, request.body)
                del opened[line.custom_id]


def _answer(line: Line, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"dgemma-{line.custom_id}", "body": body}
    return {"id": f"batch-{line.custom_id}", "custom_id": line.custom_id, "response": response, "error": None}
