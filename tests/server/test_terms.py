"""What a request may ask of its answer, over OpenAI's dialect: each parameter changes something or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

import dgemma
from tests.server.test_openai import CHAT, COMPLETE, chunks

Client = Callable[..., TestClient]
MESSAGES = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"], "additionalProperties": False,
}  # fmt: skip
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
LETTERS = {str(token): -100 for token in range(280) if not 60 <= token < 100}  # all other tokens
RULES: list[dict[str, Any]] = [
    {"temperature": 0}, {"temperature": 1.5}, {"top_p": 0.3}, {"top_k": 1}, {"min_p": 0.9}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0},
    {"repetition_penalty": 50.0}, {"logit_bias": {"100": 100}}, {"seed": 4}, {"max_denoising_steps": 1},
]  # fmt: skip


def content(client: TestClient, **asked: Any) -> str:
    reply = client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 36, "seed": 3} | asked)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: next(iter(rule)))
def test_every_setting_gives_what_python_gives_and_changes_something(
    client: Client, model: dgemma.Model, rule: dict[str, Any]
) -> None:
    at = client()
    assert content(at, **rule) == model.chat(MESSAGES, 36, **{"seed": 3} | rule).content != content(at)
    body = {"prompt": "abc", "max_tokens": 36, "seed": 3} | rule
    text = at.post(COMPLETE, json=body).json()["choices"][0]["text"]
    assert (
        text == model.generate("abc", 36, **{"seed": 3} | rule).text != model.generate("abc", 36, seed=3).text
    )


def test_bad_words_do_not_occur_and_min_tokens_hold_the_end_back(client: Client, model: dgemma.Model) -> None:
    at = client()
    word = content(at, logit_bias=LETTERS)[3]
    assert word not in content(at, logit_bias=LETTERS, bad_words=[word])
    ends = {str(token): 100 for token in (1, 4, 5)}  # some of these end a turn
    short = at.post(
        CHAT, json={"messages": MESSAGES, "max_tokens": 36, "seed": 3, "logit_bias": ends}
    ).json()["usage"]
    long = at.post(
        CHAT, json={"messages": MESSAGES, "max_tokens": 36, "seed": 3, "logit_bias": ends, "min_tokens": 9}
    ).json()["usage"]
    assert short["completion_tokens"] < 9 <= long["completion_tokens"]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"top_p": 0}, "top_p"), ({"temperature": -1}, "temperature"), ({"top_k": -5}, "top_k"), ({"presence_penalty": 3}, "presence_penalty"),
        ({"logit_bias": {"100": 101}}, "logit_bias"), ({"logit_bias": {"x": 1}}, "logit_bias"), ({"stop": [3]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"), ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"min_tokens": 99}, "min_tokens"), ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": FORMAT, "regex": "a"}, "regex"), ({"regex": "("}, "regex"), ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag"), ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": False}}}, "response_format"),
        ({"json_schema": {"type": "string", "minLength": 200}}, "max_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("streaming", [False, True])
def test_what_cannot_be_is_named(client: Client, asked: dict[str, Any], named: str, streaming: bool) -> None:
    reply = client().post(CHAT, json={"messages": MESSAGES, "max_tokens": 36, "stream": streaming} | asked)
    error = reply.json()["error"]
    assert (
        reply.status_code == 400 and named in error["message"] and error["type"] == "invalid_request_error"
    ), reply.text


@pytest.mark.parametrize("seed", range(4))
def test_a_response_format_is_always_kept(client: Client, seed: int) -> None:
    at = client()
    jsonschema.validate(json.loads(content(at, response_format=FORMAT, seed=seed, max_tokens=60)), SCHEMA)
    assert isinstance(json.loads(content(at, response_format={"type": "json_object"}, seed=seed)), dict)
    assert content(at, response_format={"type": "text"}) == content(at)


@pytest.mark.parametrize(
    "asked",
    [
        {"regex": "(red|blue)"}, {"guided_regex": "red|blue"}, {"guided_choice": ["red", "blue"]}, {"structured_outputs": {"choice": ["red", "blue"]}},
        {"grammar": 'start: "red" | "blue"'}, {"guided_grammar": 'start: "red" | "blue"'}, {"grammar": 'root ::= "red" | "blue"'},
        {"structured_outputs": {"grammar": 'root ::= "red" | "blue"'}},
    ],
    ids=str,
)  # fmt: skip
def test_other_servers_names_of_a_form(client: Client, asked: dict[str, Any]) -> None:
    assert content(client(), **asked) in ("red", "blue")
    reply = client().post(COMPLETE, json={"prompt": "abc", "max_tokens": 12} | asked)
    assert reply.status_code == 400 and "end token" in reply.text  # a completion of this checkpoint has none


@pytest.mark.parametrize(
    "asked",
    [{"json_schema": SCHEMA}, {"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}],
    ids=str,
)
def test_other_names_of_a_schema(client: Client, asked: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(content(client(), **asked, max_tokens=60)), SCHEMA)


def places(text: str) -> list[str]:
    """Stop strings of this answer that begin in one canvas of 12 bytes and end in the next, as far as it has such."""
    return [
        text[at : at + 4]
        for at in range(6, 14)
        if len(text[at : at + 4]) == 4 and text.find(text[at : at + 4]) == at
    ]


@pytest.mark.parametrize("diffusing", [False, True])
def test_no_part_of_a_stop_string_is_ever_sent(client: Client, model: dgemma.Model, diffusing: bool) -> None:
    at, body = client(), {"prompt": "abc", "max_tokens": 36, "seed": 3, "logit_bias": LETTERS}
    text = model.generate("abc", 36, seed=3, logit_bias=LETTERS).text
    assert len(stops := places(text)) > 4
    for stop in stops:
        want = text.partition(stop)[0]
        asked = body | {"stop": [stop], "stream": True, "diffusing": diffusing, "logprobs": 1}
        told = [chunk["choices"][0] for chunk in chunks(at.post(COMPLETE, json=asked).text)]
        texts = [choice["text"] for choice in told]
        assert (texts[-1] if diffusing else "".join(texts)) == want and told[-1]["finish_reason"] == "stop"
        assert not [shown for shown in texts if stop in shown]
        tokens = [token for choice in told if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
        assert diffusing or "".join(tokens) == want
        chat = content(at, stop=stop, logit_bias=LETTERS)
        assert stop not in chat and content(at, logit_bias=LETTERS).startswith(chat)


def test_a_stop_string_that_comes_first_leaves_nothing_with_its_seed(
    client: Client, model: dgemma.Model
) -> None:
    at, body = (
        client(),
        {"prompt": "abc", "max_tokens": 24, "seed": 3, "n": 2, "logit_bias": LETTERS, "logprobs": 1},
    )
    firsts = [model.generate("abc", 24, seed=seed, logit_bias=LETTERS).text[0] for seed in (3, 4)]
    reply = at.post(COMPLETE, json=body | {"stop": firsts}).json()
    told = [
        (choice["text"], choice["finish_reason"], choice["logprobs"]["tokens"]) for choice in reply["choices"]
    ]
    assert told == [("", "stop", [])] * 2 and reply["dgemma"] == {"seeds": [3, 4], "notes": []}
    streamed = chunks(at.post(COMPLETE, json=body | {"stop": firsts, "stream": True}).text)
    assert {chunk["choices"][0]["text"] for chunk in streamed} == {""} and len(streamed) == 2
    chat = model.chat(MESSAGES, 24, seed=3, logit_bias=LETTERS).content[:3]
    asked = {"messages": MESSAGES, "max_tokens": 24, "seed": 3, "logit_bias": LETTERS, "stop": chat}
    for more in ({}, {"logprobs": True}, {"n": 2, "seed": 2}):
        reply = at.post(CHAT, json=asked | more).json()
        place = 1 if "n" in more else 0
        choice = reply["choices"][place]
        assert (choice["message"]["content"], choice["finish_reason"], reply["dgemma"]["seeds"][place]) == (
            "",
            "stop",
            3,
        )
    assert model.chat(MESSAGES, 24, seed=3, logit_bias=LETTERS, stop=["", chat]).content == ""


def test_a_stop_string_cuts_a_gap(client: Client, model: dgemma.Model) -> None:
    text = model.fill("def area(r):\n", "\nprint(1)\n", seed=1, widths=[1, 3]).text
    body = {"prompt": "def area(r):\n", "suffix": "\nprint(1)\n", "seed": 1, "max_tokens": 3, "stop": text[1]}
    assert client().post(COMPLETE, json=body).json()["choices"][0]["text"] == text.partition(text[1])[0]


def test_log_probabilities_of_a_chat_are_those_of_python(client: Client, model: dgemma.Model) -> None:
    body = {"messages": MESSAGES, "max_tokens": 30, "seed": 5, "logprobs": True, "top_logprobs": 2}
    want = model.chat(MESSAGES, 30, seed=5, logprobs=True, top_logprobs=2)
    choice = client().post(CHAT, json=body).json()["choices"][0]
    told = choice["logprobs"]["content"]
    assert (
        bytes(byte for one in told for byte in one["bytes"]).decode("utf-8", "replace")
        == choice["message"]["content"]
        == want.content
    )
    scores = [
        one.log_prob for one in want.generation.logprobs or ()
    ]  # a prompt read from the cache rounds another way
    assert all(
        one["logprob"] < 0 and one["logprob"] in (pytest.approx(score, rel=1e-9) for score in scores)
        for one in told
    )
    assert all(
        len(one["top_logprobs"]) == 2 and one["top_logprobs"][0]["logprob"] >= one["logprob"] for one in told
    )
    streamed = [
        chunk["choices"][0]["logprobs"]
        for chunk in chunks(client().post(CHAT, json=body | {"stream": True}).text)
    ]
    assert [one for part in streamed if part for one in part["content"]] == told
    assert (
        client()
        .post(CHAT, json=body | {"logprobs": False, "top_logprobs": 0})
        .json()["choices"][0]["logprobs"]
        is None
    )


def test_log_probabilities_of_a_completion(client: Client) -> None:
    body = {"prompt": "abc", "max_tokens": 30, "seed": 5, "logprobs": 3, "logit_bias": LETTERS}
    choice = client().post(COMPLETE, json=body).json()["choices"][0]
    told = choice["logprobs"]
    assert (
        len(told["tokens"])
        == len(told["token_logprobs"])
        == len(told["top_logprobs"])
        == len(told["text_offset"])
        > 12
    )
    for token, start in zip(told["tokens"], told["text_offset"], strict=True):
        assert choice["text"][start : start + len(token)] == token
    assert told["text_offset"][0] == 0 and all(1 <= len(top) <= 3 for top in told["top_logprobs"])
    streamed = [
        chunk["choices"][0]["logprobs"]
        for chunk in chunks(client().post(COMPLETE, json=body | {"stream": True}).text)
    ]
    assert [one for part in streamed if part for one in part["text_offset"]] == told["text_offset"]
    assert (
        client().post(COMPLETE, json=body | {"logprobs": 0}).json()["choices"][0]["logprobs"]["top_logprobs"]
        is None
    )
    for more, name in (({"suffix": "x"}, "logprobs"), ({"echo": True}, "echo")):
        assert client().post(COMPLETE, json=body | more).json()["error"]["param"] == name


def test_a_top_p_that_is_nothing_in_float32_leaves_the_likeliest(client: Client) -> None:
    body = {"prompt": "abc", "max_tokens": 12, "seed": 3}
    least, one = (
        client().post("/v1/completions", json=body | more) for more in ({"top_p": 5e-324}, {"top_k": 1})
    )
    assert least.status_code == 200 and least.json()["choices"][0]["text"] == one.json()["choices"][0]["text"]
