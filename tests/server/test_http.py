"""Over real sockets: slow, silent and vanishing clients, the end of the process, a Unix socket, and OpenAI's own client."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import dgemma
from dgemma.config import EngineConfig
from dgemma.engine.engine import Engine
from dgemma.errors import UsageError
from dgemma.server.app import create_app
from dgemma.server.http import listen, server
from dgemma.server.settings import ServerConfig

CANARY = "canary7781"
LONG = {"prompt": CANARY, "max_tokens": 480, "stream": True, "diffusing": True, "seed": 0}


class Live:
    """A service on a thread, at a port of its own."""

    def __init__(self, model: Any, listening: socket.socket | None = None, **settings: Any):
        self.config = ServerConfig(**{"port": 0} | settings)
        self.socket = listening or listen(self.config)
        self.address = self.socket.getsockname()
        ready = threading.Event()
        self.app = create_app(model, self.config)
        self.server = server(self.app, ready.set)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        assert ready.wait(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    @property
    def open(self) -> int:
        return self.app.state.service.admission.open

    def connect(self, data: bytes = b"") -> socket.socket:
        found = socket.create_connection(self.address)
        found.settimeout(20)
        found.sendall(data)
        return found

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def live(fresh: dgemma.Model) -> Iterator[Callable[..., Live]]:
    begun: list[Live] = []

    def start(**settings: Any) -> Live:
        begun.append(Live(fresh, **settings))
        return begun[-1]

    yield start
    for one in begun:
        one.stop()


def head(path: str, body: bytes = b"", more: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode()
        + body
    )


def rest(found: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    try:
        with found:
            while part := found.recv(65536):
                parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def eventually(holds: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_silent_connections_and_heads_that_trickle_in_are_cut(live: Callable[..., Live]) -> None:
    at = live(header_timeout=0.3)
    silent, trickling = at.connect(), at.connect(b"POST /v1/completions HTTP/1.1\r\nhos")
    assert rest(silent) == b""
    assert rest(trickling).startswith(b"HTTP/1.1 408 ")
    assert httpx.get(f"{at.url}/health").status_code == 200


def test_a_head_that_grows_for_ever_and_one_that_is_none(live: Callable[..., Live]) -> None:
    at = live()
    growing = at.connect(b"GET /health HTTP/1.1\r\n")
    growing.sendall(b"x: " + b"a" * 70_000)
    assert rest(growing).startswith(b"HTTP/1.1 431 ")
    assert rest(at.connect(b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    coded = at.connect(b"POST /infill HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n")
    assert rest(coded).startswith(b"HTTP/1.1 400 ")


GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
BODY = b'{"prompt": "ab", "max_tokens": 1}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def asked(more: str, version: str = "1.1") -> bytes:
    return f"POST /v1/completions HTTP/{version}\r\nhost: localhost\r\n{more}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (asked(f"content-length: {len(BODY)}\r\ntransfer-encoding: chunked") + CHUNKED, 400),
        (asked("transfer-encoding: chunked\r\ncontent-length: 4") + CHUNKED, 400),
        (asked("transfer-encoding: chunked", "1.0") + CHUNKED, 400),
        (asked("connection: keep-alive\r\ncontent-length: 4\r\nTransfer-Encoding: Chunked") + CHUNKED, 400),
        (asked(f"content-length: {len(BODY)}", "1.2") + BODY, 505), (asked(f"content-length: {len(BODY)}", "9.9") + BODY, 505),
        (b"GET /health HTTP/2.0\r\nhost: localhost\r\n\r\n", 505), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)  # fmt: skip
def test_what_is_read_in_two_ways_closes_and_nothing_behind_it_is_answered(
    live: Callable[..., Live], data: bytes, status: int
) -> None:
    answer = rest(live().connect(data + GET))
    assert (
        answer.startswith(b"HTTP/1.1 %d " % status)
        and answer.count(b"HTTP/1.1 ") == 1
        and b"connection: close" in answer.lower()
    )


def test_a_compressed_body_is_refused(live: Callable[..., Live]) -> None:
    at = live()
    for coding, status in (
        ("gzip", 415),
        ("br", 415),
        ("identity, gzip", 415),
        ("identity", 200),
        ("", 200),
        ("Identity", 200),
    ):
        reply = httpx.post(
            f"{at.url}/v1/completions", content=BODY, headers={"content-encoding": coding}, timeout=20
        )
        assert reply.status_code == status, coding


def test_small_pieces_go_out_at_once(live: Callable[..., Live]) -> None:
    """Whoever opened the listening socket: with Nagle's algorithm each answer on a kept connection takes 40 ms."""
    without_protocol = socket.create_server(("127.0.0.1", 0))
    assert without_protocol.proto == 0
    for at in (live(), live(listening=without_protocol)):
        with at.connect():
            eventually(lambda at=at: at.server.server_state.connections)
            (connection,) = at.server.server_state.connections
            option = connection.transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            assert option != 0


def test_the_longest_silent_connection_makes_room(live: Callable[..., Live]) -> None:
    at = live(max_connections=4)
    resting = httpx.Client(base_url=at.url)
    assert resting.get("/health").status_code == 200
    silent = []
    for count in range(2, 5):
        silent.append(at.connect(b"GET" if count == 3 else b""))
        eventually(lambda count=count: len(at.server.server_state.connections) == count)
    assert httpx.get(f"{at.url}/health").status_code == 200
    assert rest(silent[0]) == b""  # the first one went, and the one that had asked stays
    assert resting.get("/health").status_code == 200 and len(at.server.server_state.connections) <= 4
    for one in silent[1:]:
        one.sendall(GET)
    answers = [one.recv(65536) for one in silent[1:]]
    assert answers[1].startswith(b"HTTP/1.1 200") and answers[0].startswith(b"HTTP/1.1 4")  # "GETGET"
    for one in (*silent, resting):
        one.close()


def test_bodies_that_do_not_come_make_room_and_do_not_take_it(live: Callable[..., Live]) -> None:
    at = live(max_connections=3)
    begun = b'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"prompt"'
    slow = []
    for count in range(1, 4):
        slow.append(at.connect(begun))
        eventually(lambda count=count: len(at.server.server_state.connections) == count)
    slow[0].sendall(b" ")  # one that drips has waited no less
    for _ in range(2):
        body = {"prompt": "ab", "max_tokens": 2}
        assert httpx.post(f"{at.url}/v1/completions", json=body, timeout=20).status_code == 200
    assert rest(slow[0]) == b""
    slow[2].sendall(b":" + b" " * 85 + b'"ab"}')  # whoever was not needed for room is answered
    assert slow[2].recv(65536).startswith(b"HTTP/1.1 200")
    for one in slow:
        one.close()


def test_nobody_at_work_makes_room(live: Callable[..., Live]) -> None:
    at = live(max_connections=1)
    working = at.connect(head("/v1/completions", json.dumps(LONG).encode()))
    eventually(lambda: at.open == 1)
    refused = httpx.get(f"{at.url}/health")
    assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
    assert working.recv(100)
    working.close()


def test_an_address_beyond_loopback_has_its_own_limit(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = live(max_per_address=2)
    monkeypatch.setattr("dgemma.server.http.is_loopback", lambda host: False)
    silent = [at.connect() for _ in range(2)]
    eventually(lambda: len(at.server.server_state.connections) == 2)
    assert httpx.get(f"{at.url}/health").status_code == 200
    assert rest(silent[0]) == b"" and len(at.server.server_state.connections) <= 2
    silent[1].close()


def test_a_body_that_does_not_come_is_given_up(live: Callable[..., Live]) -> None:
    at = live(body_timeout=0.3)
    slow = at.connect(
        b'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"prompt"'
    )
    assert rest(slow).startswith(b"HTTP/1.1 408 ")
    assert at.open == 0


def test_bodies_that_are_being_read_have_a_common_limit(live: Callable[..., Live]) -> None:
    """A second large body is too much beside the first one; small ones are not counted, and the first one's share comes back."""
    at = live(max_body=300_000, max_bodies=400_000)
    large = head("/v1/completions", b'{"max_tokens": 0, "prompt": "' + b"a" * 199_000 + b'"}')
    first = at.connect(large[:-1])
    eventually(lambda: at.app.state.service.bodies.held > 100_000)
    for path in ("/v1/completions", "/tokenize"):
        refused = httpx.post(f"{at.url}{path}", content=b"{" + b" " * 199_000)
        assert (refused.status_code, refused.headers["retry-after"]) == (
            503,
            "5",
        ) and "large bodies" in refused.json()["error"]["message"]
    assert (
        httpx.post(f"{at.url}/v1/completions", json={"prompt": "ab", "max_tokens": 2}, timeout=20).status_code
        == 200
    )
    first.sendall(large[-1:])
    with first:
        assert first.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert at.app.state.service.bodies.held == 0
    assert rest(at.connect(large.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))).startswith(
        b"HTTP/1.1 400 "
    )


def test_a_client_that_leaves_frees_its_slot(live: Callable[..., Live], fresh: dgemma.Model) -> None:
    at = live()
    for body in (LONG, LONG | {"stream": False}):
        leaving = at.connect(head("/v1/completions", json.dumps(body).encode()))
        eventually(lambda: fresh.engine.passes and fresh.engine.scheduler.taken)
        leaving.close()
        eventually(lambda: not fresh.engine.scheduler.taken and at.open == 0)


def test_who_does_not_read_is_cut_and_slows_nobody(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvicorn.protocols.http.flow_control.HIGH_WATER_LIMIT", 1024)
    at = live(write_timeout=0.5)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(at.address)
    body = json.dumps(LONG | {"n": 16, "max_tokens": 400}).encode()
    deaf.sendall(head("/v1/completions", body))
    eventually(lambda: at.open == 16)
    for connection in at.server.server_state.connections:  # a small buffer stands for a long answer
        connection.transport.set_write_buffer_limits(2048)
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    assert (
        httpx.post(f"{at.url}/v1/completions", json={"prompt": "x", "max_tokens": 4}, timeout=20).status_code
        == 200
    )
    eventually(lambda: at.open == 0)
    eventually(lambda: not at.server.server_state.connections)
    deaf.close()


def test_a_full_service_says_when_to_come_again(live: Callable[..., Live], fresh: dgemma.Model) -> None:
    fresh.engine = Engine(fresh.net, type(fresh.engine.config)(max_slots=1))
    at = live(max_queue=0)
    with httpx.stream("POST", f"{at.url}/v1/completions", json=LONG, timeout=20) as first:
        pieces = first.iter_text()  # dropped, it would close the stream
        next(pieces)
        refused = httpx.post(f"{at.url}/v1/completions", json=LONG)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"


def test_an_answer_out_of_time_ends_with_an_error(live: Callable[..., Live]) -> None:
    at = live(request_timeout=0.2)
    late = httpx.post(
        f"{at.url}/v1/completions", json=LONG | {"stream": False, "max_tokens": 504}, timeout=20
    )
    assert late.status_code == 503 and "longer than 0.2 seconds" in late.text
    text = httpx.post(f"{at.url}/v1/completions", json=LONG | {"max_tokens": 504}, timeout=20).text
    assert "longer than 0.2 seconds" in text.split("\n\n")[-2] and "[DONE]" not in text
    eventually(lambda: at.open == 0)


def test_a_unix_socket_is_for_its_user_and_replaced_when_dead(
    tmp_path: Path, live: Callable[..., Live]
) -> None:
    path = tmp_path / "socket"
    at = live(uds=str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        assert client.get("/health").json() == {"status": "ok"}
    with pytest.raises(UsageError, match="another program"):
        listen(at.config)
    at.stop()
    listen(at.config).close()


def test_what_cannot_be_listened_at_is_one_line(tmp_path: Path) -> None:
    with listen(ServerConfig(port=0)) as taken:
        for config, message in (
            (ServerConfig(port=taken.getsockname()[1]), "another program listens there"),
            (ServerConfig(host="no.such.host.invalid", keys=("Vt3-kq9ZbX71mLwP",)), "is no address"),
            (ServerConfig(uds=str(tmp_path / "no" / "where")), "No such file"),
        ):
            with pytest.raises(UsageError, match=message):
                listen(config)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals(fresh: dgemma.Model, number: int, code: int) -> None:
    """SIGTERM lets what runs finish and refuses what comes; Ctrl-C ends it with an error. Neither says what was asked."""
    command = [
        sys.executable,
        "-m",
        "dgemma.cli.main",
        "serve",
        "-m",
        str(fresh.folder),
        "--port",
        "0",
        "--max-tokens",
        "9",
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"DGEMMA_API_KEY": ""}
    ) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if " answers at " in line)
        url = line.partition(" answers at ")[2].split()[0]
        unlimited = httpx.post(f"{url}/v1/completions", json={"prompt": "ab", "seed": 1}, timeout=30)
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            waiting = httpx.Client(base_url=url)
            process.send_signal(number)
            if number == signal.SIGTERM:
                eventually(lambda: waiting.get("/health").status_code == 503)
                refused = waiting.post("/v1/completions", json=LONG)
                assert refused.status_code == 503 and "retry-after" in refused.headers
            last = [line for line in lines if line][-1]
            assert (last == "data: [DONE]") == (number == signal.SIGTERM), last
            waiting.close()
        assert process.wait(20) == code
        said = process.stderr.read()
        assert "Traceback" not in said and CANARY not in said
    assert unlimited.json()["usage"]["completion_tokens"] == 9, unlimited.text


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="POSIX has that signal")
@pytest.mark.parametrize("with_file", [True, False])
def test_sighup_reads_the_keys_again_and_cuts_no_stream(
    fresh: dgemma.Model, tmp_path: Path, with_file: bool
) -> None:
    """Without a key file it is a terminal that was closed: what runs is finished, as by SIGTERM."""
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text("old\n")
    command = [sys.executable, "-m", "dgemma.cli.main", "serve", "-m", str(fresh.folder), "--port", "0"]
    command += ["--api-key-file", str(path)] if with_file else []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"DGEMMA_API_KEY": ""}
    ) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if " answers at " in line)
        url, key = line.partition(" answers at ")[2].split()[0], {"x-api-key": "old"}
        if sys.platform == "linux":
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            assert re.search(r"Max core file size +0 +0 ", limits)
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, headers=key, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            path.write_text("new\n")
            process.send_signal(signal.SIGHUP)
            if with_file:
                eventually(
                    lambda: httpx.get(f"{url}/v1/models", headers={"x-api-key": "new"}).status_code == 200
                )
                assert httpx.get(f"{url}/v1/models", headers=key).status_code == 401
            assert [line for line in lines if line][-1] == "data: [DONE]"
        if with_file:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_openais_own_client(live: Callable[..., Live], fresh: dgemma.Model) -> None:
    at = live(keys=("sk-test",))
    with openai.OpenAI(base_url=f"{at.url}/v1", api_key="sk-test", max_retries=0) as client:
        assert [card.id for card in client.models.list()] == ["dgemma"]
        messages: Any = [{"role": "user", "content": "hi"}]
        want = fresh.chat(messages, 24, seed=7)
        whole = client.chat.completions.create(model="dgemma", messages=messages, seed=7, max_tokens=24)
        assert whole.choices[0].message.content == want.content and whole.usage is not None
        stream = client.chat.completions.create(
            model="dgemma",
            messages=messages,
            seed=7,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [*stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == want.content
        assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == whole.usage.total_tokens
        gap = client.completions.create(model="dgemma", prompt="abc", suffix="xyz", seed=1, max_tokens=3)
        assert gap.choices[0].text == fresh.fill("abc", "xyz", seed=1, widths=[1, 3]).text
        with pytest.raises(openai.BadRequestError, match="nope"):
            client.completions.create(model="dgemma", prompt="a", extra_body={"nope": 1})
    with (
        openai.OpenAI(base_url=f"{at.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_openais_own_client_asks_for_a_form_a_stop_and_log_probabilities(
    live: Callable[..., Live], fresh: dgemma.Model
) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    shape: Any = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": shape}}
    with openai.OpenAI(base_url=f"{live().url}/v1", api_key="none", max_retries=0) as client:
        ask = client.chat.completions.create
        formed = ask(
            model="any",
            messages=messages,
            max_tokens=24,
            response_format=form,
            logprobs=True,
            top_logprobs=2,
            stop=["nowhere"],
        )
        text, found = formed.choices[0].message.content or "", formed.choices[0].logprobs
        assert json.loads(text)["a"] in "xy" and found is not None and len(found.content or ()) == len(text)
        cut = ask(model="any", messages=messages, max_tokens=24, response_format=form, stop='"a')
        assert cut.choices[0].message.content == "{" and cut.choices[0].finish_reason == "stop"


def test_a_full_service_refuses_at_once_and_answers_what_takes_no_place(
    live: Callable[..., Live], fresh: dgemma.Model
) -> None:
    fresh.engine = Engine(fresh.net, EngineConfig(max_slots=1))
    at = live(max_queue=0)
    held = threading.Event()
    blocked = threading.Thread(target=at.app.state.service.worker.call, args=(held.wait, 60))
    blocked.start()
    first = at.connect(head("/v1/completions", b'{"prompt": "a", "max_tokens": 2}', "connection: close\r\n"))
    eventually(lambda: at.open == 1)
    with httpx.Client(base_url=at.url) as asking:
        for path in ("/v1/completions", "/v1/messages", "/v1/completions"):
            refused = asking.post(path, json={"prompt": "a"})
            assert (
                refused.status_code == 429 and refused.headers["retry-after"] and "too many" in refused.text
            )
        assert asking.post("/tokenize", json={"content": "a"}).status_code == 200
        assert (
            'dgemma_requests_total{route="/v1/completions",status="429"} 2.0' in asking.get("/metrics").text
        )
    held.set()
    blocked.join(60)
    assert rest(first).startswith(b"HTTP/1.1 200 ")


BROKEN = """
import sys, threading, time
from dgemma.config import EngineConfig
from dgemma.engine.engine import Engine
right = Engine._pass
def broken(self, readers):
    if threading.current_thread().name != "dgemma device":
        return right(self, readers)
    {what}
Engine._pass = broken
from dgemma.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("what", ["raise RuntimeError('secret')", "time.sleep(600)"])
def test_a_service_whose_passes_run_no_more_leaves_with_its_own_code(fresh: dgemma.Model, what: str) -> None:
    command = [
        sys.executable,
        "-c",
        BROKEN.format(what=what),
        "serve",
        "-m",
        str(fresh.folder),
        "--port",
        "0",
        "--pass-timeout",
        "1",
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"DGEMMA_API_KEY": ""}
    ) as process:
        assert process.stderr is not None
        url = (
            next(line for line in process.stderr if " answers at " in line)
            .partition(" answers at ")[2]
            .split()[0]
        )
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": CANARY}, timeout=60)
        assert answer.status_code in (500, 503) and "secret" not in answer.text
        assert process.wait(60) == 7
        said = process.stderr.read()
    assert "started again" in said and "secret" not in said and CANARY not in said
