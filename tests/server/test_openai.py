"""OpenAI's dialect over the tiny model: whole answers and streams are what the Python call gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma

Client = Callable[..., TestClient]
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


def chunks(text: str) -> list[dict[str, Any]]:
    """The events of a stream, which must be closed by [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_completion_is_what_python_gives(client: Client, model: dgemma.Model) -> None:
    want = model.generate("abc", max_tokens=30, seed=3)
    reply = client().post(COMPLETE, json={"prompt": "abc", "max_tokens": 30, "seed": 3}).json()
    assert reply["choices"] == [
        {"index": 0, "text": want.text, "finish_reason": want.finish_reason, "logprobs": None}
    ]
    assert reply["usage"] == {"prompt_tokens": want.prompt_tokens, "completion_tokens": 30, "total_tokens": want.prompt_tokens + 30,
                              "steps": sum(want.steps), "canvases": 3}  # fmt: skip
    assert reply["dgemma"]["seeds"] == [3]


def test_a_stream_is_the_whole_answer_in_pieces(client: Client, model: dgemma.Model) -> None:
    body = {
        "prompt": "abc",
        "max_tokens": 30,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    *pieces, last = chunks(client().post(COMPLETE, json=body).text)
    texts = [piece["choices"][0]["text"] for piece in pieces]
    assert "".join(texts) == model.generate("abc", max_tokens=30, seed=3).text and len(texts) > 2
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 30


@pytest.mark.parametrize("n", [1, 3])
def test_a_chat_is_what_python_gives(client: Client, model: dgemma.Model, n: int) -> None:
    messages = [{"role": "user", "content": "hi"}]
    want = [model.chat(messages, max_tokens=24, seed=5 + place) for place in range(n)]
    body = {"messages": messages, "max_completion_tokens": 24, "seed": 5, "n": n}
    reply = client().post(CHAT, json=body).json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == [
        answer.content for answer in want
    ]
    assert reply["usage"]["prompt_tokens"] == want[0].generation.prompt_tokens
    told: dict[int, str] = dict.fromkeys(range(n), "")
    for chunk in chunks(client().post(CHAT, json=body | {"stream": True}).text):
        told[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
    assert [*told.values()] == [answer.content for answer in want]


def test_drafts_are_told_whole_and_only_where_asked_for(client: Client, model: dgemma.Model) -> None:
    body = {"prompt": "abc", "max_tokens": 24, "seed": 3, "stream": True, "diffusing": True}
    pieces = [chunk["choices"][0]["text"] for chunk in chunks(client().post(COMPLETE, json=body).text)]
    want = model.generate("abc", max_tokens=24, seed=3)
    assert pieces[-1] == want.text and len(pieces) > len(want.steps) + 1


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_answers_behind_the_last_seed_have_the_first_ones(client: Client, path: str) -> None:
    asked = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "abc"}
    last = 2**63 - 1
    together = client().post(path, json=asked | {"max_tokens": 12, "seed": last, "n": 3}).json()
    assert together["dgemma"]["seeds"] == [last, 0, 1]
    alone = [
        client().post(path, json=asked | {"max_tokens": 12, "seed": seed}).json()["choices"][0]
        for seed in (last, 0, 1)
    ]
    assert together["choices"] == [choice | {"index": place} for place, choice in enumerate(alone)]


def test_a_suffix_fills_a_gap(client: Client, model: dgemma.Model) -> None:
    want = model.fill("def area(r):\n", "\nprint(1)\n", seed=1, widths=[1, 3])
    body = {"prompt": "def area(r):\n", "suffix": "\nprint(1)\n", "seed": 1, "max_tokens": 3}
    assert client().post(COMPLETE, json=body).json()["choices"][0]["text"] == want.text


def test_many_prompts_and_ids(client: Client, model: dgemma.Model) -> None:
    body = {"prompt": [[2, 30, 31], [2, 40]], "n": 2, "max_tokens": 12, "seed": 0}
    choices = client().post(COMPLETE, json=body).json()["choices"]
    want = [model.generate_ids(prompt, 12, seed=seed) for prompt in body["prompt"] for seed in (0, 1)]
    assert [choice["text"] for choice in choices] == [
        model.tokenizer.decode(result.token_ids) for result in want
    ]
    assert (
        client()
        .post(COMPLETE, json={"prompt": ["ab"], "max_tokens": 12, "echo": True})
        .json()["choices"][0]["text"]
        .startswith("ab")
    )


def test_what_exceeds_the_context_is_cut_and_said(client: Client) -> None:
    reply = client().post(COMPLETE, json={"prompt": "abc", "max_tokens": 10**6, "seed": 0}).json()
    assert reply["usage"]["completion_tokens"] <= 512 and "1000000 was cut to" in reply["dgemma"]["notes"][0]


@pytest.mark.parametrize(
    ("path", "body", "parameter"),
    [
        (COMPLETE, {"prompt": "a", "nonsense": 1}, "nonsense"),
        (COMPLETE, {"prompt": 3}, "prompt"),
        (COMPLETE, {"prompt": ["a", 3]}, "prompt"),
        (COMPLETE, {"prompt": "a", "n": 0}, "n"),
        (COMPLETE, {"prompt": "a", "best_of": 5}, "best_of"),
        (COMPLETE, {"prompt": ""}, None),
        (COMPLETE, {"prompt": "a", "max_tokens": 0}, None),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "function"}},
            "tool_choice",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "x"}], "parallel_tool_calls": "no"},
            "parallel_tool_calls",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False},
            "add_generation_prompt",
        ),
        (CHAT, {"messages": []}, None),
    ],
)
def test_what_is_not_served_is_named(
    client: Client, path: str, body: dict[str, Any], parameter: str | None
) -> None:
    for streaming in (False, True):
        reply = client().post(path, json=body | {"stream": streaming})
        assert reply.status_code == 400 and reply.json()["error"]["param"] == parameter, reply.text


def test_values_that_change_nothing_are_let_through(client: Client) -> None:
    body = {
        "prompt": "a",
        "max_tokens": 2,
        "temperature": 1,
        "top_p": 1.0,
        "stop": [],
        "user": "me",
        "presence_penalty": 0,
    }
    assert client().post(COMPLETE, json=body).status_code == 200


def test_models_are_listed_under_both_names(client: Client) -> None:
    listed = client(name="org/it").get("/v1/models").json()
    assert listed["data"] == listed["models"] and listed["data"][0]["id"] == "org/it"
    assert client(name="org/it").get("/v1/models/org/it").json()["object"] == "model"
    assert client().get("/v1/models/other").status_code == 404
