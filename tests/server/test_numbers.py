"""Numbers at the edges of their types in every numeric field: served, or refused by name; never a fault of the service."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from dgemma.server.dialects import ROUTES as DECLARED
from dgemma.server.routes import Page, Task
from dgemma.server.schema.sampling import Sampling

Client = Callable[..., TestClient]
# as they are spelled in JSON
NUMBERS = (
    "5e-324",
    "-1e-320",
    "1e-30",
    "1e308",
    "1e309",
    "-0.0",
    "9223372036854775808",
    "1" + "0" * 309,
    "1" + "0" * 5000,
)
# with a large one of these a long answer is asked for, which ends with its time
LONG = {
    "max_denoising_steps",
    "stability_threshold",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n_predict",
}


def numeric(kind: Any) -> Iterator[str]:
    """The fields of a struct that hold numbers."""
    for field in msgspec.structs.fields(kind):
        options = (
            typing.get_args(field.type)
            if typing.get_origin(field.type) in (typing.Union, types.UnionType)
            else (field.type,)
        )
        if {int, float} & {*options}:
            yield field.name


def fields() -> Iterator[tuple[Task | Page, str]]:
    """Each route's own; those that all share are asked of completions."""
    for route in DECLARED:
        for name in numeric(route.body) if route.body is not None else ():
            if route.path == "/v1/completions" or name not in Sampling.__struct_fields__:
                yield route, name


FIELDS = [*fields()]


@pytest.mark.parametrize(("route", "name"), FIELDS, ids=lambda value: getattr(value, "path", value))
def test_no_number_breaks_anything(client: Client, route: Task | Page, name: str) -> None:
    at = client(request_timeout=60.0)
    short = {"max_tokens": 4} if "max_tokens" in route.body.__struct_fields__ else {}
    for number in NUMBERS:
        if name in LONG and not number.startswith(("5e", "-", "1e-")):
            continue
        body = json.dumps({**(route.example or {}), **short, name: "HERE"}).replace('"HERE"', number)
        reply = at.post(route.path, content=body)
        assert reply.status_code in (200, 400), (number, reply.text)
        if route.path != "/v1/canvas":  # whose stream tells an error as its last event
            continue
        assert '"type":"server_error"' not in reply.text, (number, reply.text[-300:])


@pytest.mark.parametrize("number", NUMBERS)
def test_nor_does_one_in_a_bias_or_a_conversation(client: Client, number: str) -> None:
    hi = '{"role":"user","content":"hi"}'
    call = '{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":{"a":%s}}}]},{"role":"tool","tool_call_id":"c","content":"1"}'
    tool = '[{"type":"function","function":{"name":"f","parameters":{"properties":{"a":{"enum":[%s]},"b":{"type":"array","items":{"minimum":%s}}}}}}]'
    bodies = [
        f'{{"messages":[{hi}],"max_tokens":4,"logit_bias":{{"65":{number}}}}}',
        f'{{"messages":[{hi},{call % number}],"max_tokens":4}}',
        f'{{"messages":[{hi}],"max_tokens":4,"tools":{tool % (number, number)}}}',
    ]
    for body in bodies:
        reply = client().post("/v1/chat/completions", content=body)
        assert reply.status_code in (200, 400), (number, reply.text)


def test_combinations_at_their_edges(client: Client) -> None:
    """Each of these is allowed by itself; together they must not leave float32."""
    edges: dict[str, Any] = {"t_min": 1e-30, "t_max": 1e-30, "repetition_penalty": 0.01, "presence_penalty": -2, "frequency_penalty": -2,
                             "min_p": 1, "top_p": 5e-324, "entropy_bound": 1e308, "confidence_threshold": 5e-324}  # fmt: skip
    reply = client().post(
        "/v1/completions",
        json={"prompt": "abc", "max_tokens": 12, "logit_bias": {"65": 100, "66": -100}} | edges,
    )
    assert reply.status_code == 200, reply.text
