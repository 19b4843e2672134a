"""Ollama's dialect: lines, whole and streamed, gaps, tools, its errors, and its own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ollama
import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.server.schema.ollama import OllamaAnswer
from tests.server.test_anthropic import CALL, Served, fed
from tests.server.test_http import Live, live

__all__ = ["live"]  # a fixture

Client = Callable[..., TestClient]
GENERATE, CHAT = "/api/generate", "/api/chat"
ASKED = [{"role": "user", "content": "hi"}]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_generation_is_pythons(client: Client, model: dgemma.Model) -> None:
    want = model.generate("abc", 24, 3)
    body = {"model": "any", "prompt": "abc", "options": {"seed": 3, "num_predict": 24, "num_ctx": 4096, "temperature": 1}}
    reply = client().post(GENERATE, json=body | {"stream": False}).json()
    assert reply["response"] == want.text and reply["done"] is True and reply["done_reason"] == "length"
    assert reply["eval_count"] == 24 and reply["steps"] == sum(want.steps) and reply["total_duration"] >= reply["prompt_eval_duration"] > 0
    found = client().post(GENERATE, json=body)
    told = lines(found.text)
    assert found.headers["content-type"] == "application/x-ndjson" and [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    assert "".join(line["response"] for line in told) == want.text and told[-1]["prompt_eval_count"] == want.prompt_tokens


def test_a_suffix_is_a_gap_and_no_prompt_loads(client: Client, model: dgemma.Model) -> None:
    want = model.fill("def f():\n", "\nx = 1\n", 4, widths=[1, 3])
    body = {"model": "any", "prompt": "def f():\n", "suffix": "\nx = 1\n", "options": {"seed": 4, "num_predict": 3}, "stream": False}
    assert client().post(GENERATE, json=body).json()["response"] == want.text
    for path in (GENERATE, CHAT):
        assert lines(client().post(path, json={"model": "any"}).text)[-1]["done_reason"] == "load"


def test_a_chat_is_pythons_and_thoughts_and_calls_have_their_fields(client: Client, model: dgemma.Model) -> None:
    want = model.chat(ASKED, 24, 5)
    body = {"model": "any", "messages": ASKED, "options": {"seed": 5, "num_predict": 24}}
    assert client().post(CHAT, json=body | {"stream": False}).json()["message"] == {"role": "assistant", "content": want.content}
    assert "".join(line["message"]["content"] for line in lines(client().post(CHAT, json=body).text)) == want.content
    answer = OllamaAnswer(Served(), chat=True)
    told = lines(fed(answer, "<|channel>thought\nhm\n<channel|>Let me", f" see.{CALL}{CALL}<turn|>"))
    calls = [{"function": {"name": "f", "arguments": {"a": "x"}}}] * 2
    assert answer.whole()["message"] == {"role": "assistant", "content": "Let me see.", "thinking": "hm\n", "tool_calls": calls}
    assert sum((line["message"].get("tool_calls", []) for line in told), []) == calls


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (GENERATE, {"prompt": "a", "suffix": "b", "format": "json"}, "format"), (GENERATE, {"prompt": "a", "images": ["x"]}, "images"), (GENERATE, {}, "model"),
        (GENERATE, {"prompt": "a", "options": {"mirostat": 2}}, "mirostat"), (CHAT, {"messages": [{"role": "user", "content": "x", "images": ["x"]}]}, "images"),
        (CHAT, {"messages": [{"role": "singer", "content": "x"}]}, "role"), (GENERATE, {"prompt": "a", "nope": 1}, "nope"),
        (GENERATE, {"prompt": "a", "system": "b"}, "system"), (GENERATE, {"prompt": "a", "options": {"num_predict": 0}}, "max_tokens"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_named(client: Client, path: str, body: dict[str, Any], name: str) -> None:
    for streaming in (False, True):
        reply = client().post(path, json=({"model": "any"} if name != "model" else {}) | {"stream": streaming} | body)
        assert reply.status_code == 400 and list(reply.json()) == ["error"] and name in reply.json()["error"], reply.text


def test_its_own_client(live: Callable[..., Live], fresh: dgemma.Model) -> None:
    model, talk = fresh, ollama.Client(host=live().url)
    want = model.chat(ASKED, 24, 7)
    options = {"seed": 7, "num_predict": 24}
    assert talk.chat("any", ASKED, options=options).message.content == want.content
    assert "".join(part.message.content or "" for part in talk.chat("any", ASKED, options=options, stream=True)) == want.content
    filled = talk.generate("any", "abc", suffix="xyz", options={"seed": 1, "num_predict": 3})
    assert filled.response == model.fill("abc", "xyz", 1, widths=[1, 3]).text
    assert [found.model for found in talk.list().models] == ["dgemma"]
    assert talk.chat("any", ASKED, format={"type": "boolean"}, options=options).message.content in ("true", "false")
    with pytest.raises(ollama.ResponseError, match="images"):
        talk.generate("any", "a", images=[b"x"])
    talk._client.close()
