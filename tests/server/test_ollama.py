"""Ollama's dialect: lines, whole and streamed, gaps, tools, its errors, and its own client."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import ollama
import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.server.schema.ollama import OllamaAnswer, conversation
from dgemma.server.schema.ollama_models import human_number
from dgemma.weights.identity import identify
from tests.server.test_anthropic import CALL, Served, fed
from tests.server.test_http import Live, live

__all__ = ["live"]  # a fixture

Client = Callable[..., TestClient]
GENERATE, CHAT = "/api/generate", "/api/chat"
ASKED = [{"role": "user", "content": "hi"}]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_generation_is_pythons(client: Client, model: dgemma.Model) -> None:
    want = model.generate("abc", 24, seed=3)
    body = {
        "model": "any",
        "prompt": "abc",
        "options": {"seed": 3, "num_predict": 24, "num_ctx": 4096, "temperature": 1},
    }
    reply = client().post(GENERATE, json=body | {"stream": False}).json()
    assert reply["response"] == want.text and reply["done"] is True and reply["done_reason"] == "length"
    assert (
        reply["eval_count"] == 24
        and reply["steps"] == sum(want.steps)
        and reply["total_duration"] >= reply["prompt_eval_duration"] > 0
    )
    found = client().post(GENERATE, json=body)
    told = lines(found.text)
    assert found.headers["content-type"] == "application/x-ndjson" and [line["done"] for line in told] == [
        False
    ] * (len(told) - 1) + [True]
    assert (
        "".join(line["response"] for line in told) == want.text
        and told[-1]["prompt_eval_count"] == want.prompt_tokens
    )


def test_a_suffix_is_a_gap_and_no_prompt_loads(client: Client, model: dgemma.Model) -> None:
    want = model.fill("def f():\n", "\nx = 1\n", seed=4, widths=[1, 3])
    body = {
        "model": "any",
        "prompt": "def f():\n",
        "suffix": "\nx = 1\n",
        "options": {"seed": 4, "num_predict": 3},
        "stream": False,
    }
    assert client().post(GENERATE, json=body).json()["response"] == want.text
    for path in (GENERATE, CHAT):
        assert lines(client().post(path, json={"model": "any"}).text)[-1]["done_reason"] == "load"


def test_a_chat_is_pythons_and_thoughts_and_calls_have_their_fields(
    client: Client, model: dgemma.Model
) -> None:
    want = model.chat(ASKED, 24, seed=5)
    body = {"model": "any", "messages": ASKED, "options": {"seed": 5, "num_predict": 24}}
    assert client().post(CHAT, json=body | {"stream": False}).json()["message"] == {
        "role": "assistant",
        "content": want.content,
    }
    assert (
        "".join(line["message"]["content"] for line in lines(client().post(CHAT, json=body).text))
        == want.content
    )
    answer = OllamaAnswer(Served(), chat=True)
    told = lines(fed(answer, "<|channel>thought\nhm\n<channel|>Let me", f" see.{CALL}{CALL}<turn|>"))
    calls = [{"function": {"name": "f", "arguments": {"a": "x"}}}] * 2
    assert answer.whole()["message"] == {
        "role": "assistant",
        "content": "Let me see.",
        "thinking": "hm\n",
        "tool_calls": calls,
    }
    assert sum((line["message"].get("tool_calls", []) for line in told), []) == calls


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (GENERATE, {"prompt": "a", "suffix": "b", "format": "json"}, "format"), (GENERATE, {"prompt": "a", "images": ["x"]}, "images"), (GENERATE, {}, "model"),
        (GENERATE, {"prompt": "a", "options": {"mirostat": 2}}, "mirostat"), (CHAT, {"messages": ASKED, "think": "often"}, "think"),
        (CHAT, {"messages": [{"role": "singer", "content": "x"}]}, "role"), (GENERATE, {"prompt": "a", "nope": 1}, "nope"),
        (GENERATE, {"prompt": "a", "system": "b"}, "system"), (GENERATE, {"prompt": "a", "options": {"num_predict": 0}}, "max_tokens"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_named(client: Client, path: str, body: dict[str, Any], name: str) -> None:
    for streaming in (False, True):
        reply = client().post(
            path, json=({"model": "any"} if name != "model" else {}) | {"stream": streaming} | body
        )
        assert (
            reply.status_code == 400 and list(reply.json()) == ["error"] and name in reply.json()["error"]
        ), reply.text


def test_what_its_clients_send_by_default_is_let_through(client: Client, model: dgemma.Model) -> None:
    want = model.chat(ASKED, 8, seed=5).content
    options = {
        "seed": 5,
        "num_predict": 8,
        "typical_p": 1.0,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "repeat_last_n": 64,
        "num_ctx": 2048,
        "tfs_z": 1,
    }
    body = {
        "model": "x:latest",
        "messages": ASKED,
        "options": options,
        "truncate": True,
        "shift": True,
        "keep_alive": "5m",
        "format": "",
    }
    for more in (
        {},
        {"keep_alive": -1, "think": False},
        {"tools": [], "format": None, "think": None},
        {"truncate": False, "shift": False},
    ):
        reply = client().post(CHAT, json=body | {"stream": False} | more)
        assert reply.status_code == 200 and reply.json()["message"]["content"] == want, reply.text
    for level in ("low", "medium", "high", True):
        assert client().post(CHAT, json=body | {"stream": False, "think": level}).status_code == 200


CALLS = [
    {"function": {"name": "f", "arguments": {"a": "1"}}},
    {"function": {"name": "g", "arguments": {"b": 2}}},
]
TOLD = [{"role": "user", "content": "do"}, {"role": "assistant", "content": "", "tool_calls": CALLS}]


@pytest.mark.parametrize(
    "results",
    [
        [{"role": "tool", "content": "one"}, {"role": "tool", "content": "two"}],
        [{"role": "tool", "content": "one", "tool_name": "f"}, {"role": "tool", "content": "two"}],
        [
            {"role": "tool", "content": "two", "tool_name": "g"},
            {"role": "tool", "content": "one", "tool_name": "f"},
        ],
        [
            {"role": "tool", "content": "one", "tool_name": "renamed"},
            {"role": "tool", "content": "two", "tool_name": "g"},
        ],
    ],
)
def test_results_belong_to_calls_by_name_or_in_order(results: list[dict[str, Any]]) -> None:
    messages, notes = conversation([*TOLD, *results, *TOLD, *results])
    assert notes == ()
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert len({*ids}) == 4
    for start in (0, 4):
        part = messages[start : start + 4]
        given = {call["id"]: call["function"]["name"] for call in part[1]["tool_calls"]}
        assert {given[message["tool_call_id"]]: message["content"] for message in part[2:]} == {
            "f": "one",
            "g": "two",
        }


def test_a_picture_becomes_a_word_and_a_note(client: Client) -> None:
    messages = [
        {"role": "user", "content": "what is this", "images": ["aGVsbG8="]},
        {"role": "assistant", "content": "a cat"},
        *ASKED,
    ]
    reply = client().post(
        CHAT, json={"model": "any", "messages": messages, "stream": False, "options": {"num_predict": 4}}
    )
    assert reply.status_code == 200
    assert any("image (1)" in note for note in reply.json()["dgemma"]["notes"])


def test_the_model_is_shown(client: Client, model: dgemma.Model) -> None:
    asking = client()
    shown, running, listed = (
        asking.post("/api/show", json={"model": "any"}).json(),
        asking.get("/api/ps").json(),
        asking.get("/api/tags").json(),
    )
    info, whole = shown["model_info"], dgemma.load(model.folder, device="meta").net
    assert info[f"{info['general.architecture']}.context_length"] == model.config.max_position_embeddings
    assert shown["capabilities"] == [
        "completion",
        "insert",
        *(["tools", "thinking"] if model.chat_tuned else []),
    ]
    (card,), (loaded,) = listed["models"], running["models"]
    assert card["digest"] == loaded["digest"] == identify(model.folder).digest and re.fullmatch(
        "[0-9a-f]{64}", card["digest"]
    )
    for details in (shown["details"], card["details"], loaded["details"]):
        assert (
            details["quantization_level"] == "F32"
            and details["parameter_size"]
            and details["families"] == [details["family"]]
        )
    assert info["general.parameter_count"] == sum(
        part.numel() for part in [*whole.parameters(), *whole.buffers()]
    )
    assert (
        card["size"] > 0
        and loaded["size"] > 0
        and loaded["size_vram"] == 0
        and loaded["context_length"] == info["diffusion-gemma.context_length"]
    )
    needed = [int(part) for part in "0.13.4".split(".")]
    assert [int(part) for part in asking.get("/api/version").json()["version"].split(".")] >= needed
    assert asking.head("/").status_code == 200


def test_large_numbers_are_written_as_ollama_does() -> None:
    assert [human_number(n) for n in (25_233_000_000, 8_030_261_312, 751_632_384, 12_345, 7)] == [
        "25.2B",
        "8.0B",
        "751.63M",
        "12K",
        "7",
    ]


def test_its_own_client(live: Callable[..., Live], fresh: dgemma.Model) -> None:
    model, talk = fresh, ollama.Client(host=live().url)
    want = model.chat(ASKED, 24, seed=7)
    options = {"seed": 7, "num_predict": 24}
    assert talk.chat("any", ASKED, options=options).message.content == want.content
    assert (
        "".join(part.message.content or "" for part in talk.chat("any", ASKED, options=options, stream=True))
        == want.content
    )
    filled = talk.generate("any", "abc", suffix="xyz", options={"seed": 1, "num_predict": 3})
    assert filled.response == model.fill("abc", "xyz", seed=1, widths=[1, 3]).text
    assert (
        [found.model for found in talk.list().models]
        == [found.model for found in talk.ps().models]
        == ["dgemma"]
    )
    shown = talk.show("dgemma")
    assert (
        "insert" in (shown.capabilities or [])
        and shown.details is not None
        and shown.details.quantization_level == "F32"
    )
    for refused in (talk.pull, talk.delete, talk.push):
        with pytest.raises(ollama.ResponseError, match="this service"):
            refused("other")
    with pytest.raises(ollama.ResponseError, match="no embeddings"):
        talk.embed("dgemma", "text")
    assert talk.chat("any", ASKED, format={"type": "boolean"}, options=options).message.content in (
        "true",
        "false",
    )
    with pytest.raises(ollama.ResponseError, match="images"):
        talk.generate("any", "a", images=[b"x"])
    talk._client.close()
