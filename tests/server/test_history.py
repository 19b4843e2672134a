"""Conversations as clients send them: blocks that cannot be read, empty turns, tools of others, and answers that are begun for the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

import dgemma
from dgemma.server.fields import parse, without_halves

Client = Callable[..., TestClient]
CHAT, RESPONSES, MESSAGES, CANVAS = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/canvas"
HI = {"role": "user", "content": "hi"}
FUNCTION = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}


def body_of(path: str, messages: list[Any], **more: Any) -> dict[str, Any]:
    """The same conversation in each dialect, for an answer of a few tokens."""
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    task = {"task": "chat"} if path == CANVAS else {}
    return {"input" if path == RESPONSES else "messages": messages, limit: 6, "seed": 3, **task, **more}


def told(client: TestClient, path: str, messages: list[Any], **more: Any) -> tuple[int, list[str]]:
    """(prompt tokens, notes) of an answer."""
    reply = client.post(path, json=body_of(path, messages, **more))
    assert reply.status_code == 200, reply.text
    if path == CANVAS:
        done = json.loads(reply.text.rpartition("event: done\ndata: ")[2].partition("\n")[0])
        return done["usage"]["prompt_tokens"], done["notes"]
    answer = reply.json()
    usage = answer["usage"]
    return usage.get("prompt_tokens", usage.get("input_tokens")), answer["dgemma"]["notes"]


PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
SEARCH = [
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "rain"}},
    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [
        {"type": "web_search_result", "url": "http://x", "title": "Rain", "encrypted_content": "secret"}]},
]  # fmt: skip
# path, the conversation, the kind that its note names, and the text that stands there (None: only that some does)
UNREADABLE: list[tuple[str, list[Any], str, str]] = [
    (CHAT, [{"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
     "image_url", "See\n[image_url, which cannot be read]"),
    (CHAT, [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}],
     "input_audio", "[input_audio, which cannot be read]"),
    (CHAT, [{"role": "user", "content": [{"type": "file", "file": {"filename": "x.pdf", "file_data": "AAAA"}}]}],
     "file", "[file, of which only this can be read: x.pdf]"),
    (CHAT, [HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, HI], "refusal", "No."),
    (CHAT, [HI, {"role": "assistant", "content": None, "refusal": "No."}, HI], "refusal", "No."),
    (CHAT, [HI, {"role": "assistant", "content": None, "audio": {"id": "a1"}}, HI], "audio", "[audio, which cannot be read]"),
    (MESSAGES, [{"role": "user", "content": [{"type": "image", "source": PNG}]}], "image", "[image, which cannot be read]"),
    (MESSAGES, [{"role": "user", "content": [{"type": "document", "source": PNG, "title": "Plan"}]}],
     "document", "[document, of which only this can be read: Plan]"),
    (MESSAGES, [HI, {"role": "assistant", "content": SEARCH}, HI], "web_search_tool_result",
     '[server_tool_use, of which only this can be read: web_search {"query": "rain"}]\n'
     "[web_search_tool_result, of which only this can be read: Rain http://x]"),
    (MESSAGES, [{"role": "user", "content": [{"type": "tool_reference", "tool_name": "f"}]}],
     "tool_reference", "[tool_reference, of which only this can be read: f]"),
    (RESPONSES, [{"role": "user", "content": [{"type": "input_image", "image_url": "data:AAAA"}]}], "input_image", "[input_image, which cannot be read]"),
    (RESPONSES, [HI, {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "rain"}}, HI],
     "web_search_call", '[web_search_call, of which only this can be read: {"type": "search", "query": "rain"}]'),
    (RESPONSES, [HI, {"type": "local_shell_call", "call_id": "l", "action": {"command": ["ls"]}}, HI],
     "local_shell_call", '[local_shell_call, of which only this can be read: {"command": ["ls"]}]'),
    (CANVAS, [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://x"}}]}], "video_url", "[video_url, which cannot be read]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "messages", "kind", "text"),
    UNREADABLE,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_becomes_a_short_text_and_a_note(
    client: Client, model: dgemma.Model, path: str, messages: list[Any], kind: str, text: str
) -> None:
    plain = [{"role": "assistant" if len(messages) > 1 else "user", "content": text}]
    count, notes = told(client(), path, messages)
    want = model.chat([HI, *plain, HI] if len(messages) > 1 else plain, 6, seed=3).generation
    assert (
        count == want.prompt_tokens
        and any(kind in note for note in notes)
        and not any("secret" in note for note in notes)
    )


def test_a_tools_result_may_be_an_image(client: Client, model: dgemma.Model) -> None:
    call = {"id": "t1", "function": {"name": "f", "arguments": {}}}
    want = model.chat(
        [
            HI,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "[image, which cannot be read]"},
        ],
        6,
        seed=3,
    )
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "image", "source": PNG}]}
    count, notes = told(
        client(),
        MESSAGES,
        [HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}],
    )
    assert count == want.generation.prompt_tokens and any("image (1)" in note for note in notes)
    items = [HI, {"type": "function_call", "call_id": "t1", "name": "f", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "t1", "output": [{"type": "image"}]}]  # fmt: skip
    assert told(client(), RESPONSES, items) == (count, notes)


@pytest.mark.parametrize(("path", "messages", "same"), [
    (CHAT, [HI, {"role": "assistant", "content": None}, HI], [HI, {"role": "assistant", "content": ""}, HI]),
    (CHAT, [HI, {"role": "assistant"}, HI], [HI, {"role": "assistant", "content": ""}, HI]),
    (CHAT, [HI, {"role": "assistant", "content": []}, HI], [HI, {"role": "assistant", "content": ""}, HI]),
    (MESSAGES, [HI, {"role": "assistant", "content": []}, HI], [HI, {"role": "assistant", "content": ""}, HI]),
    (MESSAGES, [HI, {"role": "assistant", "content": None}, HI], [HI, {"role": "assistant", "content": ""}, HI]),
    (RESPONSES, [HI, {"role": "assistant", "content": None}, HI], [HI, {"role": "assistant", "content": ""}, HI]),
    (RESPONSES, [HI, {"type": "message", "role": "assistant", "content": []}, HI], [HI, {"role": "assistant", "content": ""}, HI]),
    (MESSAGES, [{"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "Long."}, "title": "T"}]}],
     [{"role": "user", "content": "T\nLong."}]),
    (CHAT, [HI, {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "So"}]}, HI],
     [HI, {"role": "assistant", "content": "So"}, HI]),
    (CHAT, [HI, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"}],
     [HI, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
      {"role": "tool", "tool_call_id": "a", "content": "1"}]),
    (RESPONSES, [HI, {"type": "custom_tool_call", "call_id": "c", "name": "p", "input": "x"},
                 {"type": "custom_tool_call_output", "call_id": "c", "output": "1"}],
     [HI, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "p", "arguments": {"input": "x"}}}]},
      {"role": "tool", "tool_call_id": "c", "content": "1"}]),
    (CHAT, [{"role": "user", "content": ["h", None, {"text": "i"}]}], [HI]),
])  # fmt: skip
def test_other_spellings_of_a_conversation(
    client: Client, model: dgemma.Model, path: str, messages: list[Any], same: list[Any]
) -> None:
    assert told(client(), path, messages)[0] == model.chat(same, 6, seed=3).generation.prompt_tokens


@pytest.mark.parametrize(("path", "beside"), [
    (CHAT, {"type": "custom", "custom": {"name": "p"}}), (CHAT, {"type": "web_search"}), (MESSAGES, {"type": "web_search_20250305", "name": "w"}),
    (RESPONSES, {"type": "custom", "name": "p"}), (CANVAS, {"type": "mcp", "server_label": "x"}),
])  # fmt: skip
def test_tools_that_are_no_functions_are_left_out(client: Client, path: str, beside: dict[str, Any]) -> None:
    shapes = {CHAT: FUNCTION, CANVAS: FUNCTION, RESPONSES: {"type": "function", **FUNCTION["function"]}}
    tool = shapes.get(path, {"name": "f", "input_schema": FUNCTION["function"]["parameters"]})
    count, _ = told(client(), path, [HI], tools=[tool])
    more, notes = told(client(), path, [HI], tools=[beside, tool])
    assert more == count and notes[0] == f"tools of type {beside['type']} are not served and were left out"
    reply = client().post(path, json=body_of(path, [HI], tools=[tool, {**beside, "type": 3}]))
    assert reply.status_code == 400 and "tools[1]" in reply.text


def begun(path: str, text: str) -> tuple[list[Any], dict[str, Any]]:
    """A conversation whose answer has begun, as each dialect says it."""
    last = {"role": "assistant", "content": text}
    if path == MESSAGES:
        return [HI, last], {}
    if path == RESPONSES:
        return [HI, last | {"prefix": True}], {}
    return [HI, last], {
        "continue_final_message": True,
        **({"add_generation_prompt": False} if path == CHAT else {}),
    }


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, CANVAS])
@pytest.mark.parametrize("text", ["Once upon", "Once upon a ", ""])
def test_an_answer_goes_on_from_a_message(client: Client, model: dgemma.Model, path: str, text: str) -> None:
    want = model.chat([HI, {"role": "assistant", "content": text, "prefix": True}], 6, seed=3)
    assert (
        model.chat(
            [HI, {"role": "assistant", "content": text}], 6, seed=3, continue_final_message=True
        ).content
        == want.content
    )
    ids = [*model.tokenizer.encode("model\n" + text)]
    assert want.generation.prompt_tokens == model.chat([HI], 6, seed=3).generation.prompt_tokens + len(
        ids
    ) - len(model.tokenizer.encode("model\n"))
    messages, more = begun(path, text)
    reply = client().post(path, json=body_of(path, messages, **more)).text
    assert want.content == "" or json.dumps(want.content, ensure_ascii=False)[1:-1] in reply
    assert told(client(), path, messages, **more)[0] == want.generation.prompt_tokens


def test_so_does_ollamas(client: Client, model: dgemma.Model) -> None:
    messages = [HI, {"role": "assistant", "content": "Once upon"}]
    body = {"model": "any", "messages": messages, "stream": False, "options": {"num_predict": 6, "seed": 3}}
    want = model.chat(messages, 6, seed=3, continue_final_message=True)
    reply = client().post("/api/chat", json=body).json()
    assert (reply["message"]["content"], reply["prompt_eval_count"]) == (
        want.content,
        want.generation.prompt_tokens,
    )


def test_a_prompt_that_was_read_is_read_from_the_cache_when_it_goes_on(
    client: Client, fresh: dgemma.Model
) -> None:
    at, long = client(), {"role": "user", "content": "word " * 40}
    want = fresh.chat(
        [long, {"role": "assistant", "content": "Once upon a"}], 6, seed=3, continue_final_message=True
    ).content
    for text in ("Once", "Once upon a"):
        reply = at.post(MESSAGES, json=body_of(MESSAGES, [long, {"role": "assistant", "content": text}]))
    assert reply.json()["content"] == [{"type": "text", "text": want}]


@pytest.mark.parametrize(("more", "name"), [
    ({"thinking": True}, "thinking"), ({"response_format": {"type": "json_object"}}, "form"), ({"regex": "a+"}, "form"),
    ({"continue_final_message": "yes"}, "continue_final_message"),
])  # fmt: skip
def test_what_makes_no_sense_with_it_is_named(client: Client, more: dict[str, Any], name: str) -> None:
    messages = [HI, {"role": "assistant", "content": "Once", "prefix": True}]
    reply = client().post(CHAT, json=body_of(CHAT, messages, **more))
    assert reply.status_code == 400 and name in reply.json()["error"]["message"]
    for last in (
        HI | {"prefix": True},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}], "prefix": True},
    ):
        assert client().post(CHAT, json=body_of(CHAT, [HI, last])).status_code == 400


THINKS: list[dict[str, Any]] = [
    {"thinking": True}, {"thinking": {"type": "enabled"}}, {"enable_thinking": True}, {"reasoning": {"effort": "high"}}, {"reasoning": {"enabled": True}},
    {"reasoning_effort": "low"}, {"chat_template_kwargs": {"enable_thinking": True}},
]  # fmt: skip


def test_every_name_of_thinking(client: Client) -> None:
    at = client()
    plain, thinks = told(at, CHAT, [HI])[0], told(at, CHAT, [HI], thinking=True)[0]
    assert {told(at, CHAT, [HI], **more)[0] for more in THINKS} == {thinks} != {plain}
    off: list[dict[str, Any]] = [
        {"thinking": False, "reasoning_effort": "high"}, {"thinking": {"type": "disabled"}}, {"reasoning": {"effort": None}}, {"reasoning": {}},
        {"reasoning": {"effort": "none"}}, {"reasoning_effort": None}, {"enable_thinking": False},
    ]  # fmt: skip
    assert {told(at, CHAT, [HI], **more)[0] for more in off} == {plain}


def posted(client: TestClient, raw: bytes) -> Any:
    return client.post(CHAT, content=raw, headers={"content-type": "application/json"})


@pytest.mark.parametrize("half", [b"\\ud83d", b"\\uDE00", b"\\ude00\\ud83d", b"\xed\xa0\xbd"])
def test_half_an_emoji_is_a_replacement_character(client: Client, half: bytes) -> None:
    count = 2 if half.count(b"u") == 2 else 1
    raw = b'{"messages":[{"role":"user","content":[{"type":"text","text":"a%s b"}]}],"max_tokens":4,"seed":1}'
    reply, want = (posted(client(), raw % text) for text in (half, "\ufffd".encode() * count))
    assert reply.status_code == 200 and reply.json()["choices"] == want.json()["choices"]
    assert reply.json()["usage"] == want.json()["usage"]
    calls = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\\"a\\":\\"\\\\ud83d\\"}"}}]},{"role":"tool","tool_call_id":"c","content":"%s"}],"max_tokens":4}'
    assert posted(client(), calls % half).status_code == 200


@given(
    st.recursive(
        st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_halves_are_mended_and_nothing_else_is_touched(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse(text.encode()) == value and without_halves(text.encode()) == text.encode()


@given(st.text(st.characters(categories=["Cs", "Lu", "So", "Po"]), max_size=12), st.booleans())
def test_any_text_of_a_script_is_read(text: str, escaped: bool) -> None:
    body = (
        json.dumps([text], ensure_ascii=True).encode()
        if escaped
        else json.dumps([text], ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    (read,) = parse(body)
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if escaped else text
    read.encode()  # holds no half
    assert read.replace("\ufffd", "") == "".join(
        one for one in whole if not 0xD800 <= ord(one) < 0xE000
    ).replace("\ufffd", "")


def calls_of(reply: Any, path: str) -> Iterator[Any]:
    answer = reply.json()
    if path == CHAT:
        yield from answer["choices"][0]["message"].get("tool_calls") or ()
    else:
        yield from (
            one
            for one in answer["content" if path == MESSAGES else "output"]
            if one["type"] in ("tool_use", "function_call")
        )


CHOICES: dict[str, list[Any]] = {
    CHAT: ["required", "any", {"type": "required"}, {"type": "any"}, "f", {"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}},
           {"type": "tool", "name": "f"}, {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}},
           {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}],
    RESPONSES: ["required", "any", {"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}},
                {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}],
    MESSAGES: [{"type": "any"}, {"type": "tool", "name": "f"}, "any", "required", {"type": "any", "disable_parallel_tool_use": True}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "choice"), [(path, choice) for path, choices in CHOICES.items() for choice in choices], ids=str
)
def test_every_spelling_of_a_choice(client: Client, path: str, choice: Any) -> None:
    function = FUNCTION["function"]
    tool = {
        CHAT: FUNCTION,
        RESPONSES: {"type": "function", **function},
        MESSAGES: {"name": "f", "input_schema": function["parameters"]},
    }[path]
    body = body_of(path, [HI], tools=[tool], tool_choice=choice)
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    assert len([*calls_of(client().post(path, json=body | {limit: 60}), path)]) == 1


def test_choices_that_ask_for_nothing(client: Client) -> None:
    at = client()
    plain = told(at, CHAT, [HI], tools=[FUNCTION])
    for choice in (
        "auto",
        {"type": "auto"},
        None,
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    ):
        assert told(at, CHAT, [HI], tools=[FUNCTION], tool_choice=choice) == plain
    for choice in ("none", {"type": "none"}):
        assert told(at, CHAT, [HI], tools=[FUNCTION], tool_choice=choice) == told(at, CHAT, [HI])
    for path, flag in (
        (CHAT, {"parallel_tool_calls": False}),
        (RESPONSES, {"parallel_tool_calls": False}),
        (CHAT, {"parallel_tool_calls": True}),
    ):
        assert told(at, path, [HI], **flag)[0] == told(at, path, [HI])[0]
