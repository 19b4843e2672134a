"""What the service adds to the Python call, and what it does under ten times the load that it lets in.

    python benchmarks/service.py                 latency: the same requests in Python and over HTTP, in turn
    python benchmarks/service.py --overload      a server process of its own: ten times what it can answer, one after the other,
                                                 then ten clients for every place in the same instant
    python benchmarks/service.py --beside        the same requests alone, and beside silent, slow, oversize and flooding clients

Latency: time to the first committed text and to the end; and how long after its step the first draft has reached the client. The service
runs on threads of this process, so that both sides have one clock. Trap: both ways use the same engine, and its prefix cache would
serve the second one; so every request has a prompt of its own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx

import dgemma
from dgemma.engine.requests import StepRecord
from dgemma.server.app import create_app
from dgemma.server.http import listen, server
from dgemma.server.settings import ServerConfig
from dgemma.tasks.events import Committed

TOKENS = 16  # a narrow canvas: the shorter the request, the less its own spread hides what is added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--overload", action="store_true")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--slots", type=int, default=4, help="requests that are let in, with --overload")
    asked = parser.parse_args()
    if asked.overload:
        overload(asked.slots)
    elif asked.beside:
        beside(asked.requests)
    else:
        latency(asked.requests)


def latency(count: int) -> None:
    model = dgemma.load()
    config = ServerConfig(port=0)
    found, ready = listen(config), threading.Event()
    app = create_app(model, config)
    worker, stepped = app.state.service.worker, []
    observe = worker._observe

    def noted(record: object) -> None:
        stepped.append(time.perf_counter()) if isinstance(record, StepRecord) else None
        observe(record)

    worker._observe = noted
    running = server(app, ready.set)
    thread = threading.Thread(target=running.run, args=([found],))
    thread.start()
    ready.wait()
    rows: dict[str, list[float]] = {
        name: [] for name in ("first", "total", "draft", "whole first", "whole total")
    }
    for number in range(-2, count):  # two to warm up
        prompt = f"def function_{number + 2}(path):\n"
        body = {"max_tokens": TOKENS, "seed": 1}
        python = worker.call(in_python, model, prompt)
        http = over_http(found.getsockname(), "/v1/completions", body | {"prompt": prompt, "stream": True})
        again = worker.call(
            in_python, model, prompt
        )  # before and after: a machine that slows down slows both
        stepped.clear()
        draft = over_http(found.getsockname(), "/v1/canvas", body | {"prompt": prompt, "task": "complete"})
        if number >= 0:
            base = [statistics.mean(pair) for pair in zip(python, again, strict=True)]
            rows["whole first"].append(1e3 * base[0])
            rows["whole total"].append(1e3 * base[1])
            rows["first"].append(1e3 * (http[0] - base[0]))
            rows["total"].append(1e3 * (http[1] - base[1]))
            rows["draft"].append(1e3 * (draft[2] - stepped[0]))
    running.should_exit = True
    thread.join()
    print(f"Python, ms: first committed text {told(rows['whole first'])}, total {told(rows['whole total'])}")
    print(f"added over HTTP, ms: first committed text {told(rows['first'])}, total {told(rows['total'])}")
    print(f"first draft at the client after its step, ms: {told(rows['draft'])}")


def in_python(model: dgemma.Model, prompt: str) -> tuple[float, float]:
    """(seconds to the first committed text, to the end), on the thread that the service uses too."""
    start, first = time.perf_counter(), 0.0
    for event in model.stream(prompt, TOKENS, seed=1):
        if isinstance(event, Committed) and not first:
            first = time.perf_counter() - start
    return first, time.perf_counter() - start


def over_http(address: tuple[str, int], path: str, body: dict) -> tuple[float, float, float]:
    """(seconds to the first byte of the answer, to its end, and the clock at that first byte)."""
    data = json.dumps(body).encode()
    start = time.perf_counter()
    with socket.create_connection(address) as found:
        found.sendall(
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode()
            + data
        )
        seen, at = b"", 0.0
        while part := found.recv(65536):
            seen += part
            at = at or (time.perf_counter() if b"data: " in seen else 0.0)
    return at - start, time.perf_counter() - start, at


def told(values: list[float]) -> str:
    return f"median {statistics.median(values):.1f} (from {min(values):.1f} to {max(values):.1f}, n={len(values)})"


@contextlib.contextmanager
def served(*more: str) -> Iterator[tuple[subprocess.Popen[str], str, tuple[str, int]]]:
    """A server process, which has one core fewer than there are; the clients share the machine with it. (process, URL, address)."""
    command = [sys.executable, "-m", "dgemma.cli.main", "serve", "--port", "0", "--warmup", "1", *more]
    threads = str(max(1, (os.cpu_count() or 2) - 1))
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": threads}
    ) as process:
        assert process.stderr is not None
        url = (
            next(line for line in process.stderr if " answers at " in line)
            .partition(" answers at ")[2]
            .split()[0]
        )
        yield process, url, (url.rpartition(":")[0].removeprefix("http://"), int(url.rpartition(":")[2]))
        process.terminate()


def beside(count: int) -> None:
    """Three rounds of each in turn, so that a machine that slows down slows both."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
    bad = {
        "silent": (b"",) * 200, "slow heads": (head,) * 100, "slow bodies": (head + b"content-length: 900\r\n\r\n{",) * 100,
        "too long": (head + b"content-length: 99999999\r\n\r\n",) * 50, "flooding": (head + b"x: y\r\n" * 20_000,) * 50,
    }  # fmt: skip
    with served() as (_, _, address):
        for number in range(3):
            report_seconds("alone", [one(address, n)[1] for n in range(count)])
            clients = [socket.create_connection(address) for data in bad.values() for _ in data]
            for client, data in zip(clients, [data for group in bad.values() for data in group], strict=True):
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    client.send(data)
            report_seconds(
                f"beside {', '.join(f'{len(group)} {name}' for name, group in bad.items())}",
                [one(address, n)[1] for n in range(count)],
            )
            time.sleep(12 if number == 2 else 0)  # longer than a head may take
            print(f"  {sum(map(is_cut, clients))} of {len(clients)} were cut or answered")
            for client in clients:
                client.close()


def report_seconds(name: str, seconds: list[float]) -> None:
    print(f"{name}: {told([1e3 * value for value in seconds])} ms")


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1) is not None
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def overload(slots: int) -> None:
    most = 64 + slots
    with served("--max-queue", str(slots)) as (process, url, address):
        start = time.perf_counter()
        rate = report("as many as there are places", at_times(address, [0.0] * most)) / (
            time.perf_counter() - start
        )
        flow = [number / (10 * rate) for number in range(round(10 * rate * 15))]
        report(f"{10 * rate:.0f} a second, ten times what was answered, for 15 s", at_times(address, flow))
        report("ten for each place in one instant", at_times(address, [0.0] * 10 * most))
        left = next(
            line
            for line in httpx.get(f"{url}/metrics").text.splitlines()
            if line.startswith("dgemma_requests_open ")
        )
        process.terminate()
        print(f"afterwards {left}; exit code {process.wait(60)}")


def at_times(address: tuple[str, int], seconds: list[float]) -> list[tuple[int, float]]:
    """(status, seconds) of requests that begin so long after now."""
    start = time.perf_counter()

    def later(number: int) -> tuple[int, float]:
        time.sleep(max(0.0, start + seconds[number] - time.perf_counter()))
        return one(address, number)

    with concurrent.futures.ThreadPoolExecutor(min(len(seconds), 700)) as pool:
        return [*pool.map(later, range(len(seconds)))]


def report(name: str, answers: list[tuple[int, float]]) -> int:
    """Print what became of some requests. -> how many were answered."""
    good = [seconds for status, seconds in answers if status == 200]
    refused = sorted(seconds for status, seconds in answers if status in (429, 503))
    line = (
        f"{name}: {len(good)} of {len(answers)} answered in at most {max(good):.1f} s, {len(refused)} refused"
    )
    if refused:
        p95 = refused[int(0.95 * len(refused))]
        line += f" in ms: median {1e3 * statistics.median(refused):.1f}, p95 {1e3 * p95:.1f}, most {1e3 * refused[-1]:.1f}"
    print(f"{line}, others {len(answers) - len(good) - len(refused)}")
    return len(good)


def one(address: tuple[str, int], number: int) -> tuple[int, float]:
    """(status, seconds) of one short request, its connection included."""
    data = json.dumps({"prompt": f"def function_{number}():", "max_tokens": 16, "seed": number}).encode()
    start = time.perf_counter()
    with socket.create_connection(address) as found:
        found.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            % len(data)
            + data
        )
        seen = b""
        while part := found.recv(65536):
            seen += part
    return int(seen.split(b" ", 2)[1]), time.perf_counter() - start


if __name__ == "__main__":
    main()
