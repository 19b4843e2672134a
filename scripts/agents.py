"""Codex, Claude Code and OpenCode, each through one whole turn against `dgemma serve` with the model that ships, started by `dgemma launch`.

    python scripts/agents.py [codex|claude|opencode ...]

Needs npm, which installs them into .agents/. Between client and service stands a relay on loopback that counts what was asked and answered. The
shipped model is no agent, so the relay asks for one harmless call in the first request that offers tools (the client must run it and
send its result), and puts a limit and stop strings into the others, since this model seldom comes to an end by itself. Each client has a
home and a repository of its own, which are thrown away. Ends with 0 if each client ran its call, ended with 0 and showed what the service had said.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "codex": "@openai/codex@0.171.0",
    "claude": "@anthropic-ai/claude-code@2.1.197",
    "opencode": "opencode-ai@1.18.33",
}
TURNS = {
    "codex": ["exec", "--skip-git-repo-check", "Say hello."],
    "claude": ["-p", "Say hello."],
    "opencode": ["run", "Say hello."],
}
CALLED = {"codex": "get_goal", "claude": "Read", "opencode": "glob"}  # they change nothing
STOPS = {"/v1/messages": "stop_sequences"}  # elsewhere: stop
MOST = 256  # tokens of an answer
SECONDS = 240  # for one client
KEPT = ("content-type", "retry-after")
DGEMMA = [sys.executable, "-m", "dgemma.cli.main"]


class Relay(BaseHTTPRequestHandler):
    """Passes a request on, and its answer back as it comes; what both were like is added to `seen`."""

    protocol_version = "HTTP/1.1"
    service = ""  # host:port
    call = ""  # of this tool is asked for once
    seen: list[dict[str, Any]] = []

    def pass_on(self) -> None:
        body, path = (
            self.rfile.read(int(self.headers.get("content-length") or 0)),
            self.path.partition("?")[0],
        )
        row: dict[str, Any] = {"asked": f"{self.command} {path}", "bytes": len(body)}
        self.seen.append(row)
        if (
            self.command == "POST"
            and isinstance(asked := json.loads(body), dict)
            and "model" in asked
            and "count" not in path
        ):
            row |= {"tools": len(asked.get("tools") or ()), "stream": bool(asked.get("stream"))}
            body = json.dumps(asked | self.bounds(path, asked, row)).encode()
        start, line = time.monotonic(), http.client.HTTPConnection(self.service, timeout=SECONDS)
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("host", "connection", "content-length")
        }
        line.request(self.command, self.path, body or None, headers)
        reply = line.getresponse()
        self.send_response(reply.status)
        for name in KEPT:
            if value := reply.getheader(name):
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        text = b""
        while part := reply.read1():
            row.setdefault("first", round(time.monotonic() - start, 1))
            text += part
            self.wfile.write(part)
            self.wfile.flush()
        row |= {
            "status": reply.status,
            "whole": round(time.monotonic() - start, 1),
            **figures(text.decode("utf-8", "replace")),
        }
        self.close_connection = True

    def bounds(self, path: str, asked: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        """What is put into a request."""
        limit = (
            {"max_tokens": MOST} if "max_tokens" in asked else {}
        )  # Codex sends none: the service's default holds
        if not self.call or not row["tools"]:
            return limit | {STOPS.get(path, "stop"): ["\n", " ", "("]}
        row["call"], Relay.call = self.call, ""
        name = {"name": row["call"]}
        chosen = {"/v1/messages": {"type": "tool"} | name, "/v1/responses": {"type": "function"} | name}
        return limit | {"tool_choice": chosen.get(path, {"type": "function", "function": name})}

    do_GET = do_POST = do_HEAD = pass_on

    def log_message(self, *_: Any) -> None:
        pass


def figures(text: str) -> dict[str, Any]:
    """Usage, and what was said, from an answer's text in any of the dialects."""
    found = {}
    for name, pattern in (
        ("prompt", r'"(?:input|prompt)_tokens":(\d+)'),
        ("new", r'"(?:output|completion)_tokens":(\d+)'),
    ):
        if numbers := re.findall(pattern, text):
            found[name] = int(numbers[-1])
    text_of = r'"%s":("(?:[^"\\]|\\.)+")'
    deltas = re.findall(text_of % "delta", text) or re.findall(text_of % "(?:content|text)" + "}", text)
    return found | {"said": "".join(map(json.loads, deltas))} if deltas else found


def turn(client: str, url: str) -> bool:
    """One client's turn; whether it ended well and showed what was said."""
    Relay.seen.clear()
    Relay.call = CALLED[client]
    with tempfile.TemporaryDirectory() as home:
        work = Path(home) / "work"
        work.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=work, check=True)
        path = os.pathsep.join([str(ROOT / ".agents/node_modules/.bin"), os.environ["PATH"]])
        command, environment = (
            [*DGEMMA, "launch", client, "--url", url, "--", *TURNS[client]],
            os.environ | {"HOME": home, "PATH": path},
        )
        start = time.monotonic()
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
        )
    seconds = time.monotonic() - start
    for row in Relay.seen:
        print(json.dumps(row))
    turns = [row for row in Relay.seen if row.get("tools") and row.get("status") == 200]
    said = turns[-1].get("said", "").strip() if turns else ""
    good = done.returncode == 0 and len(turns) > 1 and "call" in turns[0] and said in done.stdout
    print(
        f"{client} {PACKAGES[client].rpartition('@')[2]}: exit {done.returncode} in {seconds:.0f} s, showed {done.stdout.strip()!r:.200}"
    )
    print("passed" if good else "FAILED", flush=True)
    return good


def main(clients: list[str]) -> int:
    subprocess.run(
        ["npm", "install", "--silent", "--prefix", ROOT / ".agents", *(PACKAGES[name] for name in clients)],
        check=True,
    )
    with subprocess.Popen(
        [*DGEMMA, "serve", "--port", "0", "--max-tokens", str(MOST)], stderr=subprocess.PIPE, text=True
    ) as service:
        try:
            line = next(line for line in service.stderr if " answers at " in line)
            Relay.service = line.partition(" answers at http://")[2].split()[0]
            relay = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            results = [turn(client, f"http://127.0.0.1:{relay.server_port}") for client in clients]
        finally:
            service.terminate()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(TURNS)))
