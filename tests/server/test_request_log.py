"""`--log-requests`: a line for each request, none of its texts, and no waiting for whoever should read it."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable

from starlette.testclient import TestClient

from dgemma.server import request_log
from dgemma.server.request_log import RequestLog

LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (GET|POST|\(other\)) (/[\w/.{}:]*|\(no route\)) \d{3} \d+ tokens \d+ ms"
)


def test_a_line_tells_route_status_tokens_and_time_and_no_text(
    client: Callable[..., TestClient], capsys
) -> None:
    asking = client(keys=("key-of-somebody",), log_requests=True)
    right = {"authorization": "Bearer key-of-somebody"}
    body = {"prompt": "words of somebody", "max_tokens": 8, "max_denoising_steps": 2}
    asking.post("/v1/completions", json=body, headers=right)
    asking.post("/v1/completions", json=body | {"stream": True}, headers=right)
    asking.post("/v1/completions", json=body)
    asking.get("/path/of/somebody?key=key-of-somebody", headers=right)
    asking.request("SOMEBODY", "/health")
    asking.app.state.service.log.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if LINE.fullmatch(line)]
    told = [line.split(" ", 2)[2].rsplit(" ", 2)[0] for line in lines]
    assert told[0] == told[1] and re.fullmatch(r"POST /v1/completions 200 [1-8] tokens", told[0])
    assert told[2:] == [
        "POST /v1/completions 401 0 tokens",
        "GET (no route) 404 0 tokens",
        "(other) /health 405 0 tokens",
    ]
    assert "omebody" not in "".join(lines) and "SOMEBODY" not in "".join(lines)


def test_without_the_flag_nothing_is_logged(client: Callable[..., TestClient], capsys) -> None:
    asking = client()
    assert asking.get("/health").status_code == 200 and asking.app.state.service.log is None
    assert not LINE.search(capsys.readouterr().err)


def test_nobody_waits_for_a_reader_that_does_not_read(monkeypatch) -> None:
    class Stuck(io.StringIO):
        """A pipe that is full until it is read."""

        def write(self, text: str) -> int:
            self.reached.set()
            self.read.wait(60)
            return super().write(text)

    monkeypatch.setattr(request_log, "MOST_WAITING", 10)
    out = Stuck()
    out.reached, out.read = threading.Event(), threading.Event()
    log = RequestLog(out)
    log.line("first")
    out.reached.wait(60)  # the writer holds it
    for number in range(50):
        log.line(str(number))
    out.read.set()
    while log._lines.qsize():
        time.sleep(0.01)
    log.line("last")
    log.close()
    lines = out.getvalue().splitlines()
    assert (
        lines[0] == "first" and lines[-1] == "last" and "(40 lines were dropped: nobody read them)" in lines
    )
