"""Our own event stream: played back, the differences are the drafts, and the end is the Python call's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.tasks.events import Draft

Client = Callable[..., TestClient]


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for part in text.split("\n\n"):
        if part and not part.startswith(":"):
            name, data = part.split("\n", 1)
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def played(steps: list[dict[str, Any]]) -> list[tuple[int, int, int, list[int]]]:
    """(row, canvas, step, ids) of each step, from the differences alone."""
    shown: dict[tuple[int, int], list[int]] = {}
    frames = []
    for step in steps:
        ids = shown.setdefault((step["row"], step["canvas"]), [-1] * step["width"])
        for token in step["tokens"]:
            ids[token["at"]] = token["id"]
        frames.append((step["row"], step["canvas"], step["step"], [*ids]))
    return frames


def drafts(stream: Any) -> list[Draft]:
    return [event for event in stream if isinstance(event, Draft)]


def test_steps_played_back_are_the_drafts(client: Client, model: dgemma.Model) -> None:
    want = drafts(model.stream("abc", 30, seed=4))
    told = events(
        client()
        .post("/v1/canvas", json={"task": "complete", "prompt": "abc", "max_tokens": 30, "seed": 4})
        .text
    )
    steps = [data for name, data in told if name == "step"]
    assert played(steps) == [(0, draft.canvas, draft.step, draft.token_ids) for draft in want]
    assert [step["accepted"] for step in steps] == [
        [at for at, on in enumerate(draft.accepted) if on] for draft in want
    ]
    assert sum(len(step["tokens"]) for step in steps) < sum(step["width"] for step in steps)
    name, done = told[-1]
    assert (
        name == "done"
        and done["text"] == model.generate("abc", 30, seed=4).text
        and done["usage"]["steps"] == len(steps)
    )
    assert "".join(data["text"] for name, data in told if name == "commit") == done["text"]
    assert [step["start"] for step in steps] == [12 * draft.canvas for draft in want]


def test_rows_of_an_infill_keep_apart_and_pins_are_told(client: Client, model: dgemma.Model) -> None:
    body = {"task": "infill", "prefix": "def f():\n", "suffix": "\nx = 1\n", "seed": 2, "widths": [2, 4]}
    told = events(client().post("/v1/canvas", json=body).text)
    want = drafts(model.stream_fill("def f():\n", "\nx = 1\n", seed=2, widths=[2, 4]))
    steps = [data for name, data in told if name == "step"]
    assert sorted(played(steps)) == sorted((d.row, d.canvas, d.step, d.token_ids) for d in want)
    assert {len(step["pinned"]) for step in steps if "pinned" in step} == {10, 8}
    assert told[-1][1]["text"] == model.fill("def f():\n", "\nx = 1\n", seed=2, widths=[2, 4]).text


def test_an_edit_shows_each_change_and_its_diff(client: Client, model: dgemma.Model) -> None:
    document = "def area(r):\n    return 3\n\nprint(area(2))\n"
    want = model.edit(document, "use pi", seed=3, spans=[(17, 25)])
    body = {"task": "edit", "document": document, "instruction": "use pi", "spans": [[17, 25]], "seed": 3}
    told = events(client().post("/v1/canvas", json=body).text)
    assert [data for name, data in told if name == "change"] == [change.to_dict() for change in want.changes]
    (change,) = want.changes
    last = max(
        (step for step in played([data for name, data in told if name == "step"]) if step[0] == change.row),
        key=lambda step: step[1:3],
    )
    assert change.row and change.after in model.tokenizer.decode(last[3])
    assert told[-1][0] == "done" and told[-1][1]["text"] == want.text and told[-1][1]["diff"] == want.diff()
    found = events(
        client()
        .post("/v1/canvas", json={"task": "edit", "document": document, "instruction": "use pi", "seed": 3})
        .text
    )
    assert found[-1][1]["text"] == model.edit(document, "use pi", seed=3).text


def test_a_chat_is_told_by_channel(client: Client, model: dgemma.Model) -> None:
    messages = [{"role": "user", "content": "hi"}]
    told = events(
        client()
        .post("/v1/canvas", json={"task": "chat", "messages": messages, "max_tokens": 24, "seed": 1})
        .text
    )
    assert told[-1][1]["text"] == model.chat(messages, 24, seed=1).content and told[-1][1]["thought"] == ""


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"task": "sing"}, "task"), ({}, "task"), ({"task": "chat"}, "messages"), ({"task": "complete", "prompt": "a", "suffix": "b"}, "suffix"),
        ({"task": "infill"}, None), ({"task": "edit", "document": "a", "top_k": 3}, "top_k"),
        ({"task": "infill", "prefix": "a", "stop": "x"}, "stop"), ({"task": "infill", "prefix": "a", "regex": "x"}, "regex"),
        ({"task": "chat", "messages": [], "top_logprobs": 3}, "top_logprobs"),
    ],
)  # fmt: skip
def test_fields_of_another_task_are_named(
    client: Client, body: dict[str, Any], parameter: str | None
) -> None:
    reply = client().post("/v1/canvas", json=body)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == parameter, reply.text


def test_terms_of_an_answer_hold_here_too(client: Client, model: dgemma.Model) -> None:
    messages, asked = (
        [{"role": "user", "content": "hi"}],
        {"top_k": 2, "stop": "~", "max_tokens": 36, "seed": 1},
    )
    want = model.chat(messages, logprobs=True, **asked)
    told = events(
        client()
        .post("/v1/canvas", json={"task": "chat", "messages": messages, "logprobs": True} | asked)
        .text
    )
    commits = [data for name, data in told if name == "commit"]
    assert (
        "".join(part["text"] for commit in commits for part in commit["parts"])
        == want.content
        == told[-1][1]["text"]
    )
    scores = [token["logprob"] for commit in commits for token in commit.get("logprobs", ())]
    assert (
        scores == [one.log_prob for one in want.generation.logprobs or () if one.start is not None] and scores
    )
    assert want.content != model.chat(messages, 36, seed=1).content


def test_a_gap_takes_rules_of_tokens(client: Client, model: dgemma.Model) -> None:
    body = {
        "task": "infill",
        "prefix": "def f():\n",
        "suffix": "\nx = 1\n",
        "seed": 2,
        "widths": [4],
        "logit_bias": {"100": 100},
    }
    told = events(client().post("/v1/canvas", json=body).text)
    assert told[-1][1]["text"].strip() == model.tokenizer.decode([100] * 4)
