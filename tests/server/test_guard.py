"""Safe by default: who may ask, by which name, from which page, with how much. Each refusal has its status and the dialect's shape."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from dgemma.errors import UsageError
from dgemma.server.auth import Guard
from dgemma.server.dialects import ROUTES
from dgemma.server.jobs import RequestError
from dgemma.server.keys import KEY_VARIABLE, Key, KeyRing, check_strength, read_keys
from dgemma.server.routes import Page, Task
from dgemma.server.settings import ServerConfig

Client = Callable[..., TestClient]
COMPLETE = "/v1/completions"
GOOD = "Vt3-kq9ZbX71mLwP"
OPEN = {"/health", "/health/live", "/", "/web/{name:path}"}


def test_every_route_is_denied_without_a_key_but_for_the_open_ones(client: Client) -> None:
    asking = client(keys=("right",))
    routes = asking.app.routes
    assert len(routes) == len(ROUTES) and all(isinstance(route, Route) for route in routes)
    for route in routes:
        path = route.path.replace("{name:path}", "x")
        for method in sorted(route.methods | {"GET", "POST", "PUT", "DELETE", "OPTIONS"}):
            reply = asking.request(method, path)
            assert (reply.status_code == 401) == (route.path not in OPEN), (method, path, reply.status_code)
    assert asking.get("/nowhere").status_code == 401
    assert {route.path for route in ROUTES if route.access == "open"} <= OPEN


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401), ({"authorization": "Bearer right"}, 200), ({"authorization": "bearer second"}, 200), ({"x-api-key": "right"}, 200),
        ({"authorization": "Bearer wrong"}, 401), ({"authorization": "Bearer "}, 401), ({"authorization": "Basic right"}, 401),
        ({"x-api-key": "righ"}, 401), ({"x-api-key": "rightt"}, 401), ({"authorization": "Bearer wrong", "x-api-key": "right"}, 401),
    ],
)  # fmt: skip
def test_keys(client: Client, headers: dict[str, str], status: int) -> None:
    reply = client(keys=("right", "second")).get("/v1/models", headers=headers)
    assert reply.status_code == status
    assert status == 200 or (
        reply.headers["www-authenticate"] == "Bearer"
        and reply.json()["error"]["type"] == "authentication_error"
    )


def test_beyond_loopback_only_with_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(UsageError, match="takes a key"):
            ServerConfig(host=host)
        ServerConfig(host=host, keys=(GOOD,))
        for weak, reason in (
            ("Q", "1 of 16"),
            ("a" * 40, "1 different"),
            ("short-but-mixed", "15 of 16"),
            ("abcabcabcabcabcabc", "3 different"),
        ):
            with pytest.raises(UsageError, match=reason) as caught:
                ServerConfig(host=host, keys=(GOOD, weak))
            assert (
                "token_urlsafe" in str(caught.value)
                and weak not in str(caught.value)
                and "key 2" in str(caught.value)
            )
            with pytest.raises(UsageError, match="'alice'"):
                check_strength([Key(weak, "alice")])
            ServerConfig(host="127.0.0.1", keys=(weak,))
            ServerConfig(host=host, keys=(weak,), uds="/tmp/socket")
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        ServerConfig(host=host)
    ServerConfig(host="0.0.0.0", uds="/tmp/socket")
    with pytest.raises(UsageError, match="no name"):
        ServerConfig(allow_origins=("*",))


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "one, two,one")
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text("# who\nthree\n\n  bob four  \n")
    assert read_keys(path) == ("one", "two", "three", "four") and [key.name for key in read_keys(path)] == [
        "",
        "",
        "",
        "bob",
    ]
    monkeypatch.delenv(KEY_VARIABLE)
    assert read_keys(None) == ()
    for text, message in (
        ("# none\n", "holds no key"),
        ("three words here\n", "a name and a key"),
        ("é\n", "printable ASCII"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_keys(path)
    with pytest.raises(UsageError, match="No such file"):
        read_keys(tmp_path / "nowhere")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX'")
def test_a_key_file_that_everybody_may_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    path = tmp_path / "my keys"
    path.write_text(GOOD)
    for mode in (0o644, 0o604, 0o602, 0o601, 0o666):
        path.chmod(mode)
        with pytest.raises(UsageError, match="chmod 600 '"):
            read_keys(path)
    for mode in (0o600, 0o400, 0o640):
        path.chmod(mode)
        assert read_keys(path) == (GOOD,)


def test_a_ring_of_keys() -> None:
    ring = KeyRing(["one", Key("two", "operator"), "three"])
    tenants = [ring.tenant(key) for key in ("one", "two", "three")]
    assert (
        len({*tenants}) == 3
        and None not in tenants
        and ring.tenant("four") is None
        and ring.tenant("") is None
    )
    assert [ring.is_operator(tenant) for tenant in (*tenants, None)] == [False, True, False, False]
    ring.replace(["three", "four"])
    assert (
        ring.tenant("one") is None and ring.tenant("three") == tenants[2] and not ring.is_operator(tenants[2])
    )
    ring.replace(["three"])
    assert ring.is_operator(tenants[2]) and KeyRing([]).tenant("any") == "" and KeyRing([]).is_operator("")


def test_figures_of_all_keys_are_the_operators(client: Client) -> None:
    def status(asking: TestClient, key: str) -> int:
        return asking.get("/metrics", headers={"x-api-key": key}).status_code

    several = client(keys=("one", Key("two", "operator")))
    assert [status(several, key) for key in ("one", "two", "three")] == [403, 200, 401]
    assert several.head("/metrics", headers={"x-api-key": "one"}).status_code == 403
    assert several.get("http://localhost//metrics/", headers={"x-api-key": "one"}).status_code == 403
    assert several.get("/v1/metrics", headers={"x-api-key": "one"}).status_code == 403
    assert "operator" in several.get("/metrics", headers={"x-api-key": "one"}).json()["error"]["message"]
    assert [status(client(keys=("one", "two")), key) for key in ("one", "two")] == [403, 403]
    assert status(client(keys=("one",)), "one") == status(client(), "") == 200


def test_keys_are_taken_anew_while_the_service_runs(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text("old\n")
    asking = client(keys=read_keys(path), key_file=path)

    def statuses() -> list[int]:
        return [asking.get("/v1/models", headers={"x-api-key": key}).status_code for key in ("old", "new")]

    assert statuses() == [200, 401]
    path.write_text("old\nnew\n")
    asking.app.state.service.reload_keys()  # type: ignore[attr-defined]
    assert statuses() == [200, 200]
    path.write_text("new\n")
    asking.app.state.service.reload_keys()  # type: ignore[attr-defined]
    assert statuses() == [401, 200]
    path.write_text("# none\n")
    with pytest.raises(UsageError, match="no key"):
        asking.app.state.service.reload_keys()  # type: ignore[attr-defined]
    assert statuses() == [401, 200]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8256", 200), ("127.0.0.1:1", 200), ("[::1]:8256", 200), ("box.lan:8256", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("10.0.0.1", 421),
        ("evil@localhost", 421), ("localhost/x", 421), ("[", 421),
        ("localhost#evil", 421), ("localhost?evil", 421), ("localhost:", 421), ("localhost:1:2", 421), ("localhost, evil.example", 421), ("[::1", 421),
        ("LOCALHOST", 200), ("localhost\\evil", 421), ("evil.example:80#localhost", 421),
    ],
)  # fmt: skip
def test_hosts(client: Client, host: str, status: int) -> None:
    assert client(allow_hosts=("box.lan",)).get("/health", headers={"host": host}).status_code == status


def test_pages_of_others_may_not_ask_and_get_no_leave_to(client: Client) -> None:
    asking = client(allow_origins=("https://good.example",))
    for method, path in (("GET", "/health"), ("POST", COMPLETE), ("OPTIONS", COMPLETE)):
        for origin in (
            "https://evil.example",
            "null",
            "http://localhost:1",
            "http://[",
            "localhost",
            "http://localhost/",
            "",
        ):
            reply = asking.request(
                method, path, headers={"origin": origin, "access-control-request-method": "POST"}
            )
            assert reply.status_code == 403 and not [
                name for name in reply.headers if name.startswith("access-control")
            ]
    good = {"origin": "https://good.example", "access-control-request-method": "POST"}
    assert asking.options(COMPLETE, headers=good).status_code == 204
    assert (
        asking.get("/health", headers=good).headers["access-control-allow-origin"] == "https://good.example"
    )
    assert asking.get("/health", headers={"origin": "http://localhost"}).status_code == 200  # our own page
    assert "access-control-allow-origin" not in asking.get("/health").headers


GOOD_ORIGIN = "https://good.example"
LEAVE = ("access-control-allow-origin", "vary")
ASKED_BY_A_PAGE = {
    "an answer": ("GET", "/health", 200),
    "an answer to a key": ("POST", COMPLETE, 200),
    "a refusal": ("POST", "/v1/fim/completions", 400),
    "a page that is not there": ("GET", "/nowhere", 404),
    "no key": ("GET", "/v1/models", 401),
    "leave to ask": ("OPTIONS", COMPLETE, 204),
}


@pytest.mark.parametrize(("method", "path", "status"), ASKED_BY_A_PAGE.values(), ids=ASKED_BY_A_PAGE)
def test_every_answer_to_a_page_names_the_page_and_is_kept_for_it_alone(
    client: Client, method: str, path: str, status: int
) -> None:
    """Whatever keeps answers must not give one page's to another, so each says that it varies with Origin."""
    key = "a key of its own"
    asking = client(allow_origins=(GOOD_ORIGIN, "https://other.example"), keys=(key,))
    headers = {"origin": GOOD_ORIGIN, "access-control-request-method": "POST"}
    if status != 401:
        headers["authorization"] = f"Bearer {key}"
    body = {"prompt": "a", "max_tokens": 2} if status == 200 else {"nonsense": 1}
    reply = asking.request(method, path, headers=headers, json=body if method == "POST" else None)
    assert reply.status_code == status, reply.text
    assert [reply.headers.get_list(name) for name in LEAVE] == [[GOOD_ORIGIN], ["Origin"]]
    if method == "OPTIONS":
        assert reply.headers["access-control-allow-methods"] == "GET, POST"
        allowed = reply.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type", "x-api-key"} == set(allowed)
    assert "access-control-allow-credentials" not in reply.headers


def nested(depth: int) -> str:
    return '{"prompt": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"content": b"x" * 2000}, 413), ({"content": iter([b"x" * 600] * 3)}, 413), ({"content": b"{"}, 400), ({"content": b"[]"}, 400),
        ({"content": b'{"prompt": "\xff"}'}, 400), ({"content": b""}, 400), ({"content": nested(70)}, 400), ({"content": nested(400)}, 400),
        ({"content": '{"prompt": [' + "[]," * 300 + "0]}"}, 413), ({"json": {"prompt": "[,{" * 200, "max_tokens": 0}}, 400),
        ({"content": '{"prompt": NaN}'}, 400), ({"content": '{"prompt": "\\ud8"}'}, 400),
        ({"json": {"prompt": "x" * 900, "max_tokens": 2}}, 400), ({"headers": {"a": "b" * 5000}}, 431),
        ({"headers": {f"h{n}": "b" for n in range(40)}}, 431), ({"params": {"q": "x" * 500}}, 414),
    ],
)  # fmt: skip
def test_each_limit_has_its_status(client: Client, arguments: dict[str, Any], status: int) -> None:
    limits = {
        "max_body": 1000,
        "max_values": 500,
        "max_headers": 30,
        "max_header_bytes": 4000,
        "max_target": 300,
        "max_prompt_tokens": 50,
    }
    reply = client(**limits).post(COMPLETE, **arguments)
    assert reply.status_code == status and reply.json()["error"]["message"], reply.text


def test_what_is_deeply_nested_is_refused_before_it_hurts(client: Client) -> None:
    assert client().post(COMPLETE, content=nested(200_000)).status_code == 400


def test_no_error_holds_what_was_said(client: Client) -> None:
    canary = "canary7781"
    bodies = [
        {"prompt": canary, "max_tokens": 0}, {"prompt": {canary: 1}}, {"prompt": [[canary]]}, {"prompt": canary, "seed": -7},
        {"prompt": canary, "suffix": canary, "canvas_width": 999},
    ]  # fmt: skip
    for body in bodies:
        reply = client().post(COMPLETE, json=body)
        assert reply.status_code == 400 and canary not in reply.text
    for messages in (
        [{"role": "user", "content": [{"type": 5, "image_url": canary}]}],
        [{"role": "user", "content": {"x": canary}}],
    ):
        reply = client().post("/v1/chat/completions", json={"messages": messages})
        assert reply.status_code == 400 and canary not in reply.text


def test_a_bug_outside_of_a_route_is_told_so_too(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "canary" + "7781"

    def breaks(*asked: Any) -> Any:
        raise KeyError(said)

    monkeypatch.setattr(Guard, "tenant", breaks)
    reply = client().get("/health")
    assert (
        reply.status_code == 500
        and "KeyError" in reply.json()["error"]["message"]
        and said not in reply.text + caplog.text
    )


class Empty(msgspec.Struct):
    """A body without fields."""


def test_a_bug_is_told_by_its_kind_alone(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    said = "canary" + "7781"  # in two, because the log shows lines of source

    def breaks(*asked: Any) -> Any:
        raise KeyError(said)

    def shape(error: Any) -> Any:
        return {"error": error.message}

    asking = client(routes=(Page("/page", breaks, shape), Task("/task", Empty, breaks, shape)))
    for reply in (asking.get("/page"), asking.post("/task", json={})):
        assert reply.status_code == 500 and "KeyError" in reply.text and said not in reply.text
    assert "KeyError" in caplog.text and "breaks" in caplog.text and said not in caplog.text


def test_the_document_describes_every_route(client: Client) -> None:
    document = client(keys=("k",)).get("/openapi.json", headers={"x-api-key": "k"}).json()
    assert len(document["paths"]) == len(ROUTES)
    for route in ROUTES:
        operation, *head = document["paths"][route.path.replace(":path", "")].values()
        assert len(head) == (route.body is None) and ("security" in operation) == (route.access == "key") == (
            "401" in operation["responses"]
        )
        for status, reply in operation["responses"].items():
            assert status == "200" or reply["content"]["application/json"]["example"] == route.shape(
                RequestError(int(status), reply["description"])
            )
        if route.body is not None:
            name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[
                2
            ]
            assert document["components"]["schemas"][name]["properties"]


def test_every_example_of_the_document_is_answered_as_it_says(client: Client) -> None:
    asking, asked = client(), 0
    for path, operations in asking.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            for body in operation.get("requestBody", {"content": {"": {}}})["content"].values():
                reply = asking.request(
                    method,
                    path.format(name="dgemma" if "models" in path else "app.js"),
                    json=body.get("example"),
                )
                kind = reply.headers["content-type"].partition(";")[0]
                assert reply.status_code == 200 and {kind, "*/*"} & {
                    *operation["responses"]["200"].get("content", {kind: 0})
                }, (path, reply.text)
                asked += "example" in body
    assert asked == sum(route.body is not None for route in ROUTES)


def test_a_method_that_is_not_answered_says_which_are(client: Client) -> None:
    reply = client().put(COMPLETE, json={})
    assert (
        reply.status_code == 405
        and reply.headers["allow"] == "POST"
        and reply.json()["error"]["type"] == "invalid_request_error"
    )
    assert {*client().delete("/health").headers["allow"].split(", ")} == {"GET", "HEAD"}


def test_metrics_count_what_was_done(client: Client) -> None:
    asking = client()
    asking.post(COMPLETE, json={"prompt": "canary7781", "max_tokens": 24, "seed": 0})
    asking.post(COMPLETE, json={"prompt": "canary7781", "nope": 1})
    text = asking.get("/metrics").text
    assert 'dgemma_requests_total{route="/v1/completions",status="200"} 1.0' in text
    assert 'dgemma_requests_total{route="/v1/completions",status="400"} 1.0' in text
    assert (
        "dgemma_canvases_total 2.0" in text
        and "dgemma_tokens_total 24.0" in text
        and "dgemma_requests_open 0.0" in text
    )
    assert "canary" not in text
