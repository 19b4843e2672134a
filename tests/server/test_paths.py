"""One route by several spellings, none of them around the guard; and routes that are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from dgemma.server.dialects import ABSENT
from dgemma.server.dialects import ROUTES as DECLARED
from dgemma.server.paths import canonical

Client = Callable[..., TestClient]
ROUTES = [route.path for route in DECLARED if "{" not in route.path]
OPEN = {route.path for route in DECLARED if route.access == "open"}


@pytest.mark.parametrize("path", ROUTES)
def test_a_route_is_found_by_every_spelling(client: Client, path: str) -> None:
    asking = client()
    want = asking.request("PUT", path)
    assert want.status_code == 405
    plain = path.removeprefix("/v1")
    doubled = [f"/v1{path}"] if path != "/" else []
    for spelled in (path + "/", "/" + path, path.replace("/", "//"), plain, *doubled):
        reply = asking.request("PUT", f"http://localhost{spelled}")
        assert reply.status_code == 405 and reply.headers["allow"] == want.headers["allow"], spelled


@given(
    st.lists(
        st.sampled_from(
            ["/", "v1", "metrics", "props", "health", "..", ".", "chat", "completions", "%2f", "web", "x"]
        ),
        max_size=8,
    )
)
def test_a_path_is_a_routes_or_stays_as_it_came(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    found = canonical(path, ROUTES.__contains__)
    assert found == path or found in ROUTES
    assert found not in ROUTES or canonical(found, ROUTES.__contains__) == found


def test_no_spelling_goes_around_the_guard(client: Client) -> None:
    asking = client(keys=("right-key-of-some-length",))
    for path in ROUTES:
        for spelled in (
            path + "/",
            "/" + path,
            f"/v1{path}",
            f"{path}/%2e%2e/health",
            path.removeprefix("/v1") + "//",
            f"/health/{path}",
        ):
            reply = asking.get(f"http://localhost{spelled}")
            means = canonical(unquote(spelled), ROUTES.__contains__)
            assert (reply.status_code == 401) == (means not in OPEN), spelled


def test_an_answer_is_the_same_without_v1(client: Client) -> None:
    asking = client()
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 1}
    want = asking.post("/v1/chat/completions", json=body).json()["choices"]
    for path in ("/chat/completions", "/v1/chat/completions/", "http://localhost//v1/chat/completions"):
        assert asking.post(path, json=body).json()["choices"] == want
    assert asking.get("/models").json() == asking.get("/v1/models/").json() == asking.get("/v1/models").json()
    assert asking.get("/models/dgemma").json() == asking.get("/v1/models/dgemma").json()


def test_routes_that_are_refused_say_why_in_their_dialect(client: Client) -> None:
    asking = client()
    for absent in ABSENT:
        for method in ("POST", "DELETE", "GET"):
            reply = asking.request(
                method, absent.path.replace("{digest}", "sha256:0"), json={"model": "x", "input": "y"}
            )
            assert reply.status_code == 501 and absent.message in reply.text
    assert asking.post("/embeddings", json={}).json()["error"]["type"] == "not_supported_error"
    assert [*asking.post("/api/pull", json={}).json()] == ["error"] == [*asking.get("/api/nowhere").json()]
    assert asking.get("/v1/messages/batches").json()["type"] == "error"
    assert client(keys=("right-key-of-some-length",)).post("/api/pull").status_code == 401
