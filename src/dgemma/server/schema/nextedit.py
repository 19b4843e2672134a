"""Next edits as Inception's API has them, POST /v1/edit/completions: a file with a marked region, the region as it should be.

The message holds the file between its markers, a region of it, the cursor and what was edited last. The cursor's line (without a
cursor: the whole region) is free and settles in place, all else is pinned, so nothing outside is ever changed. Trap: an editor cuts
the region out of the reply's code fence by the empty line before its end, so one stands there always.
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
from ..app import Service, Task
from ..jobs import Call, Job, Refusal
from .openai import ChatChoice, ChatReply, Message, StreamOptions, Told, Usage, shape
from .sampling import Sampling, settings
from .turn import drawn, new_id

FILE, REGION, HISTORY, CURSOR = "current_file_content", "code_to_edit", "edit_diff_history", "<|cursor|>"
LINE_BREAK = re.compile(r"\r?\n")


class EditRequest(Sampling, kw_only=True):
    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: int | None = None  # told as not heeded: an edit is as long as what it opens allows
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
    """What a message marks. Raises Refusal where no region is marked."""
    file = _between(text, FILE)[1] or text
    head, path, tail = file.partition("current_file_path:")
    if path and not head.strip():
        file = tail.partition("\n")[2]
    before, marked, after = _between(file, REGION)
    if marked is None:
        raise Refusal(
            400,
            f"the message marks nothing to edit; put it between <|{REGION}|> and <|/{REGION}|>",
            parameter="messages",
        )
    before, region, after = (part.replace(CURSOR, "") for part in (before, marked, after))
    start, end = len(before), len(before) + len(region)
    free = start, end
    cursor = marked.find(CURSOR)
    if cursor >= 0:
        line = LINE_BREAK.search(region, cursor)
        free = start + region.rfind("\n", 0, cursor) + 1, start + line.start() if line else end
    return Place(before + region + after, (start, end), free, (_between(text, HISTORY)[1] or "").strip())


def _between(text: str, name: str) -> tuple[str, str | None, str]:
    """What stands before a mark's line, what is marked (None: nothing), and what follows, with the line break before it."""
    before, opened, rest = text.partition(f"<|{name}|>")
    inside, closed, after = rest.partition(f"<|/{name}|>")
    if not opened or not closed:
        return text, None, ""
    first = LINE_BREAK.match(inside)
    inside = inside[first.end() :] if first else inside
    last = re.search(r"\r?\n\Z", inside)
    inside = inside[: last.start()] if last else inside
    if after and not LINE_BREAK.match(after):
        after = "\n" + after
    return before, inside, after


class EditAnswer:
    media, watched = sse.MEDIA, False

    def __init__(self, service: Service, place: Place):
        self.model, self.place = service.config.name, place
        self.id, self.created = new_id("edit-"), int(time.time())
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
        yield self.chunk({}, self.edit.generation.finish_reason, usage=self.usage(), dgemma=self.told())
        yield sse.DONE

    def broken(self, error: Refusal) -> Iterator[bytes]:
        yield sse.data(shape(error))

    def content(self) -> str:
        start, end = self.place.region
        text = self.edit.text
        return f"```\n{text[start : len(text) - (len(self.place.document) - end)]}\n\n```"

    def usage(self) -> Usage:
        found, new = self.edit.generation, len(self.edit.generation.token_ids)
        return Usage(found.prompt_tokens, new, found.prompt_tokens + new, sum(found.steps), found.canvases)

    def told(self) -> Told:
        return Told([self.edit.generation.seed], self.edit.generation.notes)

    def whole(self) -> ChatReply:
        choice = ChatChoice(0, Message("assistant", self.content()), self.edit.generation.finish_reason)
        return ChatReply(self.id, self.created, self.model, [choice], self.usage(), self.told())


def edit(service: Service, body: EditRequest) -> Job:
    users = [message for message in body.messages if message.get("role") == "user"]
    place = read_place(joined(users[-1].get("content") if users else "", "messages", Unread()))
    instruction = (
        f"These edits were made last; make the next one.\n{place.history}" if place.history else None
    )
    asked = settings(body) | {
        "document": place.document,
        "instruction": instruction,
        "spans": [place.free],
        "seed": drawn(body.seed),
    }
    notes = () if body.max_tokens is None else ("not heeded: max_tokens",)
    return Job((Call("stream_edit", asked, notes),), EditAnswer(service, place), bool(body.stream))


EXAMPLE = {"messages": [{"role": "user", "content": f"<|{REGION}|>\nreturn {CURSOR}3\n<|/{REGION}|>"}]}
ROUTES = (Task("/v1/edit/completions", EditRequest, edit, shape, ChatReply, EXAMPLE),)
