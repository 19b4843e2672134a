"""Drafts on the wire: every dialect that streams them tells those of every canvas where they are request_body for, and none elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.server.dialects import ROUTES
from dgemma.tasks.events import Committed, Draft
from tests.server.test_canvas import events
from tests.server.test_openai import CHAT, COMPLETE, chunks

Client = Callable[..., TestClient]
MESSAGES = [{"role": "user", "content": "hi"}]
SETTINGS = {"max_tokens": 30, "seed": 3}
DOCUMENT = "def area(r):\n    return 3\n\nprint(area(2))\n"
# what a request is to each dialect that streams drafts, and to Python
SAME = {
    "completions": (COMPLETE, {"prompt": "abc"}, lambda model: model.stream("abc", 30, seed=3)),
    "chat": (CHAT, {"messages": MESSAGES}, lambda model: model.stream_chat(MESSAGES, 30, seed=3)),
    "canvas: complete": (
        "/v1/canvas",
        {"task": "complete", "prompt": "abc"},
        lambda model: model.stream("abc", 30, seed=3),
    ),
    "canvas: chat": (
        "/v1/canvas",
        {"task": "chat", "messages": MESSAGES},
        lambda model: model.stream_chat(MESSAGES, 30, seed=3),
    ),
}
GAPS = {
    "canvas: infill": ({"task": "infill", "prefix": "a", "suffix": "b", "widths": [2, 4], "seed": 3}, 2),
    "canvas: edit": ({"task": "edit", "document": DOCUMENT, "spans": [[17, 25]], "seed": 3}, 1),
}


def drafts_in(reply: Any, path: str) -> list[tuple[int, str]]:
    """(index of the choice, text) of each draft; of the texts of a completion those in front of what is committed, too."""
    if path == "/v1/canvas":
        return [(data["row"], json.dumps(data)) for name, data in events(reply.text) if name == "step"]
    collected = []
    for chunk in chunks(reply.text):
        for choice in chunk["choices"]:
            text = choice["text"] if path == COMPLETE else choice["delta"].get("content")
            if text:
                collected.append((choice["index"], text))
    return collected


def texts(model: dgemma.Model, stream: Iterator[Any]) -> list[str]:
    """The whole text as each draft and each canvas leaves it, but for what says the same again."""
    ids: list[int] = []
    collected: list[str] = []
    for event in stream:
        if isinstance(event, Draft):
            collected.append(model.tokenizer.decode([*ids, *event.token_ids]))
        elif isinstance(event, Committed):
            ids += event.token_ids
            collected.append(model.tokenizer.decode(ids))
    return changes(collected)


def changes(collected: list[str]) -> list[str]:
    """Texts but for those that say the same again; the end of a character of several bytes is drafts_in with its last one."""
    whole = [text.rstrip("\ufffd") for text in collected]
    return [text for place, text in enumerate(whole) if text != (whole[place - 1] if place else "")]


def test_the_cases_are_all_dialects_that_stream_drafts() -> None:
    streaming_paths = {
        route.path for route in ROUTES if route.body and "diffusing" in route.body.__struct_fields__
    }
    assert streaming_paths | {"/v1/canvas"} == {path for path, _, _ in SAME.values()}


@pytest.mark.parametrize("case", SAME)
def test_drafts_of_every_canvas_arrive_where_they_are_asked_for(
    client: Client, model: dgemma.Model, case: str
) -> None:
    path, body, same = SAME[case]
    request_body = body | SETTINGS | ({} if path == "/v1/canvas" else {"diffusing": True, "stream": True})
    arrived = drafts_in(client().post(path, json=request_body), path)
    drafts = [event for event in same(model) if isinstance(event, Draft)]
    canvases = len({event.canvas for event in drafts})
    assert len(drafts) > 2 * canvases
    if path == "/v1/canvas":
        assert len(arrived) == len(drafts)
    elif path == COMPLETE:
        assert canvases == 3 and changes([text for _, text in arrived]) == texts(model, same(model))
    else:
        assert len({text for _, text in arrived}) > 2 * canvases


@pytest.mark.parametrize("case", GAPS)
def test_drafts_of_a_gap_arrive_for_each_of_its_rows(client: Client, case: str) -> None:
    body, rows = GAPS[case]
    arrived = drafts_in(client().post("/v1/canvas", json=body), "/v1/canvas")
    assert len({row for row, _ in arrived}) >= rows and len(arrived) > 2 * rows


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_each_choice_has_drafts_of_its_own(client: Client, path: str) -> None:
    body = SAME["chat" if path == CHAT else "completions"][1] | SETTINGS
    alone = client().post(path, json=body | {"diffusing": True, "stream": True})
    both = drafts_in(client().post(path, json=body | {"diffusing": True, "stream": True, "n": 2}), path)
    of_each = [[text for index, text in both if index == choice] for choice in range(2)]
    assert of_each[0] == [text for _, text in drafts_in(alone, path)] and of_each[1] != of_each[0]
    assert len(of_each[1]) > 6


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_nobody_hears_of_drafts_who_did_not_ask(client: Client, path: str) -> None:
    body = SAME["chat" if path == CHAT else "completions"][1] | SETTINGS
    pieces = drafts_in(client().post(path, json=body | {"stream": True}), path)
    whole = client().post(path, json=body).json()["choices"][0]
    assert len(pieces) <= 3
    assert "".join(text for _, text in pieces) == (
        whole["text"] if path == COMPLETE else whole["message"]["content"]
    )
