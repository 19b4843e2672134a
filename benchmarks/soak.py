"""A service under everything at once for as long as is asked, and whether it leaks.

    python benchmarks/soak.py                          ten minutes
    python benchmarks/soak.py --minutes 60 --rows soak.csv

Starts `dgemma serve --memory 1200MB` and sends requests of every dialect: whole and streamed answers, forms, tools, gaps, edits,
decisions, long prompts, of two keys, and malformed ones. Some clients leave, reset their connection or read slowly. Every five
seconds the service's memory, descriptors, threads and gauges are noted. The verdict: no answer of 5xx but those that ask to
come again (503 with Retry-After), nothing open or held when nobody asks any more, and no slope of memory over the last
half beyond twice its standard error. The exit code is 1 where one of these does not hold.

Linux, where a process tells what it holds. Trap: samples of memory that follow each other are not independent, so the standard
error is taken from the means of twelve blocks. The prefix cache grows until it has its share; a run must be long enough for that to
lie in its first half (a few hundred requests with the shipped model).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEYS = ("soak-a-8d1f0c", "soak-b-41b7e9")
OPERATOR = "soak-operator-5aa0d2"  # the key that may read the gauges, which tell of all keys
SAMPLE_SECONDS = 5.0
IDLE_SECONDS = 60.0  # that the service is given to come to rest
BLOCKS = 12  # of the last half, for the slope's standard error
CONDUCTS = ("normal",) * 12 + ("leaves", "resets", "reads slowly")
WORDS = "def class return value path list sum open file for in if not None True self data key name count line text".split()
GAUGES = ("dgemma_requests_open", "dgemma_requests_running", "dgemma_requests_waiting", "dgemma_kv_bytes")
SCHEMA = {
    "type": "object", "required": ["name", "size"],
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"type": "integer", "minimum": 0, "maximum": 99}},
}  # fmt: skip
TOOL = {"name": "look_up", "description": "Look a name up.", "parameters": SCHEMA}

Make = Callable[
    [random.Random], tuple[str, Any]
]  # -> the path and the body, bytes as they are or what becomes JSON


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count)) + f" {rng.random()}"


def short(rng: random.Random) -> dict[str, Any]:
    """The settings of a short answer."""
    return {"max_tokens": rng.randint(1, 48), "seed": rng.randrange(10**6)}


def streamed(rng: random.Random) -> dict[str, Any]:
    return {"stream": True} if rng.random() < 0.5 else {}


def messages(rng: random.Random, content: str | None = None) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content or words(rng, rng.randint(3, 40))}]}


def completion(rng: random.Random) -> tuple[str, Any]:
    return "/v1/completions", {"prompt": words(rng, rng.randint(2, 60)), **short(rng), **streamed(rng)}


def several(rng: random.Random) -> tuple[str, Any]:
    return "/v1/completions", {"prompt": [words(rng, 5), words(rng, 9)], "n": 2, **short(rng)}


def sampled(rng: random.Random) -> tuple[str, Any]:
    rules = {
        "temperature": 0.7,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "stop": [words(rng, 1)],
        "logprobs": 2,
    }
    return "/v1/completions", {"prompt": words(rng, 12), **rules, **short(rng), **streamed(rng)}


def long_prompt(rng: random.Random) -> tuple[str, Any]:
    return "/v1/completions", {"prompt": words(rng, rng.randint(1_000, 4_000)), **short(rng), **streamed(rng)}


def large_body(rng: random.Random) -> tuple[str, Any]:
    return "/v1/completions", {"prompt": "a" * 900_000, **short(rng)}


def chat(rng: random.Random) -> tuple[str, Any]:
    return "/v1/chat/completions", {**messages(rng), **short(rng), **streamed(rng)}


def form(rng: random.Random) -> tuple[str, Any]:
    schema = {
        "type": "json_schema",
        "json_schema": {"name": f"form_{rng.randrange(10**6)}", "schema": SCHEMA},
    }
    return "/v1/chat/completions", {
        **messages(rng),
        "response_format": schema,
        "max_tokens": 128,
        **streamed(rng),
    }


def expression(rng: random.Random) -> tuple[str, Any]:
    return "/v1/completions", {
        "prompt": words(rng, 8),
        "regex": f"[a-f]{{2,{rng.randint(3, 9)}}}",
        "max_tokens": 48,
    }


def tools(rng: random.Random) -> tuple[str, Any]:
    given = {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"}
    return "/v1/chat/completions", {**messages(rng), **given, "max_tokens": 128, **streamed(rng)}


def responses(rng: random.Random) -> tuple[str, Any]:
    return "/v1/responses", {
        "input": words(rng, 12),
        "max_output_tokens": rng.randint(16, 48),
        **streamed(rng),
    }


def anthropic(rng: random.Random) -> tuple[str, Any]:
    return "/v1/messages", {
        "model": "dgemma",
        **messages(rng),
        "max_tokens": rng.randint(1, 48),
        **streamed(rng),
    }


def ollama(rng: random.Random) -> tuple[str, Any]:
    settings = {"options": {"num_predict": rng.randint(1, 48), "seed": 1}, "stream": rng.random() < 0.5}
    if rng.random() < 0.5:
        return "/api/generate", {"model": "dgemma", "prompt": words(rng, 12), **settings}
    return "/api/chat", {"model": "dgemma", **messages(rng), **settings}


def gap(rng: random.Random) -> tuple[str, Any]:
    before, after = words(rng, 20), words(rng, 10)
    asked: tuple[tuple[str, Any], ...] = (
        ("/infill", {"input_prefix": before, "input_suffix": after, "n_predict": 8}),
        ("/v1/fim/completions", {"prompt": before, "suffix": after, "max_tokens": 8}),
        ("/v1/completions", {"prompt": before, "suffix": after, "max_tokens": 8}),
    )
    return rng.choice(asked)


def edit(rng: random.Random) -> tuple[str, Any]:
    document = words(rng, 24)
    spans = {"spans": [[2, 12]]}
    return "/v1/canvas", {
        "task": "edit",
        "document": document,
        "instruction": "rename it",
        **spans,
        "seed": 1,
    }


def canvas(rng: random.Random) -> tuple[str, Any]:
    return "/v1/canvas", {"task": "complete", "prompt": words(rng, 12), **short(rng)}


def decision(rng: random.Random) -> tuple[str, Any]:
    question = {"type": "noul", "instructions": "Is it a name?"}
    return "/v1/decisions", {
        "state": words(rng, 40),
        "questions": {"q": question},
        "steps": rng.randint(1, 4),
    }


def tokens(rng: random.Random) -> tuple[str, Any]:
    return "/tokenize", {"content": words(rng, 200)}


def malformed(rng: random.Random) -> tuple[str, Any]:
    body = json.dumps({"prompt": words(rng, 6), "max_tokens": 4}).encode()
    bad: tuple[Any, ...] = (
        b"{", b"", b"[1]", body[: rng.randrange(len(body))], b"[" * 500, b"\xff" + body, {"prompt": 3},
        {"prompt": "a", "max_tokens": "many"}, {"prompt": "a", "nope": 1}, {"prompt": "a", "regex": "("},
        {"prompt": "a", "json_schema": {"type": "nothing"}}, {"prompt": "a", "temperature": 10**400}, b" " * (9 * 2**20),
    )  # fmt: skip
    return rng.choice(
        ("/v1/completions", "/v1/completions", "/v1/chat/completions", "/no/such/route")
    ), rng.choice(bad)


KINDS: dict[Make, int] = {  # and how often each is asked, among the others
    completion: 6, several: 1, sampled: 2, long_prompt: 2, large_body: 1, chat: 5, form: 2, expression: 1, tools: 2,
    responses: 2, anthropic: 2, ollama: 3, gap: 3, edit: 1, canvas: 2, decision: 2, tokens: 1, malformed: 3,
}  # fmt: skip


@dataclass
class Sample:
    """What the service held at one time."""

    seconds: float  # since the beginning
    memory: float  # MB resident, of the process and its children
    descriptors: int
    threads: int
    open: int  # requests
    prefixes: float  # MB of the prefix cache, which fills until it has its share


@dataclass
class Tally:
    """What became of the requests."""

    statuses: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by kind, conduct and status
    seconds: defaultdict[str, list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )  # of whole answers, by kind
    faults: list[str] = field(default_factory=list)  # each answer of 5xx that does not ask to come again


class Client:
    """One client after another: it connects, asks and behaves as it is told."""

    def __init__(self, port: int, tally: Tally, rng: random.Random):
        self.port, self.tally, self.rng = port, tally, rng

    async def run(self, until: float) -> None:
        kinds, weights = [*KINDS], [*KINDS.values()]
        while time.monotonic() < until:
            kind, conduct = self.rng.choices(kinds, weights)[0], self.rng.choice(CONDUCTS)
            start = time.monotonic()
            try:
                async with asyncio.timeout(200):
                    status = await self.ask(kind, conduct)
            except TimeoutError:
                status = "none in 200 s"
                self.tally.faults.append(f"{kind.__name__}, {conduct}: no end in 200 s")
            except (OSError, EOFError):
                status = "cut"
            self.tally.statuses[kind.__name__, conduct, status] += 1
            if conduct == "normal" and status == "200":
                self.tally.seconds[kind.__name__].append(time.monotonic() - start)

    async def ask(self, kind: Make, conduct: str) -> str:
        """-> the status, or what came in its place."""
        path, body = kind(self.rng)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with connection(self.port, slow=conduct == "reads slowly") as (reader, writer):
            writer.write(request(path, self.rng.choice(KEYS), data))
            if conduct in ("leaves", "resets"):
                await asyncio.sleep(self.rng.random() ** 2)
                if conduct == "resets":
                    hard = writer.get_extra_info("socket")
                    hard.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return conduct
            with contextlib.suppress(ConnectionError):  # what is refused is answered before it is read
                await writer.drain()
            answer = await self.read(reader, slow=conduct == "reads slowly")
        return self.note(kind.__name__, conduct, answer)

    async def read(self, reader: asyncio.StreamReader, slow: bool) -> bytes:
        answer = b""
        size = 64 if slow else 2**16
        end = time.monotonic() + 20
        while part := await reader.read(size):
            answer += part
            if slow and time.monotonic() < end:
                await asyncio.sleep(0.05)
        return answer

    def note(self, kind: str, conduct: str, answer: bytes) -> str:
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head:
            return "cut"
        status = head.split(b" ", 2)[1].decode()
        later = status == "503" and b"\r\nretry-after:" in head.lower()
        if (status >= "500" and not later) or b'"code":500' in body:
            self.tally.faults.append(f"{kind}, {conduct}: {status} {body[-200:]!r}")
        return f"{status}, later" if later else status


@contextlib.asynccontextmanager
async def connection(
    port: int, slow: bool
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection; `slow`: with buffers so small that what is not read stays with the service."""
    plain = socket.socket()
    plain.setblocking(False)
    if slow:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096 if slow else 2**16)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def request(path: str, key: str, data: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Service:
    """The process that is asked."""

    def __init__(self, flags: list[str]):
        self.keys = tempfile.NamedTemporaryFile("w", suffix=".keys")  # noqa: SIM115  (as long as the service)
        self.keys.write("".join(f"{key}\n" for key in (f"operator {OPERATOR}", *KEYS)))
        self.keys.flush()
        command = [
            sys.executable,
            "-m",
            "dgemma.cli.main",
            "serve",
            "--port",
            "0",
            "--api-key-file",
            self.keys.name,
            *flags,
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        url = (
            next(line for line in self.process.stderr if " answers at " in line)
            .partition(" answers at ")[2]
            .split()[0]
        )
        self.port = int(url.rpartition(":")[2])

    def gauges(self) -> dict[str, float]:
        import urllib.request

        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/metrics", headers={"x-api-key": OPERATOR}
        )
        text = urllib.request.urlopen(asked, timeout=60).read().decode()
        return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}

    def sample(self, seconds: float) -> Sample:
        """What the process holds; its children's memory is counted, for compilers may be such."""
        place = Path(f"/proc/{self.process.pid}")
        children = (place / f"task/{self.process.pid}/children").read_text().split()
        memory = sum(filter(None, (field_of(pid, "VmRSS") for pid in (str(self.process.pid), *children))))
        threads = field_of(str(self.process.pid), "Threads") or 0
        descriptors = len([*(place / "fd").iterdir()])
        gauges = self.gauges()
        cached = gauges["dgemma_prefix_bytes"] / 2**20
        return Sample(
            seconds, memory / 1024, descriptors, threads, int(gauges["dgemma_requests_open"]), cached
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def field_of(pid: str, name: str) -> int | None:
    """A number of /proc/PID/status; None where the process has gone."""
    try:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def slope_of(samples: list[Sample]) -> tuple[float, float]:
    """(MB a minute, its standard error), from the means of BLOCKS blocks."""
    size = len(samples) // BLOCKS
    blocks = (
        [samples[place * size : (place + 1) * size] for place in range(BLOCKS)]
        if size
        else [[one] for one in samples]
    )
    if len(blocks) < 3:
        return 0.0, float("inf")
    minutes = [statistics.mean(one.seconds for one in block) / 60 for block in blocks]
    memory = [statistics.mean(one.memory for one in block) for block in blocks]
    slope, start = statistics.linear_regression(minutes, memory)
    rest = sum((value - start - slope * at) ** 2 for at, value in zip(minutes, memory, strict=True))
    spread = sum((at - statistics.mean(minutes)) ** 2 for at in minutes)
    return slope, (rest / (len(blocks) - 2) / spread) ** 0.5


async def soak(service: Service, seconds: float, clients: int, seed: int) -> tuple[Tally, list[Sample]]:
    tally, samples = Tally(), []
    start = time.monotonic()
    until = start + seconds
    asking = [
        asyncio.create_task(Client(service.port, tally, random.Random(f"{seed}/{number}")).run(until))
        for number in range(clients)
    ]
    while time.monotonic() < until:
        await asyncio.sleep(SAMPLE_SECONDS)
        samples.append(await asyncio.to_thread(service.sample, time.monotonic() - start))
        if len(samples) % 12 == 0:
            last = samples[-1]
            line = f"{last.seconds / 60:.0f} min: {last.memory:.0f} MB, {last.prefixes:.0f} of it prefixes, "
            line += f"{last.descriptors} descriptors, {last.threads} threads"
            print(f"{line}, {tally.statuses.total()} requests, {len(tally.faults)} faults", flush=True)
    await asyncio.gather(*asking)
    return tally, samples


def come_to_rest(service: Service) -> dict[str, float]:
    """The gauges once nothing is open any more, or after IDLE_SECONDS."""
    end = time.monotonic() + IDLE_SECONDS
    while any(service.gauges()[name] for name in GAUGES) and time.monotonic() < end:
        time.sleep(1)
    return {name: service.gauges()[name] for name in GAUGES}


def report(
    tally: Tally, samples: list[Sample], before: Sample, after: Sample, left: dict[str, float]
) -> list[str]:
    """Print what happened. -> what must not have."""
    for (kind, conduct, status), count in sorted(tally.statuses.items()):
        print(f"  {kind:12} {conduct:12} {status:12} {count:6}")
    for kind, seconds in sorted(tally.seconds.items()):
        ordered = sorted(seconds)
        print(
            f"  {kind:12} median {statistics.median(ordered):.2f} s, p99 {ordered[int(0.99 * len(ordered))]:.2f} s, n={len(ordered)}"
        )
    slope, error = slope_of(samples[len(samples) // 2 :])
    peak = max(sample.memory for sample in samples)
    print(
        f"memory: {before.memory:.0f} MB before, at most {peak:.0f}, {after.memory:.0f} at rest; slope of the last half ",
        end="",
    )
    print(f"{slope:+.2f} MB a minute, standard error {error:.2f}")
    cached = [sample.prefixes for sample in samples]
    print(
        f"of it the prefix cache: {cached[len(cached) // 2]:.0f} MB at half of the time, {cached[-1]:.0f} at the end"
    )
    print(
        f"at rest: {after.descriptors} descriptors (before {before.descriptors}), {after.threads} threads; {left}"
    )
    wrong = tally.faults[:20]
    if any(left.values()):
        wrong.append(f"something is open or held at rest: {left}")
    if after.descriptors > before.descriptors + 2:
        wrong.append(f"{after.descriptors - before.descriptors} descriptors were not given back")
    if slope > 2 * error:
        wrong.append(f"memory grows by {slope:.2f} MB a minute")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=12, help="that ask at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="a CSV file for the samples")
    parser.add_argument("flags", nargs="*", help="for dgemma serve; default: --memory 1200MB")
    asked = parser.parse_args()
    service = Service(asked.flags or ["--memory", "1200MB"])
    try:
        before = service.sample(0.0)
        tally, samples = asyncio.run(soak(service, 60 * asked.minutes, asked.clients, asked.seed))
        left = come_to_rest(service)
        time.sleep(2)
        after = service.sample(60 * asked.minutes)
    finally:
        code = service.stop()
    if asked.rows is not None:
        with asked.rows.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["seconds", "memory_mb", "descriptors", "threads", "open", "prefixes_mb"])
            for s in samples:
                row = [
                    round(s.seconds, 1),
                    round(s.memory, 1),
                    s.descriptors,
                    s.threads,
                    s.open,
                    round(s.prefixes, 1),
                ]
                writer.writerow(row)
    wrong = report(tally, samples, before, after, left)
    if code != 0:
        wrong.append(f"the service left with {code}")
    for line in wrong:
        print(f"WRONG: {line}")
    print("the service holds" if not wrong else f"{len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
