"""Anthropic's dialect: blocks, whole and streamed, its errors, the count of tokens, and its own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.server.schema.anthropic import MessagesAnswer
from dgemma.tasks.events import Committed, Generation
from dgemma.tasks.output_parser import OutputParser
from tests.helpers import byte_tokenizer
from tests.server.test_http import Live, live
from tests.text.test_turns import ids_of

__all__ = ["live"]  # a fixture
Client = Callable[..., TestClient]
PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
ASKED = [{"role": "user", "content": "hi"}]
CALL = '<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>'
TOOLS = [
    {
        "name": "f",
        "description": "does",
        "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}},
    }
]


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each named by its type."""
    found = []
    for part in text.split("\n\n"):
        if part and not part.startswith(":"):
            name, data = part.split("\n", 1)
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def fed(answer: Any, *layouts: str) -> Any:
    """An answer that was told canvases of these tokens, and the stream it made of them."""
    ids, parser = [ids_of(layout) for layout in layouts], OutputParser(byte_tokenizer())
    chunks = [*answer.begin()]
    for canvas, found in enumerate(ids):
        parts = parser.feed(found) + (parser.finish() if canvas + 1 == len(ids) else [])
        chunks += answer.take(0, Committed(canvas, "", found, 2, parts))
    chunks += answer.take(0, Generation("", sum(ids, []), [2] * len(ids), "stop", 7, 0, 1.0, 0.5))
    return b"".join([*chunks, *answer.end()]).decode()


class Served:
    """As much of a service as an answer looks at."""

    model = config = property(lambda self: self)
    name, tokenizer = "tiny", byte_tokenizer()


def test_a_message_is_what_python_gives_whole_and_streamed(client: Client, model: dgemma.Model) -> None:
    want = model.chat(ASKED, 24, seed=5)
    body = {"model": "any", "messages": ASKED, "max_tokens": 24, "seed": 5}
    reply = client().post(PATH, json=body).json()
    assert (
        reply["content"] == [{"type": "text", "text": want.content}] and reply["stop_reason"] == "max_tokens"
    )
    usage = reply["usage"]
    assert usage == {
        "input_tokens": want.generation.prompt_tokens,
        "output_tokens": 24,
        "steps": sum(want.generation.steps),
        "canvases": 2,
    }
    told = events(client().post(PATH, json=body | {"stream": True}).text)
    assert [told[0]["type"], told[-2]["type"], told[-1]["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    assert (
        "".join(event["delta"]["text"] for event in told if event["type"] == "content_block_delta")
        == want.content
    )
    assert told[-2]["usage"] == usage and told[-2]["delta"]["stop_reason"] == "max_tokens"


def test_thoughts_text_and_calls_are_blocks_in_their_order() -> None:
    answer = MessagesAnswer(Served())
    told = events(fed(answer, "<|channel>thought\nhm\n<channel|>Let me", f" see.{CALL}{CALL}<turn|>"))
    whole = answer.whole()
    assert [block["type"] for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (
        whole.content[1]["text"] == "Let me see."
        and whole.content[2]["input"] == {"a": "x"}
        and whole.stop_reason == "tool_use"
    )
    kinds = [event["type"].removeprefix("content_block_") for event in told]
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    assert kinds.count("start") == kinds.count("stop") == 4
    assert [event["index"] for event in told if event["type"] == "content_block_start"] == [0, 1, 2, 3]
    assert json.loads(deltas[-1]["partial_json"]) == {"a": "x"}


def test_a_conversation_of_blocks_reads_as_pythons(client: Client, model: dgemma.Model) -> None:
    content = [
        {"role": "user", "content": [{"type": "text", "text": "go", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "See."},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "no"}], "is_error": True}]},
    ]  # fmt: skip
    same = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "go"},
        {"role": "assistant", "content": "See.", "reasoning_content": "hm", "tool_calls": [
            {"id": "t1", "function": {"name": "f", "arguments": {"a": "x"}}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
    ]  # fmt: skip
    tools = [
        {
            "type": "function",
            "function": {"name": "f", "description": "does", "parameters": TOOLS[0]["input_schema"]},
        }
    ]
    want = model.chat(same, 12, seed=3, tools=tools, thinking=True)
    body = {
        "messages": content,
        "system": [{"type": "text", "text": "Be brief."}],
        "tools": TOOLS,
        "thinking": {"type": "enabled"},
    }
    reply = client().post(PATH, json=body | {"max_tokens": 12, "seed": 3}).json()
    assert reply["usage"]["input_tokens"] == want.generation.prompt_tokens
    assert client().post(COUNT, json=body).json() == {"input_tokens": want.generation.prompt_tokens}


def test_what_agents_send_is_taken_and_long_answers_are_cut(client: Client) -> None:
    body = {
        "messages": ASKED,
        "max_tokens": 32000,
        "temperature": 1,
        "metadata": {"user_id": "me"},
        "context_management": {"edits": []},
        "seed": 0,
    }
    reply = client().post(f"{PATH}?beta=true", json=body).json()
    assert "32000 was cut to" in reply["dgemma"]["notes"][0] and reply["usage"]["output_tokens"] <= 512


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice"), ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"output_config": {"format": {}}}, "json_schema"), ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"name": "a b"}]}, "tools[0]"), ({"tools": [3]}, "tools[0]"), ({"messages": []}, "messages"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "So"}], "thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking"),
        ({"dgemma": {"nope": 1}}, "dgemma.nope"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_named(client: Client, more: dict[str, Any], name: str) -> None:
    for streaming in (False, True):
        reply = client().post(PATH, json={"messages": ASKED, "max_tokens": 4, "stream": streaming} | more)
        error = reply.json()
        assert (
            reply.status_code == 400
            and error["type"] == "error"
            and error["error"]["type"] == "invalid_request_error"
        )
        assert name in error["error"]["message"]


def test_stops_and_forms(client: Client, model: dgemma.Model) -> None:
    content = model.chat(ASKED, 24, seed=5).content
    body = {"messages": ASKED, "max_tokens": 24, "seed": 5}
    reply = client().post(PATH, json=body | {"stop_sequences": [content[3:5]]}).json()
    assert reply["content"][0]["text"] == content[: content.index(content[3:5])]
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", content[3:5])
    form = {"output_config": {"format": {"type": "json_schema", "schema": {"type": "boolean"}}}}
    assert client().post(PATH, json=body | form).json()["content"][0]["text"] in ("true", "false")


def test_its_own_client(live: Callable[..., Live], fresh: dgemma.Model) -> None:
    model = fresh
    want = model.chat(ASKED, 24, seed=7)
    asked: Any = {"model": "dgemma", "messages": ASKED, "max_tokens": 24, "extra_body": {"seed": 7}}
    talk = anthropic.Anthropic(base_url=live(keys=("sk-test",)).url, api_key="sk-test", max_retries=0)
    assert talk.messages.create(**asked).content[0].text == want.content
    with talk.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == want.content
        final = stream.get_final_message()
    reasons = {"length": "max_tokens", "stop": "end_turn"}
    assert (
        final.stop_reason == reasons[want.generation.finish_reason]
        and final.usage.input_tokens == want.generation.prompt_tokens
    )
    assert (
        talk.messages.count_tokens(model="dgemma", messages=ASKED).input_tokens
        == want.generation.prompt_tokens
    )
    with pytest.raises(anthropic.BadRequestError, match="tool_choice"):
        talk.messages.create(**asked, tool_choice={"type": "any"})
    with pytest.raises(anthropic.AuthenticationError):
        talk.with_options(api_key="wrong").messages.create(**asked)
    talk.close()
