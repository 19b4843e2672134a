"""Nobody's requests leave others without a place, a body's room or a slot; and what a lost device does to the service."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

import dgemma
from dgemma.config import EngineConfig
from dgemma.engine.engine import Engine
from dgemma.server.jobs import RequestError
from dgemma.server.limits import LARGE, Admission, Bodies, client_of

COMPLETE = "/v1/completions"


@pytest.mark.parametrize(
    ("tenant", "address", "client"),
    [("k", "10.0.0.1", "k"), ("", "10.0.0.1", "10.0.0.1"), ("", None, ""), ("", "testclient", "testclient"),
     ("", "2001:db8::1", "2001:db8::/64"), ("", "2001:db8::ffff", "2001:db8::/64"), ("", "2001:db8:0:1::1", "2001:db8:0:1::/64")],
)  # fmt: skip
def test_a_client_is_a_key_or_an_address(tenant: str, address: str | None, client: str) -> None:
    assert client_of(tenant, address) == client


class Asked:
    """A request that stands in line."""

    def __init__(self, client: str):
        self.client = client
        self.begun = self.ended = False
        self.leave: Callable[[], None] = lambda: None

    def end(self, error: RequestError) -> None:
        assert error.status == 429 and error.retry_after and not self.begun and not self.ended
        self.ended = True


class Line:
    """An Admission and who is inside."""

    def __init__(self, most: int):
        self.admission = Admission(most)
        self.inside: list[Asked] = []

    def enter(self, client: str, count: int = 1) -> Asked | None:
        asked = Asked(client)
        try:
            asked.leave = self.admission.enter(client, count, asked)
        except RequestError as error:
            assert error.status == 429 and error.retry_after
            return None
        self.inside = [one for one in self.inside if not one.ended] + [asked]
        return asked


def test_a_full_queue_turns_away_the_newest_of_who_has_most() -> None:
    line = Line(6)
    first, *_, last = (line.enter("a") for _ in range(6))
    assert first and last
    assert not line.enter("a"), "its own newest is the one that comes"
    assert line.enter("b") and last.ended
    assert line.enter("b") and line.enter("b") and [one.client for one in line.inside].count("a") == 3
    assert not line.enter("b") and not line.enter("a"), "equal shares"
    assert line.enter("c") and line.admission.open == 6
    last.leave()
    assert line.admission.open == 6, "who was turned away leaves once"
    first.leave()
    assert line.admission.open == 5


def test_who_answers_already_is_not_turned_away() -> None:
    line = Line(4)
    asked = [line.enter("a") for _ in range(4)]
    for one in asked:
        one.begun = True  # type: ignore[union-attr]
    assert not line.enter("b")
    asked[2].begun = False  # type: ignore[union-attr]
    assert line.enter("b") and asked[2].ended  # type: ignore[union-attr]


def test_a_request_of_several_answers_makes_room_for_all_of_them() -> None:
    line = Line(8)
    for _ in range(8):
        line.enter("a")
    assert line.enter("b", count=3) and line.admission.open == 8
    assert not line.enter("b", count=3) and line.admission.open == 8, (
        "nobody is turned away for one that is refused"
    )
    assert Line(2).enter("a", count=5), "one that is larger than the queue is let in where nobody is"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=40), st.integers(1, 12))
def test_nobody_is_refused_while_another_has_more_and_nobody_falls_below_it(
    arrivals: list[tuple[str, int]], most: int
) -> None:
    line = Line(most)
    for client, count in arrivals:
        before = line.admission._held.copy()
        inside = line.enter(client, count)
        after = line.admission._held
        assert after.total() <= max(most, 3)
        if inside is None:
            assert after == before
            others = [held for name, held in before.items() if name != client]
            assert all(held <= before[client] + count + 3 for held in others), (
                "3: the largest request there is"
            )
        for name, held in before.items():
            if name != client and after[name] < held:
                assert after[name] + 3 > before[client] + count


def test_bodies_of_one_client_leave_room_for_another_s() -> None:
    bodies = Bodies(100)
    with bodies.one("a") as grow:
        grow(LARGE + 50)
        with bodies.one("a") as second, pytest.raises(RequestError) as refused:
            second(LARGE + 1)
        assert refused.value.status == 503
        with bodies.one("a") as small:
            small(LARGE)
        with bodies.one("b") as other:
            other(LARGE + 25)
            assert bodies.held == 75
            with pytest.raises(RequestError):
                other(LARGE + 26)
    assert bodies.held == 0


def many(asking: TestClient, key: str, count: int, answers: list[int], **more: Any) -> list[threading.Thread]:
    """Requests of one key that run side by side."""

    def ask(number: int) -> None:
        body = {"prompt": f"a{number}", "max_tokens": 96, "seed": number, **more}
        answers.append(asking.post(COMPLETE, json=body, headers={"x-api-key": key}).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("stream", [False, True])
def test_another_key_is_answered_beside_one_that_fills_the_queue(
    fresh: dgemma.Model, client: Callable[..., TestClient], stream: bool
) -> None:
    fresh.engine = Engine(fresh.net, EngineConfig(max_slots=3))
    asking = client(keys=("a", "b"), max_queue=3)
    service = asking.app.state.service  # type: ignore[attr-defined]
    held = threading.Event()
    blocked = threading.Thread(target=service.worker.call, args=(held.wait, 60))
    blocked.start()
    greedy: list[int] = []
    other: list[int] = []
    threads = many(asking, "a", 9, greedy, stream=stream)
    while service.admission.open < 6 or len(greedy) < 3:
        threading.Event().wait(0.01)
    assert greedy == [429] * 3
    threads += many(asking, "b", 2, other, stream=stream)
    while len(greedy) < 5:
        threading.Event().wait(0.01)
    held.set()
    for thread in (blocked, *threads):
        thread.join(60)
    assert other == [200, 200] and sorted(greedy) == [200] * 4 + [429] * 5
    assert service.admission.open == 0


def test_a_panic_below_a_request_is_answered_at_once(
    client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """PyO3's has this name."""

    asking = client()
    tokenizer = asking.app.state.service.model.tokenizer  # type: ignore[attr-defined]

    class Engine:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
            raise PanicException("secret")

    monkeypatch.setattr(tokenizer, "_engine", Engine())
    asked = [
        ("/tokenize", {"content": "a"}),
        (COMPLETE, {"prompt": "a"}),
        (COMPLETE, {"prompt": "a", "suffix": "b"}),
    ]
    for path, body in asked:
        answer = asking.post(path, json=body)
        assert (
            answer.status_code == 400
            and "tokenizer" in answer.json()["error"]["message"]
            and "secret" not in answer.text
        )
    assert "tokenizer" in asking.post(COMPLETE, json={"prompt": "a", "stream": True}).text
    monkeypatch.setattr(tokenizer, "encode", lambda text: (_ for _ in ()).throw(PanicException("secret")))
    for path, body in asked:
        answer = asking.post(path, json=body)
        assert answer.status_code == 500 and "PanicException" in answer.text and "secret" not in answer.text
    assert asking.get("/health").status_code == 200


def test_health_tells_of_passes_that_run_no_more(
    fresh: dgemma.Model, client: Callable[..., TestClient]
) -> None:
    asking = client(pass_timeout=0.2)
    service = asking.app.state.service  # type: ignore[attr-defined]
    assert [asking.get(path).status_code for path in ("/health", "/health/live")] == [200, 200]
    held = threading.Event()
    blocked = threading.Thread(target=service.worker.call, args=(held.wait, 60))
    blocked.start()
    while service.fault is None:
        threading.Event().wait(0.01)
    assert [asking.get(path).status_code for path in ("/health", "/health/live")] == [503, 503]
    held.set()
    blocked.join(60)
    while service.fault is not None:
        threading.Event().wait(0.01)
    service.admission.draining = True
    assert [asking.get(path).status_code for path in ("/health", "/health/live")] == [503, 200]
    service.admission.draining = False
    service.worker.call(
        lambda: setattr(fresh.engine, "_pass", lambda readers: (_ for _ in ()).throw(RuntimeError("secret")))
    )
    answer = asking.post(COMPLETE, json={"prompt": "a"})
    assert "secret" not in answer.text and answer.status_code >= 500
    service.worker._thread.join(60)
    for path in ("/health", "/health/live"):
        assert asking.get(path).json() == {"status": "failed"}
    assert asking.post(COMPLETE, json={"prompt": "a"}).status_code == 503


def test_metrics_name_no_client(client: Callable[..., TestClient]) -> None:
    asking = client(keys=("a", "b"), headers={"x-api-key": "a"})
    assert asking.post(COMPLETE, json={"prompt": "a", "max_tokens": 2}).status_code == 200
    service = asking.app.state.service  # type: ignore[attr-defined]
    labels = {
        name
        for family in service.metrics.registry.collect()
        for sample in family.samples
        for name in sample.labels
    }
    assert labels == {"route", "status", "le"}
