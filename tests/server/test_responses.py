"""OpenAI's responses: items, whole and streamed, what is left out or refused, and OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import openai
import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.server.schema.responses import ResponsesAnswer, ResponsesRequest
from tests.server.test_anthropic import CALL, Served, events, fed
from tests.server.test_http import Live, live

__all__ = ["live"]  # a fixture

Client = Callable[..., TestClient]
PATH = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "f",
    "description": "does",
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
}


def test_a_text_is_what_python_gives_whole_and_streamed(client: Client, model: dgemma.Model) -> None:
    want = model.chat(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], 24, seed=5
    )
    body = {
        "model": "any",
        "input": "hi",
        "instructions": "Be brief.",
        "max_output_tokens": 24,
        "seed": 5,
        "store": True,
    }
    reply = client().post(PATH, json=body).json()
    assert (
        reply["output"][0]["content"][0]["text"] == want.content
        and reply["output"][0]["status"] == "completed"
    )
    assert (
        reply["status"] == "incomplete"
        and reply["incomplete_details"] == {"reason": "max_output_tokens"}
        and reply["store"] is False
    )
    assert reply["usage"]["input_tokens"] == want.generation.prompt_tokens and reply["usage"]["steps"] == sum(
        want.generation.steps
    )
    told = events(client().post(PATH, json=body | {"stream": True}).text)
    assert [event["sequence_number"] for event in told] == [*range(len(told))]
    assert (
        told[0]["type"] == "response.created"
        and told[0]["response"]["output"] == []
        and told[-1]["type"] == "response.incomplete"
    )
    assert (
        "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
        == want.content
    )
    assert (
        told[-1]["response"]["usage"] == reply["usage"]
        and told[-1]["response"]["output"][0]["content"] == reply["output"][0]["content"]
    )


def answer(**more: Any) -> ResponsesAnswer:
    return ResponsesAnswer(
        Served(),
        msgspec.convert({"input": "x"} | more, ResponsesRequest),
        {"f": {"name": "f", "namespace": "n"}},
    )


def test_thoughts_text_and_calls_are_items() -> None:
    one = answer()
    told = events(fed(one, "<|channel>thought\nhm\n<channel|>Let me", f" see.{CALL}{CALL}<turn|>"))
    kinds = [item["type"] for item in told[-1]["response"]["output"]]
    assert (
        kinds == ["reasoning", "message", "function_call", "function_call"]
        and told[-1]["type"] == "response.completed"
    )
    call = told[-1]["response"]["output"][2]
    assert (
        json.loads(call["arguments"]) == {"a": "x"}
        and call["namespace"] == "n"
        and call["status"] == "completed"
    )
    assert told[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    names = [event["type"] for event in told]
    assert names.count("response.output_item.added") == names.count("response.output_item.done") == 4


def test_a_history_of_items_reads_as_pythons(client: Client, model: dgemma.Model) -> None:
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "go"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": None},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "See."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "namespace": "n", "arguments": '{"a": "x"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "no"},
    ]
    same = [
        {"role": "system", "content": "Be brief.\n\nRules."}, {"role": "user", "content": "go"},
        {"role": "assistant", "content": "See.", "reasoning_content": "hm"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "n.f", "arguments": '{"a": "x"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "no"},
    ]  # fmt: skip
    function = {"name": "n.f", "description": "does", "parameters": TOOL["parameters"]}
    want = model.chat(same, 12, seed=3, tools=[{"type": "function", "function": function}])
    tools = [
        {"type": "namespace", "name": "n", "tools": [TOOL]},
        {"type": "web_search"},
        {"type": "custom", "name": "p"},
    ]
    body = {
        "input": items, "instructions": "Be brief.", "tools": tools, "tool_choice": "auto", "parallel_tool_calls": False, "reasoning": None,
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "client_metadata": {}, "max_output_tokens": 12, "seed": 3,
    }  # fmt: skip
    reply = client().post(PATH, json=body).json()
    assert reply["usage"]["input_tokens"] == want.generation.prompt_tokens
    assert reply["dgemma"]["notes"][-1] == "tools of type web_search, custom are not served and were left out"


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"), ({"background": True}, "background"), ({"nope": 1}, "nope"),
        ({"text": {"format": {"type": "json_schema"}}}, "json_schema"), ({"tool_choice": "required"}, "tool_choice"), ({"input": []}, "messages"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"), ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": 3}]}, "input[0]"), ({"include": ["x"]}, "'x'"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_named(client: Client, more: dict[str, Any], name: str) -> None:
    for streaming in (False, True):
        reply = client().post(PATH, json={"input": "hi", "stream": streaming} | more)
        assert reply.status_code == 400 and name in reply.json()["error"]["message"], reply.text


def test_openais_own_client(live: Callable[..., Live], fresh: dgemma.Model) -> None:
    model = fresh
    want = model.chat([{"role": "user", "content": "hi"}], 24, seed=7)
    talk = openai.OpenAI(base_url=f"{live(keys=('k',)).url}/v1", api_key="k", max_retries=0)
    asked: Any = {"model": "dgemma", "input": "hi", "max_output_tokens": 24, "extra_body": {"seed": 7}}
    assert talk.responses.create(**asked).output_text == want.content
    with talk.responses.stream(**asked) as stream:
        assert (
            "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            == want.content
        )
    form: Any = {"format": {"type": "json_schema", "name": "yes", "schema": {"type": "boolean"}}}
    assert talk.responses.create(**asked, text=form).output_text in ("true", "false")
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        talk.responses.create(**asked, previous_response_id="resp_1")
    talk.close()
