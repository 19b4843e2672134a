"""A full service says no before it parses; whatever is not plain goes the whole way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.server.dialects import ABSENT, ROUTES
from dgemma.server.jobs import RequestError
from dgemma.server.limits import Admission
from dgemma.server.paths import RouteTable, canonical
from dgemma.server.routes import Task
from dgemma.server.shed import Shed

PATH = "/v1/completions"
TABLE = RouteTable(ROUTES, ABSENT)


class World:
    """An admission of four places and what sheds for it."""

    def __init__(self, keys: bool = False):
        self.admission = Admission(4)
        self.counted: list[tuple[str, int]] = []
        self.shed = Shed(
            self.admission, TABLE.find_task, keys, lambda path, status: self.counted.append((path, status))
        )

    def fill(self, *clients: str) -> World:
        for client in clients:
            self.admission.enter(client, 1)
        return self


def asked(
    body: bytes = b"{}", *more: str, line: str = f"POST {PATH} HTTP/1.1", length: int | None = None
) -> bytes:
    head = [line, "Host: localhost", f"Content-Length: {len(body) if length is None else length}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def test_a_full_service_answers_in_the_route_s_shape() -> None:
    world = World().fill(*["10.0.0.1"] * 4)
    answer = world.shed.answer(asked(), "10.0.0.1")
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].split()[:2] == ["HTTP/1.1", "429"] and "connection: close" in lines
    assert f"content-length: {len(body)}" in lines and any(line.startswith("retry-after: ") for line in lines)
    assert "too many" in json.loads(body)["error"]["message"] and world.counted == [(PATH, 429)]


def test_who_would_get_a_place_goes_the_whole_way() -> None:
    world = World().fill(*["10.0.0.1"] * 4)
    assert world.shed.answer(asked(), "10.0.0.2") is None
    assert World().fill(*["10.0.0.1"] * 3).shed.answer(asked(), "10.0.0.1") is None
    world.admission.draining = True
    assert world.shed.answer(asked(), "10.0.0.1") is None


@pytest.mark.parametrize(
    "data",
    [
        asked(b"{}", "Origin: http://localhost"), asked(b"{}", "Transfer-Encoding: chunked"), asked(b"{}", "Expect: 100-continue"),
        asked(b"{}", "Content-Length: 2"), asked(b"{}", "X: y", " folded"), asked(b"{}", length=3), asked(b"{}", length=1),
        asked(line=f"POST {PATH}?a=b HTTP/1.1"), asked(line=f"POST {PATH} HTTP/1.0"), asked(line="POST /tokenize HTTP/1.1"),
        asked(line=f"GET {PATH} HTTP/1.1"), asked()[:-6], b"", b"\r\n\r\n", b"\xff" * 40, asked()[:20],
    ],
)  # fmt: skip
def test_what_is_not_plain_goes_the_whole_way(data: bytes) -> None:
    world = World().fill(*["10.0.0.1"] * 4)
    assert world.shed.answer(data, "10.0.0.1") is None and world.counted == []


@given(
    st.sampled_from([route for route in ROUTES if "{" not in route.path]),
    st.sampled_from(["", "/v1", "/v1/v1"]),
    st.sampled_from(["/", "//"]),
    st.sampled_from(["", "/"]),
)
def test_it_sheds_the_spellings_that_the_router_takes(
    route: Task, before: str, between: str, end: str
) -> None:
    """A task by any of its spellings, in its own dialect; nothing else."""
    path = before + between + route.path.removeprefix("/v1").lstrip("/") + end
    meant = canonical(path, lambda candidate: any(candidate == one.path for one in ROUTES))
    tasks = {one.path: one for one in ROUTES if isinstance(one, Task)}
    world = World().fill(*["10.0.0.1"] * 4)
    answer = world.shed.answer(asked(line=f"POST {path} HTTP/1.1"), "10.0.0.1")
    assert world.counted == ([(meant, 429)] if meant in tasks else [])
    if answer is not None:
        refused = RequestError(429, "too many requests are open; try again later", "rate_limit_error")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == tasks[meant].shape(refused)


def test_shares_are_those_of_keys() -> None:
    import hashlib

    name = hashlib.sha256(b"one").hexdigest()[:16]
    world = World(keys=True).fill(*[name] * 4)
    for header in ("Authorization: Bearer one", "x-api-key: one", "AUTHORIZATION:  bearer  one"):
        assert world.shed.answer(asked(b"{}", header), "10.0.0.1") is not None
    for headers in (["Authorization: Bearer two"], [], ["x-api-key: one", "Authorization: Bearer one"]):
        assert world.shed.answer(asked(b"{}", *headers), "10.0.0.1") is None


def test_the_refusal_is_the_one_of_the_whole_way() -> None:
    """Both ask `Admission.check`; where that lets a request pass, nothing is shed."""
    world = World().fill("a", "b", "c", "d")
    with pytest.raises(RequestError) as refused:
        world.admission.check("e")
    answer: Any = world.shed.answer(asked(), "10.0.0.5")
    assert str(refused.value.status).encode() in answer
