"""Malformed requests against a running `dgemma serve`: bodies, numbers, Unicode, nesting, JSON, headers, paths, broken HTTP.

    python scripts/fuzz_service.py --count 100000            a server process of its own, with the shipped model
    python scripts/fuzz_service.py --url http://127.0.0.1:8256

Every request is drawn from --seed and its own number, by changing an example of the server's OpenAPI document. At fault is an answer of
5xx, also inside a stream; a well-formed request that is not answered, or anything that is neither answered nor cut; and, after all of them, a
slot or memory that is not free, or another answer to the request that was asked before. Trap: a change may ask for a very long
answer, and be served; such clients leave after a while, which must free their slots as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

AT_ONCE = 16  # fewer than there are slots: nothing is refused because others are at work
PATIENCE, LEAVES = 600, 10  # ticks until a request hangs; until a client that asked for a long answer leaves
TICK = 0.1  # s; ticks are counted, so that a machine that was stopped for a while makes nothing hang
RAW = "raw:"  # a text that begins so is written without its quotes
KINDS = {
    "value": 30,
    "field": 20,
    "number": 10,
    "unicode": 8,
    "nesting": 6,
    "json": 10,
    "headers": 6,
    "path": 4,
    "http": 6,
}
NUMBERS = (
    0, -1, 1, 7, -0.0, 0.1, 1.5, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 1e308, -1e308, 5e-324, True,
    *(RAW + text for text in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", "1.", ".5", "0x10", "1_000", "+1", "9" * 5000, "-")),
)  # fmt: skip
TEXTS = (
    "", " ", "\n", "\0", "a" * 5000, "\ud800", "\udfff\ud800", "\ufeff", "\u202eabc", "e" + "\u0301" * 200, "👩‍👩‍👧‍👦", "\uffff", "𐀀", "ﷺ" * 50,
    "<|turn>model\n", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|tool_call>", "</s><bos><pad>", "(", "[a-", "a{99999}", "(a|b)*" * 40,
    "start: (", 'start: "a" | start start', "root ::= [", "%s%n", "../../etc/passwd", "NaN", "'; drop table", "\\", '"', "http://127.0.0.1:1/",
)  # fmt: skip
SHAPES = (
    None, [], {}, [[]], [None], [1] * 300, {"": {}}, {"type": "object"}, {"type": 1}, {"$ref": "#"}, {"type": "json_schema"},
    {"type": "array", "items": {"$ref": "#/x"}}, {"enum": []}, {"type": "object", "required": ["a"], "properties": {"a": False}},
    [{"role": "user", "content": None}], [{"role": 1}], [{"role": "user", "content": [{"type": "text"}]}], [{"type": "function"}],
    [{"type": "function", "function": {"name": "", "parameters": []}}], [{"role": "assistant", "tool_calls": [{}]}], [[0, 1], [1, 2]], [[5, 1]],
    {"x": {"type": "choice", "criteria": []}}, {"x": {"type": "score", "criteria": {"a": 1e400}}}, {"1": 1e308}, {"-1": 0},
)  # fmt: skip
LONG = re.compile(r"max|predict|width|^n$|steps")  # fields that make an answer long
BINARY = (
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\0",
    b"\xf8\x88\x80\x80\x80",
    b"\xef\xbb\xbf",
    b"}",
    b"]",
    b'"',
    b",",
    b":",
    b"\\u12",
    b"\\x",
    b"//",
    b"/**/",
)
HEADERS = (
    b"host: evil.example", b"host: localhost\r\nhost: localhost", b"host:", b"origin: null", b"origin: http://[", b"content-length: -1",
    b"content-length: 5\r\ncontent-length: 6", b"content-length: 99999999999999999999", b"content-length: 1e3", b"transfer-encoding: gzip",
    b"transfer-encoding: chunked\r\ncontent-length: 3", b"expect: 100-continue", b"expect: x", b"connection: upgrade\r\nupgrade: websocket",
    b"connection: upgrade\r\nupgrade: h2c", b"content-type: \xff", b"content-encoding: gzip", b"authorization: Bearer \xff\xfe", b"x-api-key: \t",
    b"authorization: Basic", b"x: " + b"a" * 40000, b"a: b\r\n" * 150 + b"a: b", b" folded: x", b"a : b", b": b", b"\0: b", b"x: a\0b", b"x: a\rb",
    b"range: bytes=0-", b"if-none-match: *", b"accept: ;;;", b"cookie: " + b"a=b; " * 500, b"x-forwarded-host: evil", b"access-control-request-method: X",
)  # fmt: skip
METHODS = (
    b"GET",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"CONNECT",
    b"post",
    b"P\0ST",
    b"",
    b"A" * 300,
)
PATHS = (
    b"/", b"//", b"/..", b"/%00", b"/%ff", b"/web/../app.py", b"/web/%2e%2e/app.py", b"/web/", b"/v1/models/%0a", b"/v1/models/" + b"a" * 5000,
    b"http://evil.example/", b"*", b"", b"/?" + b"q" * 5000, b"/v1/completions/", b"/v1//completions", b"\xff", b"/\xc3\xa4", b"/a b", b"/%", b"/#x",
)  # fmt: skip
BROKEN = (
    b"", b"\r\n" * 50, b"GET", b"GET /", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\n\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"\0" * 300, b"POST /infill HTTP/1.1\r\nhost: localhost\r\n"
    b"transfer-encoding: chunked\r\n\r\nzz\r\n", b"POST /infill HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    b"POST /infill HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000000\r\n\r\nx", b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 40,
    b"POST /infill HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n", b"SSH-2.0-x\r\n", b"a" * 70000,
)  # fmt: skip


@dataclass
class Asked:
    """One request as it goes over the wire."""

    kind: str
    data: bytes
    sound: bool = True  # whether it is well-formed HTTP, which must be answered
    long: bool = False  # whether its answer may take any time
    leaves: bool = False  # whether its client is gone as soon as it has asked


class Requests:
    """Request `number` of a seed: requests(number)."""

    def __init__(self, document: dict[str, Any], seed: int):
        self.seed = seed
        self.bodies = []  # (path, example, names of its fields)
        for path, operations in document["paths"].items():
            body = (
                operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
            )
            if body:
                name = body["schema"]["$ref"].rpartition("/")[2]
                self.bodies.append(
                    (
                        path.encode(),
                        body["example"],
                        sorted(document["components"]["schemas"][name]["properties"]),
                    )
                )

    def __call__(self, number: int) -> Asked:
        draw = random.Random(f"{self.seed} {number}")
        kind = draw.choices([*KINDS], [*KINDS.values()])[0]
        path, example, names = draw.choice(self.bodies)
        body = copy.deepcopy(example)
        if kind == "http":
            whole = post(path, written(body))
            spoilt = whole[: draw.randrange(len(whole))] if draw.random() < 0.4 else noise(draw, whole)
            return Asked(kind, draw.choice((*BROKEN, spoilt, spoilt, spoilt)), sound=False, long=True)
        if kind == "path":
            method, target = draw.choice((b"GET", b"POST", *METHODS)), draw.choice((path, *PATHS))
            return Asked(kind, post(target, written(body), method=method), sound=False, long=True)
        if kind == "headers":
            return Asked(
                kind,
                post(path, written(body), b"\r\n".join(draw.sample(HEADERS, draw.randint(1, 3)))),
                sound=False,
                long=True,
            )
        if kind == "json":
            return Asked(kind, post(path, noise(draw, written(body))), long=True)
        for _ in range(draw.choice((1, 1, 2, 4))):
            change(draw, kind, body, names)
        if kind == "unicode" and draw.random() < 0.3:
            return Asked(kind, post(path, noise(draw, written(body), BINARY[:6])), long=True)
        return Asked(
            kind, post(path, written(body)), long=is_long(body, example), leaves=draw.random() < 0.02
        )


def change(draw: random.Random, kind: str, body: dict[str, Any], names: list[str]) -> None:
    """Change one place of a body."""
    anything = (*NUMBERS, *TEXTS, *SHAPES)
    if kind == "field" or not body:
        body[draw.choice((*names, *names, draw.choice(TEXTS)))] = copy.deepcopy(draw.choice(anything))
        return
    places = [*walk(body)]
    inside, key = draw.choice(places)
    if kind == "value" and draw.random() < 0.2:
        inside.pop(key)
    elif kind == "nesting":
        deep: Any = draw.choice((0, "x", [], {}))
        for _ in range(draw.choice((3, 60, 64, 70, 300, 800))):
            deep = [deep] if draw.random() < 0.5 else {draw.choice(names): deep}
        inside[key] = deep
    else:
        inside[key] = copy.deepcopy(draw.choice({"number": NUMBERS, "unicode": TEXTS}.get(kind, anything)))
    if kind in ("number", "unicode") and draw.random() < 0.5:
        body[draw.choice(names)] = draw.choice(NUMBERS if kind == "number" else TEXTS)


def walk(value: Any, deep: int = 8) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every place in a body, down to some depth."""
    for key in [*value] if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list) and deep:
            yield from walk(value[key], deep - 1)


def is_long(body: Any, example: Any) -> bool:
    bounds = [key for key in example if LONG.search(key) or key == "options"]
    touched = any(
        body.get(key) != example.get(key) for key in {*body, *bounds} if LONG.search(key) or key == "options"
    )
    return (
        touched or not bounds or any(isinstance(value, str) and len(value) > 1000 for value in body.values())
    )


def written(body: Any) -> bytes:
    """A body's JSON."""
    return re.sub(rf'"{RAW}([^"]*)"', r"\1", json.dumps(body)).encode()


def noise(draw: random.Random, data: bytes, bits: tuple[bytes, ...] = BINARY) -> bytes:
    """Some bytes cut out, put in, or changed."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        data = (
            data[:at]
            + draw.choice((*bits, bytes([draw.randrange(256)])))
            + data[at + draw.choice((0, 0, 1, 5)) :]
        )
    return data[: draw.randrange(len(data))] if draw.random() < 0.1 else data


def post(path: bytes, body: bytes, more: bytes = b"", method: bytes = b"POST") -> bytes:
    head = [
        method + b" " + path + b" HTTP/1.1",
        b"host: localhost",
        b"connection: close",
        b"content-type: application/json",
    ]
    if b"content-length" not in more and b"transfer-encoding" not in more:
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*head, *([more] if more else []), b"", body])


@dataclass
class Outcome:
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and status
    faults: list[tuple[str, int, bytes]] = field(default_factory=list)  # (what, number, request)
    health: list[float] = field(default_factory=list)  # seconds that /health took meanwhile


class Fuzz:
    """Asks the server at `address` (host and port) requests of a seed, and says what was at fault."""

    def __init__(self, address: tuple[str, int], seed: int, seconds: float = 3600.0):
        self.address, self.seed, self.ticks, self.outcome = address, seed, 0, Outcome()
        self.until = time.monotonic() + seconds

    async def run(self, count: int, first: int = 0) -> Outcome:
        document = json.loads(await self.get("/openapi.json"))
        requests, numbers = Requests(document, self.seed), iter(range(first, first + count))
        before = await self.state()
        beside = [asyncio.create_task(one) for one in (self.tick(), self.probe())]
        await asyncio.gather(*[self.ask_all(requests, numbers) for _ in range(AT_ONCE)])
        for task in beside:
            task.cancel()
        for _ in range(PATIENCE):
            if (after := await self.state()) == before:
                break
            await asyncio.sleep(TICK)
        else:
            self.outcome.faults.append((f"afterwards {after} instead of {before}", count, b""))
        return self.outcome

    async def state(self) -> tuple[str, ...]:
        """What must be afterwards as it was before: a good answer, and the gauges."""
        body = b'{"prompt": "def area(r):", "max_tokens": 8, "seed": 1}'
        reply, _ = await self.exchange(Asked("good", post(b"/v1/completions", body)))
        text = json.loads(reply.partition(b"\r\n\r\n")[2])["choices"][0]["text"]
        gauges = re.findall(
            r"^(dgemma_(?:requests_(?:open|running|waiting)|kv_bytes) .*)$",
            await self.get("/metrics"),
            re.MULTILINE,
        )
        assert len(gauges) == 4
        return (text, *gauges)

    async def get(self, path: str) -> str:
        reply, _ = await self.exchange(
            Asked("good", b"GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path.encode())
        )
        return reply.partition(b"\r\n\r\n")[2].decode()

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.ticks += 1

    async def probe(self) -> None:
        while True:
            start = time.perf_counter()
            await self.get("/health")
            self.outcome.health.append(time.perf_counter() - start)
            await asyncio.sleep(0.2)

    async def ask_all(self, requests: Requests, numbers: Any) -> None:
        for number in numbers:
            if time.monotonic() > self.until:
                return
            asked = requests(number)
            reply, end = await self.exchange(asked)
            statuses = [int(code) for code in re.findall(rb"^HTTP/1\.1 (\d{3}) ", reply, re.MULTILINE)]
            wrong = [
                code for code in statuses if code >= 500 and code != 505
            ]  # 505: a version of HTTP that is not served
            if wrong or b'"code":500' in reply or b'"api_error"' in reply:
                self.outcome.faults.append((f"answered {reply[:300]!r}", number, asked.data))
            elif end == "hangs" or (end == "cut" and asked.sound and not statuses and not asked.leaves):
                self.outcome.faults.append((end, number, asked.data))
            self.outcome.counts[asked.kind, str(statuses[0]) if statuses else end] += 1

    async def exchange(self, asked: Asked) -> tuple[bytes, str]:
        """(what came back, how it ended: "cut" by the server, "left" by us, "hangs")."""
        reader, writer = await asyncio.open_connection(*self.address)
        parts, until = [], self.ticks + (LEAVES if asked.long else PATIENCE)
        try:
            writer.write(asked.data)
            if asked.leaves:
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                return b"", "left"
            if asked.kind == "http":
                writer.write_eof()
            while self.ticks < until:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(10 * TICK):
                        if not (part := await reader.read(65536)):
                            return b"".join(parts), "cut"
                        parts.append(part)
            return b"".join(parts), "left" if asked.long else "hangs"
        except (ConnectionError, BrokenPipeError):
            return b"".join(parts), "cut"
        finally:
            writer.transport.abort()


def report(outcome: Outcome, seconds: float) -> None:
    print(f"{sum(outcome.counts.values())} requests in {seconds:.0f} s")
    for kind in KINDS:
        found = {status: n for (k, status), n in sorted(outcome.counts.items()) if k == kind}
        print(f"  {kind:8} " + ", ".join(f"{status}: {n}" for status, n in found.items()))
    health = sorted(outcome.health)
    if health:
        print(
            f"/health meanwhile, ms: median {1e3 * health[len(health) // 2]:.1f}, p99 {1e3 * health[int(0.99 * len(health))]:.1f}, most {1e3 * health[-1]:.1f}"
        )
    for what, number, data in outcome.faults[:20]:
        print(f"FAULT request {number}: {what}\n  {data[:2000]!r}")
    print(f"{len(outcome.faults)} faults")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which no more are asked")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--url", help="a running server at loopback; without it one is started")
    asked = parser.parse_args()
    if asked.url is not None:
        return bool(fuzz(asked.url, asked).faults)
    command = [sys.executable, "-m", "dgemma.cli.main", "serve", "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"DGEMMA_API_KEY": ""}
    ) as process:
        assert process.stderr is not None
        try:
            url = (
                next(line for line in process.stderr if " answers at " in line)
                .partition(" answers at ")[2]
                .split()[0]
            )
            outcome = fuzz(url, asked)
        finally:
            process.terminate()
        said = [line for line in process.stderr if "curl" not in line]
    print(f"exit code {process.returncode}, {len(said)} lines on stderr", *said[:20])
    return bool(outcome.faults or said or process.returncode)


def fuzz(url: str, asked: argparse.Namespace) -> Outcome:
    host, _, port = url.removeprefix("http://").rpartition(":")
    start = time.perf_counter()
    outcome = asyncio.run(Fuzz((host, int(port)), asked.seed, asked.seconds).run(asked.count, asked.first))
    report(outcome, time.perf_counter() - start)
    return outcome


if __name__ == "__main__":
    raise SystemExit(main())
