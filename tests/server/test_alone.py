"""A server process with the network cut off: everything is answered, and what was said is found in no log, metric, error or file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers import tiny_checkpoint

CANARY = "canary7781"
CUT_OFF = ["unshare", "--map-root-user", "--net"]
# in the new namespace not even loopback is up
LOOPBACK = """
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
    fcntl.ioctl(found, 0x8914, struct.pack("16sh14x", b"lo", 0x1))  # SIOCSIFFLAGS, IFF_UP
"""
# the service as its command starts it, with the lowest level of every log
SERVE = """
import logging, sys
logging.basicConfig(level=1)
from dgemma.cli.main import main
main()
"""
ASK = """
import json, subprocess, sys, urllib.request
folder, serve = sys.argv[1:]
process = subprocess.Popen([sys.executable, "-c", serve, "serve", "-m", folder, "--port", "0"], stderr=subprocess.PIPE, text=True)
url = next(line for line in process.stderr if " answers at " in line).partition(" answers at ")[2].split()[0]
def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data), timeout=60) as reply:
        return reply.status, len(reply.read())
told = {}
for path, operations in json.load(urllib.request.urlopen(url + "/openapi.json"))["paths"].items():
    post = operations.get("post")
    name = path.format(name="app.js" if "web" in path else json.load(urllib.request.urlopen(url + "/v1/models"))["data"][0]["id"])
    told[path] = ask(name, post and post["requestBody"]["content"]["application/json"]["example"])
process.terminate()
try:
    urllib.request.urlopen("http://192.0.2.1/", timeout=5)
except OSError as error:
    told["elsewhere"] = str(error)
print(json.dumps(told | {"code": process.wait(30)}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("alone") / "model")


def test_everything_works_with_the_network_cut_off(folder: Path) -> None:
    if not shutil.which("unshare") or subprocess.run([*CUT_OFF, "true"], capture_output=True).returncode:
        pytest.skip("there are no user namespaces here")
    inside = LOOPBACK + ASK
    found = subprocess.run(
        [*CUT_OFF, sys.executable, "-c", inside, str(folder), SERVE],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told.pop("code") == 0 and "unreachable" in told.pop("elsewhere")
    assert len(told) > 20 and all(status == 200 and size for status, size in told.values()), told
    for command in (["run", "abc", "--max-tokens", "4"], ["doctor"]):
        model = [str(folder)] if command == ["doctor"] else ["-m", str(folder)]
        ran = subprocess.run(
            [*CUT_OFF, sys.executable, "-m", "dgemma.cli.main", *command, *model],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0 and ran.stdout, ran.stderr


@pytest.fixture
def noisy(folder: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """A service that logs all it can, and whose files are all below tmp_path."""
    places = {
        name: str(tmp_path)
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    }
    env = (
        os.environ
        | places
        | {
            "PYTHONASYNCIODEBUG": "1",
            "PYTHONFAULTHANDLER": "1",
            "DGEMMA_API_KEY": "key7781",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
    )
    command = [sys.executable, "-c", SERVE, "serve", "-m", str(folder), "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        url = (
            next(line for line in process.stderr if " answers at " in line)
            .partition(" answers at ")[2]
            .split()[0]
        )
        with httpx.Client(base_url=url, headers={"authorization": "Bearer key7781"}, timeout=60) as client:
            yield client, process
        process.kill()


def spoilt(body: dict[str, Any]) -> Iterator[bytes]:
    """Ways to be refused, all of which hold what was said. (The value of a setting that cannot be is told.)"""
    for more in ({"seed": CANARY}, {"max_tokens": -1}, {"temperature": -5}, {"stop": [CANARY] * 999}, {"tools": [CANARY]},
                 {"model": [CANARY]}, {"spans": [[0, 10**9]]}):  # fmt: skip
        yield json.dumps(body | more).encode()
    text = json.dumps(body).encode()
    yield from (
        text[:-1],
        text + b"}",
        text.replace(CANARY.encode(), CANARY.encode() + b"\xff"),
        b"[" + text + b"]",
    )


def test_what_was_said_is_found_nowhere(
    noisy: tuple[httpx.Client, subprocess.Popen[str]], tmp_path: Path
) -> None:
    client, process = noisy
    refused = served = 0
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        if "post" not in operations or path == "/detokenize":
            continue
        example = json.dumps(operations["post"]["requestBody"]["content"]["application/json"]["example"])
        body = json.loads(
            example.replace("Hello", CANARY)
            .replace("area", CANARY)
            .replace("import os", CANARY)
            .replace("return", CANARY)
        )
        if CANARY not in json.dumps(body):
            assert set(body) <= {"model"}, path  # it says nothing of anybody: a question about the model
            continue
        served += client.post(path, json=body).status_code == 200
        for data in spoilt(body):
            reply = client.post(path, content=data)
            if reply.status_code != 200:
                refused += 1
                assert 400 <= reply.status_code < 500 and CANARY not in reply.text, (path, data, reply.text)
    with client.stream(
        "POST", "/v1/completions", json={"prompt": CANARY, "max_tokens": 400, "stream": True}
    ) as leaving:
        next(leaving.iter_raw())
    for headers in (
        {"authorization": f"Bearer {CANARY}"},
        {"x-note": CANARY, "host": CANARY},
        {"origin": f"http://{CANARY}"},
    ):
        assert CANARY not in client.get(f"/v1/models/{CANARY}?q={CANARY}", headers=headers).text
    assert CANARY not in client.get("/metrics").text
    assert served > 10 and refused > 60
    process.terminate()
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0 and CANARY not in said and "key7781" not in said
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]
