"""Null and neutral fields change nothing, in every dialect and batch; values that ask for something are served or refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

import dgemma
from dgemma.cli.batch import CHAT, COMPLETION, Line, answers
from dgemma.config.neutral import DEPENDENT, NEUTRAL, NEUTRAL_UNSERVED, WITHOUT_EFFECT, effective
from dgemma.server.dialects import ROUTES as DECLARED
from dgemma.server.routes import Task

Client = Callable[..., TestClient]
ROUTES = [route for route in DECLARED if isinstance(route, Task)]
STRICT = [route for route in ROUTES if route.body.__struct_config__.forbid_unknown_fields]
OPENAI = ["/v1/chat/completions", "/v1/completions", "/v1/responses"]
NULLS: dict[str, Any] = dict.fromkeys(
    [
        "audio",
        "prediction",
        "web_search_options",
        "max_tool_calls",
        "prompt_template",
        "nonsense",
        "dry_multiplier",
        "logit_bias",
        "tools_used",
    ]
)
SETTINGS = {"temperature": 1.0, "top_p": 1, "top_k": -1, "presence_penalty": 0.0, "seed": 3.0}
SETTINGS |= {"logit_bias": {"5": None, "6": 0}, "stop": [""], "bad_words": ["", None]}
UNSERVED = {
    "typical_p": 1.0, "mirostat": 0, "mirostat_tau": 5.0, "repeat_last_n": 64, "cache_prompt": False, "ignore_eos": False, "user": "me",
    "skip_special_tokens": True, "use_beam_search": False, "documents": [], "store": True, "metadata": {"a": "b"}, "service_tier": "auto",
    "repeat_penalty": 1.0, "dry_allowed_length": 2, "xtc_threshold": 0.1,
}  # fmt: skip


def figures(value: Any) -> Any:
    """An answer without what differs from one time to the next."""
    passing = {
        "id",
        "created",
        "created_at",
        "seconds",
        "call_id",
        "timings",
        "total_duration",
        "prompt_eval_duration",
        "eval_duration",
    }
    if isinstance(value, dict):
        return {name: figures(one) for name, one in value.items() if name not in passing}
    return [figures(one) for one in value] if isinstance(value, list) else value


def whole(client: TestClient, path: str, body: dict[str, Any]) -> Any:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return figures(reply.json())


def seeded(route: Task, **more: Any) -> dict[str, Any]:
    body = copy.deepcopy(route.example) | {"stream": False}
    if route.path.startswith("/api/"):
        return body | {"options": body["options"] | {"seed": 3} | more}
    return body | {"seed": 3} | more


@pytest.mark.parametrize("route", [route for route in ROUTES if route.whole], ids=lambda route: route.path)
def test_null_and_neutral_fields_change_nothing(client: Client, route: Task) -> None:
    at = client()
    want = whole(at, route.path, seeded(route))
    assert whole(at, route.path, seeded(route) | NULLS) == want
    assert whole(at, route.path, seeded(route, **UNSERVED)) == want
    if "/v1/" in route.path and "stop" in {name for name in route.body.__struct_fields__}:
        assert whole(at, route.path, seeded(route, **SETTINGS)) == want


@pytest.mark.parametrize("route", STRICT, ids=lambda route: route.path)
@pytest.mark.parametrize(
    "name", ["typical_p", "mirostat", "nonsense", "audio", "ignore_eos", "skip_special_tokens"]
)
def test_what_would_change_the_answer_is_named(client: Client, route: Task, name: str) -> None:
    value = {"ignore_eos": True, "skip_special_tokens": False}.get(name, 0.5)
    body = route.example | ({"options": {name: value}} if route.path.startswith("/api/") else {name: value})
    reply = client().post(route.path, json=body)
    assert reply.status_code == 400 and f"'{name}'" in reply.text


@pytest.mark.parametrize(
    ("path", "name"), [*zip(OPENAI, ["max_tokens", "max_tokens", "max_output_tokens"], strict=True)]
)
def test_a_length_of_minus_one_is_none_and_whole_floats_are_integers(
    client: Client, path: str, name: str
) -> None:
    at, route = client(max_choices=2), next(route for route in ROUTES if route.path == path)
    short = {key: value for key, value in route.example.items() if key != name}
    assert whole(at, path, short | {"seed": 3}) == whole(at, path, short | {name: -1, "seed": 3})
    assert whole(at, path, short | {name: 8.0, "seed": 3.0}) == whole(at, path, short | {name: 8, "seed": 3})
    assert at.post(path, json=short | {name: 8.5}).status_code == 400


@pytest.mark.parametrize("path", [*OPENAI, "/v1/messages", "/api/chat", "/infill", "/v1/fim/completions"])
def test_a_seed_of_minus_one_is_drawn(client: Client, path: str) -> None:
    route = next(route for route in ROUTES if route.path == path)
    seeds = {json.dumps(whole(client(), path, seeded(route) | {"seed": -1, "options": {"seed": -1}} if path == "/api/chat" else
                              seeded(route, seed=-1))["dgemma"]) for _ in range(2)}  # fmt: skip
    assert len(seeds) == 2


@pytest.mark.parametrize("body", [
    {"stream_options": None}, {"stream_options": {}}, {"stream_options": {"include_usage": None}}, {"n": None}, {"n": 1.0}, {"logprobs": False},
    {"stream_options": {"include_usage": False, "include_obfuscation": False}}, {"logit_bias": []}, {"echo": False}, {"best_of": 1},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("stream", [False, None, True])
def test_odd_forms_of_openais_fields(client: Client, body: dict[str, Any], stream: bool | None) -> None:
    for route in ROUTES:
        if route.path in OPENAI:
            assert (
                client().post(route.path, json=route.example | {"stream": stream} | body).status_code == 200
            )


def test_a_batch_reads_the_same(model: dgemma.Model) -> None:
    def text(body: dict[str, Any]) -> Any:
        url = CHAT if "messages" in body else COMPLETION
        (answer,) = answers(model, [Line("a", url, body)], {})
        assert answer["response"]["status_code"] == 200, answer
        return answer["response"]["body"]["choices"]

    for body in ({"prompt": "abc"}, {"messages": [{"role": "user", "content": "hi"}]}):
        asked = body | {"max_tokens": 8, "seed": 3}
        assert text(asked) == text(
            asked | NULLS | SETTINGS | UNSERVED | {"max_tokens": 8.0, "stream": False, "n": 1}
        )
        assert text(body | {"seed": -1, "max_tokens": 8}) == text(body | {"max_tokens": 8})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(-2, 2),
    st.sampled_from(["", "a", "auto", "none"]),
    st.just([]),
    st.just({}),
)
NAMES = st.sampled_from(sorted({*NEUTRAL, *NEUTRAL_UNSERVED, *WITHOUT_EFFECT, *DEPENDENT, "nonsense"}))


@given(st.dictionaries(NAMES, VALUES, max_size=8), st.sets(NAMES))
def test_what_is_left_is_left_again_and_nothing_is_changed(fields: dict[str, Any], served: set[str]) -> None:
    kept = effective(fields, served)
    assert effective(kept, served) == kept and kept.items() <= fields.items()
    assert not any(value is None for value in kept.values()) and not kept.keys() & (WITHOUT_EFFECT - served)
    for name in kept.keys() & NEUTRAL.keys():
        assert not any(
            kept[name] == neutral and isinstance(kept[name], bool) == isinstance(neutral, bool)
            for neutral in NEUTRAL[name]
        )
