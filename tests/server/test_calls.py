"""Calls that are asked for by `tool_choice`, in the dialects that have it: the same call as Python's, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma
from tests.tasks.test_called import ASKED, LOOK, TOOLS

Client = Callable[..., TestClient]
SCHEMA = TOOLS[0]["function"]["parameters"]
MESSAGES_TOOLS = [{"name": tool["function"]["name"], "input_schema": SCHEMA} for tool in TOOLS]
RESPONSES_TOOLS = [
    {"type": "function", "name": "look", "parameters": SCHEMA},
    {"type": "namespace", "name": "go", "tools": [{"type": "function", "name": "to", "parameters": SCHEMA}]},
]


@pytest.mark.parametrize("choice", ["required", LOOK])
def test_openais(client: Client, model: dgemma.Model, choice: Any) -> None:
    want = model.chat(ASKED, 60, seed=4, tools=TOOLS, tool_choice=choice).tool_calls[0]
    body = {"messages": ASKED, "tools": TOOLS, "tool_choice": choice, "max_tokens": 60, "seed": 4}
    told = client().post("/v1/chat/completions", json=body).json()["choices"][0]
    function = told["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"]), told["finish_reason"]) == (
        want.name,
        want.arguments,
        "tool_calls",
    )
    stream = client().post("/v1/chat/completions", json=body | {"stream": True}).text
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    calls = [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert [call["function"] for call in calls] == [function]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "look"}])
def test_anthropics(client: Client, choice: dict[str, Any]) -> None:
    body = {"messages": ASKED, "tools": MESSAGES_TOOLS, "tool_choice": choice, "max_tokens": 60, "seed": 4}
    reply = client().post("/v1/messages", json=body).json()
    (block,) = reply["content"]
    assert (
        block["type"] == "tool_use"
        and block["name"] in ("go.to", choice.get("name", "look"))
        and set(block["input"]) == {"at", "list"}
    )
    assert (
        reply["stop_reason"] == "tool_use"
        and "tool_use" in client().post("/v1/messages", json=body | {"stream": True}).text
    )


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "name": "to", "namespace": "go"}, {"type": "function", "name": "look"}],
)
def test_responses(client: Client, choice: Any) -> None:
    body = {
        "input": ASKED,
        "tools": RESPONSES_TOOLS,
        "tool_choice": choice,
        "max_output_tokens": 60,
        "seed": 4,
    }
    (item,) = client().post("/v1/responses", json=body).json()["output"]
    assert item["type"] == "function_call" and set(json.loads(item["arguments"])) == {"at", "list"}
    if isinstance(choice, dict):
        assert (item["name"], item.get("namespace")) == (choice["name"], choice.get("namespace"))


@pytest.mark.parametrize(
    ("path", "body", "none"),
    [
        ("/v1/chat/completions", {"messages": ASKED, "tools": TOOLS, "max_tokens": 8}, "none"),
        ("/v1/responses", {"input": ASKED, "tools": RESPONSES_TOOLS, "max_output_tokens": 8}, "none"),
        ("/v1/messages", {"messages": ASKED, "tools": MESSAGES_TOOLS, "max_tokens": 8}, {"type": "none"}),
        ("/v1/messages/count_tokens", {"messages": ASKED, "tools": MESSAGES_TOOLS}, {"type": "none"}),
    ],
)
def test_with_none_no_tool_is_in_the_prompt(
    client: Client, path: str, body: dict[str, Any], none: Any
) -> None:
    def read(asked: dict[str, Any]) -> int:
        reply = client().post(path, json=asked).json()
        usage = reply.get("usage", reply)
        return usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"]

    plain = read({name: value for name, value in body.items() if name != "tools"})
    assert read(body | {"tool_choice": none}) == plain < read(body)


@pytest.mark.parametrize(
    "choice", [{"type": "function"}, {"type": "allowed_tools", "mode": "auto", "tools": []}, "sometimes", 3]
)
def test_another_choice_is_named(client: Client, choice: Any) -> None:
    for path, field in (("/v1/chat/completions", "messages"), ("/v1/responses", "input")):
        reply = client().post(path, json={field: ASKED, "tools": TOOLS, "tool_choice": choice})
        assert reply.status_code == 400 and reply.json()["error"]["param"] == "tool_choice"
