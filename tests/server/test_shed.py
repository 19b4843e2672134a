"""A full service says no before it parses; whatever is not plain goes the whole way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dgemma.server.jobs import Refusal
from dgemma.server.limits import Admission
from dgemma.server.shed import Shed

PATH = "/v1/completions"


class World:
    """An admission of four places and what sheds for it."""

    def __init__(self, keys: bool = False):
        self.admission = Admission(4)
        self.counted: list[tuple[str, int]] = []
        shapes = {PATH: lambda refusal: {"error": refusal.message}, "/v1/{name}": lambda refusal: {}}
        self.shed = Shed(
            self.admission, shapes, keys, lambda path, status: self.counted.append((path, status))
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
    assert "too many" in json.loads(body)["error"] and world.counted == [(PATH, 429)]


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
    with pytest.raises(Refusal) as refused:
        world.admission.check("e")
    answer: Any = world.shed.answer(asked(), "10.0.0.5")
    assert str(refused.value.status).encode() in answer
