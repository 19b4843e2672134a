"""Forms as clients send them: none holds up another's answer, outlives its client, or is refused where others
keep it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.testclient import TestClient

import dgemma
from tests.server.test_http import Live, eventually, head, live
from tests.server.test_openai import CHAT, COMPLETE

__all__ = ["live"]
Client = Callable[..., TestClient]
MESSAGES = [{"role": "user", "content": "hi"}]
EMAIL = {
    "type": "object",
    "properties": {"a": {"type": "string", "format": "email"}},
    "required": ["a"],
    "additionalProperties": False,
}
INTEGER = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
ENDLESS = {"type": "integer", "multipleOf": 2**31}  # its compiling never ends
LOOK = {
    "name": "look",
    "description": "",
    "parameters": {"type": "object", "properties": {"at": {"type": "string", "maxLength": 4}}},
}


def format_of(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_a_form_in_company_ends_in_few_passes_and_holds_nobody_up(
    live: Callable[..., Live], fresh: dgemma.Model
) -> None:
    at = live()
    body = {"messages": MESSAGES, "max_tokens": 48, "seed": 1, "response_format": format_of(EMAIL)}
    short = {"prompt": "abc", "max_tokens": 6, "seed": 1}

    def passes(asked: dict[str, Any]) -> int:
        before = fresh.engine.passes
        assert httpx.post(f"{at.url}{COMPLETE}", json=asked, timeout=60).status_code == 200
        return fresh.engine.passes - before

    alone = passes(short)
    replies: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: replies.append(httpx.post(f"{at.url}{CHAT}", json=body, timeout=60)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    # the others go on while its answer travels, on a busy machine for some passes
    assert passes(short) <= alone + 8
    for thread in threads:
        thread.join()
    for reply in replies:
        assert reply.status_code == 200, reply.text
        jsonschema.validate(json.loads(reply.json()["choices"][0]["message"]["content"]), EMAIL)


def test_a_form_that_never_compiles_ends_with_its_client(
    live: Callable[..., Live], fresh: dgemma.Model
) -> None:
    at = live()
    body = {"messages": MESSAGES, "max_tokens": 8, "json_schema": ENDLESS}
    leaving = at.connect(head(CHAT, json.dumps(body).encode()))
    eventually(lambda: at.open == 1)
    leaving.close()
    eventually(lambda: at.open == 0, seconds=60)
    assert (
        httpx.post(f"{at.url}{COMPLETE}", json={"prompt": "x", "max_tokens": 8}, timeout=60).status_code
        == 200
    )


def test_a_form_that_never_compiles_is_refused_and_others_go_on(live: Callable[..., Live]) -> None:
    at = live()
    refused: list[httpx.Response] = []
    asked = {"messages": MESSAGES, "max_tokens": 8, "json_schema": ENDLESS}
    thread = threading.Thread(
        target=lambda: refused.append(httpx.post(f"{at.url}{CHAT}", json=asked, timeout=100))
    )
    thread.start()
    time.sleep(0.1)
    assert (
        httpx.post(f"{at.url}{COMPLETE}", json={"prompt": "x", "max_tokens": 8}, timeout=60).status_code
        == 200
    )
    thread.join()
    assert refused[0].status_code == 400 and "simpler form" in refused[0].json()["error"]["message"]


@pytest.mark.parametrize(
    "keyword", ["minimum", "maximum", "multipleOf", "const", "minLength", "maxItems", "minProperties"]
)
@pytest.mark.parametrize("value", [10**309, -(10**310), 10**4000])
def test_a_number_beyond_all_numbers_is_the_clients_fault(client: Client, keyword: str, value: int) -> None:
    at = client()
    for asked in (
        {"json_schema": {keyword: value}},
        {"json_schema": f'{{"{keyword}": {value}}}'},
        {"response_format": format_of({"enum": [value]})},
    ):
        reply = at.post(CHAT, json={"messages": MESSAGES, "max_tokens": 8} | asked)
        assert reply.status_code == 400, reply.text


def test_what_is_not_kept_is_told_in_notes(client: Client) -> None:
    schema = {"type": "string", "format": "password", "maxLength": 3}
    reply = (
        client()
        .post(CHAT, json={"messages": MESSAGES, "max_tokens": 12, "response_format": format_of(schema)})
        .json()
    )
    assert any("password" in note for note in reply["dgemma"]["notes"])


def test_json_object_with_a_schema_keeps_it(client: Client) -> None:
    body = {
        "messages": MESSAGES,
        "max_tokens": 24,
        "response_format": {"type": "json_object", "schema": INTEGER},
    }
    jsonschema.validate(
        json.loads(client().post(CHAT, json=body).json()["choices"][0]["message"]["content"]), INTEGER
    )


DIALECTS: dict[str, tuple[str, dict[str, Any], Callable[[Any], tuple[str, list[Any]]]]] = {
    "chat": (
        CHAT,
        {
            "messages": MESSAGES,
            "max_tokens": 30,
            "tools": [{"type": "function", "function": LOOK}],
            "response_format": format_of(INTEGER),
        },
        lambda reply: (
            reply["choices"][0]["message"]["content"] or "",
            reply["choices"][0]["message"].get("tool_calls") or [],
        ),
    ),
    "responses": (
        "/v1/responses",
        {
            "input": "hi",
            "max_output_tokens": 30,
            "tools": [{"type": "function", **LOOK}],
            "text": {"format": {"type": "json_schema", "name": "x", "schema": INTEGER}},
        },
        lambda reply: (
            "".join(
                part["text"]
                for item in reply["output"]
                if item["type"] == "message"
                for part in item["content"]
            ),
            [item for item in reply["output"] if item["type"] == "function_call"],
        ),
    ),
    "messages": (
        "/v1/messages",
        {
            "model": "x",
            "messages": MESSAGES,
            "max_tokens": 30,
            "output_format": {"type": "json_schema", "schema": INTEGER},
            "tools": [{"name": "look", "input_schema": LOOK["parameters"]}],
        },
        lambda reply: (
            "".join(block["text"] for block in reply["content"] if block["type"] == "text"),
            [block for block in reply["content"] if block["type"] == "tool_use"],
        ),
    ),
    "ollama": (
        "/api/chat",
        {
            "model": "x",
            "messages": MESSAGES,
            "stream": False,
            "format": INTEGER,
            "options": {"num_predict": 30},
            "tools": [{"type": "function", "function": LOOK}],
        },
        lambda reply: (reply["message"]["content"], reply["message"].get("tool_calls") or []),
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_beside_tools_an_answer_is_a_call_or_has_the_form(client: Client, dialect: str) -> None:
    path, body, read = DIALECTS[dialect]
    reply = client().post(path, json=body)
    assert reply.status_code == 200, reply.text
    text, calls = read(reply.json())
    assert bool(text) != bool(calls)
    if text:
        jsonschema.validate(json.loads(text), INTEGER)
