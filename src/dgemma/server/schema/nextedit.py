"""Next edits as Inception's API has them, POST /v1/edit/completions: a file with a marked region, the region
as it should be.

The message holds the file between its markers, a region of it, the cursor and what was edited last. The
cursor's line (without a cursor: the whole region) is free and settles in place, all else is pinned, so
nothing outside is ever changed. Trap: an editor cuts the region out of the reply's code fence by the empty
line before its end, so one stands there always.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from ...tasks.events import Edit
from ...text.content import Unread, joined
from .. import sse
from ..jobs import Call, Job, RequestError
from ..routes import ServedModel, Task
from .openai import StreamOptions
from .openai_answers import ChatChoice, ChatReply, Extras, Message, shape
from .sampling import Sampling, params_of
from .turn import drawn, new_id
from .usage import usage_of

FILE = "current_file_content"
REGION = "code_to_edit"
HISTORY = "edit_diff_history"
CURSOR = "<|cursor|>"
LINE_BREAK = re.compile(r"\r?\n")


class EditRequest(Sampling, kw_only=True):
    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: int | None = None  # noted as not heeded: an edit is as long as what it opens allows
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Any = None


class Place(msgspec.Struct):
    """A file, the region of it that is asked for, and what of it is free; in characters."""

    document: str
    region: tuple[int, int]
    free: tuple[int, int]
    history: str


def read_place(text: str) -> Place:
    """What a message marks. Raises RequestError where no region is marked."""
    file = _between(text, FILE)[1] or text
    head, path, tail = file.partition("current_file_path:")
    if path and not head.strip():
        file = tail.partition("\n")[2]
    before, marked, after = _between(file, REGION)
    if marked is None:
        message = f"the message marks nothing to edit; put it between <|{REGION}|> and <|/{REGION}|>"
        raise RequestError(400, message, parameter="messages")
    before, region, after = (part.replace(CURSOR, "") for part in (before, marked, after))
    start = len(before)
    end = start + len(region)
    free = (start, end)
    cursor = marked.find(CURSOR)
    if cursor >= 0:
        line_start = region.rfind("\n", 0, cursor) + 1
        line_break = LINE_BREAK.search(region, cursor)
        if line_break:
            line_end = line_break.start()
        else:
            line_end = len(region)
        free = (start + line_start, start + line_end)
    history = _between(text, HISTORY)[1] or ""
    return Place(before + region + after, (start, end), free, history.strip())


def _between(text: str, name: str) -> tuple[str, str | None, str]:
    """What stands before a mark's line, what is marked, and what follows, with the line break before it.

    The second is None where nothing is marked.
    """
    before, opened, rest = text.partition(f"<|{name}|>")
    inside, closed, after = rest.partition(f"<|/{name}|>")
    if not opened or not closed:
        return text, None, ""
    if first := LINE_BREAK.match(inside):
        inside = inside[first.end() :]
    if last := re.search(r"\r?\n\Z", inside):
        inside = inside[: last.start()]
    if after and not LINE_BREAK.match(after):
        after = "\n" + after
    return before, inside, after


class EditAnswer:
    media = sse.MEDIA
    watched = False

    def __init__(self, service: ServedModel, place: Place):
        self.model = service.config.name
        self.place = place
        self.id = new_id("edit-")
        self.created = int(time.time())
        self.edit: Edit  # there once `take` has seen it

    def chunk(self, delta: dict[str, Any], reason: str | None, **more: Any) -> bytes:
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }
        return sse.data(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} | more)

    def begin(self) -> Iterator[bytes]:
        yield from ()

    def take(self, index: int, event: Any) -> Iterator[bytes]:
        if isinstance(event, Edit):
            self.edit = event
            yield self.chunk({"role": "assistant", "content": self.content()}, None)

    def end(self) -> Iterator[bytes]:
        generation = self.edit.generation
        usage = usage_of(generation)
        yield self.chunk({}, generation.finish_reason, usage=usage, dgemma=self.extras())
        yield sse.DONE

    def broken(self, error: RequestError) -> Iterator[bytes]:
        yield sse.data(shape(error))

    def content(self) -> str:
        start, end = self.place.region
        behind = len(self.place.document) - end  # characters, which the edit left as they were
        text = self.edit.text
        return f"```\n{text[start : len(text) - behind]}\n\n```"

    def extras(self) -> Extras:
        return Extras([self.edit.generation.seed], self.edit.generation.notes)

    def whole(self) -> ChatReply:
        generation = self.edit.generation
        choice = ChatChoice(0, Message("assistant", self.content()), generation.finish_reason)
        usage = usage_of(generation)
        return ChatReply(self.id, self.created, self.model, [choice], usage, self.extras())


def edit(service: ServedModel, body: EditRequest) -> Job:
    users = [message for message in body.messages if message.get("role") == "user"]
    content: Any = ""
    if users:
        content = users[-1].get("content")
    place = read_place(joined(content, "messages", Unread()))
    instruction = None
    if place.history:
        instruction = f"These edits were made last; make the next one.\n{place.history}"
    params = params_of(body)
    params |= {
        "document": place.document,
        "instruction": instruction,
        "spans": [place.free],
        "seed": drawn(body.seed),
    }
    notes: tuple[str, ...] = ()
    if body.max_tokens is not None:
        notes = ("not heeded: max_tokens",)
    return Job((Call("stream_edit", params, notes),), EditAnswer(service, place), bool(body.stream))


EXAMPLE = {"messages": [{"role": "user", "content": f"<|{REGION}|>\nreturn {CURSOR}3\n<|/{REGION}|>"}]}
ROUTES = (Task("/v1/edit/completions", EditRequest, edit, shape, ChatReply, EXAMPLE),)
