"""The least of the hub's HTTP interface, on 127.0.0.1: model info, HEAD and ranged GET of files, and its bad days."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 1 << 16  # bytes that are written at a time
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server serves and how it misbehaves; `log` holds (method, path, range) per request."""

    name: str
    files: dict[str, bytes]
    commit: str = COMMIT
    token: str | None = None  # required, where given
    refuse: tuple[int, str] | None = None  # status and X-Error-Code for every answer
    refuse_files: tuple[int, str] | None = None  # the same for files alone
    cut: dict[str, list[int]] = field(default_factory=dict)  # file -> after how many bytes, once each
    damaged: set[str] = field(default_factory=set)
    ranges: bool = True
    sent: int = 0  # bytes of all answers
    cdn: bool = False  # large files come from another host name, as on the hub
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    change: Callable[[dict], object] = lambda info: info  # what becomes of the model's description
    leaked: bool = False  # the token reached the other host
    url: str = ""

    def is_large(self, file: str) -> bool:
        return file.lower().endswith((".safetensors", ".gguf")) or file == "tokenizer.json"

    def digest(self, file: str) -> str:
        content = self.files[file]
        if self.is_large(file):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def info(self) -> dict:
        siblings = []
        for file, content in self.files.items():
            entry = {"rfilename": file, "size": len(content), "blobId": self.digest(file)}
            if self.is_large(file):
                entry["blobId"] = "f" * 40
                entry["lfs"] = {"size": len(content), "sha256": self.digest(file), "pointerSize": 130}
            siblings.append(entry)
        info = {"id": self.name, "sha": self.commit, "siblings": siblings}
        return self.change(info) or info

    def described(self) -> bytes:
        info = self.info()
        return info if isinstance(info, bytes) else json.dumps(info).encode()

    def fetched(self, file: str) -> list[str | None]:
        """The Range header of each GET of a file."""
        return [ranged for method, path, ranged in self.log if method == "GET" and path.endswith("/" + file)]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.log.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/cdn/"):
            hub.leaked |= "Authorization" in self.headers
            return self._file(path.removeprefix("/cdn/"), body)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._error(401, "RepoNotFound")
        if hub.refuse:
            return self._error(*hub.refuse)
        if path in (f"/api/models/{hub.name}", f"/api/models/{hub.name}/revision/main"):
            return self._send(200, hub.described(), {"Content-Type": "application/json"}, body)
        if path.startswith(f"/api/models/{hub.name}/revision/"):
            return self._error(404, "RevisionNotFound")
        prefix = f"/{hub.name}/resolve/{hub.commit}/"
        if not path.startswith(prefix):
            return self._error(404, "RepoNotFound")
        if hub.refuse_files:
            return self._error(*hub.refuse_files)
        self._file(path.removeprefix(prefix), body)

    def _file(self, file: str, body: bool) -> None:
        hub = self.hub
        if file not in hub.files:
            return self._error(404, "EntryNotFound")
        content = bytearray(hub.files[file])
        if file in hub.damaged:
            content[len(content) // 2] ^= 1
        headers = {
            "X-Repo-Commit": hub.commit,
            "ETag": f'"{hub.digest(file)}"',
            "X-Linked-Size": str(len(content)),
        }
        if hub.cdn and hub.is_large(file) and not self.path.startswith("/cdn/"):
            headers["Location"] = hub.url.replace("127.0.0.1", "localhost") + "/cdn/" + file
            headers["X-Linked-ETag"] = headers.pop("ETag")
            return self._send(302, b"", headers, body)
        status, ranged = 200, self.headers.get("Range")
        if ranged and hub.ranges:
            start, _, last = ranged.removeprefix("bytes=").partition("-")
            own = slice(int(start), min(int(last) + 1 if last else len(content), len(content)))
            headers["Content-Range"] = f"bytes {own.start}-{own.stop - 1}/{len(content)}"
            status, content = 206, content[own]
        cuts = hub.cut.get(file, []) if body else []
        self._send(status, bytes(content), headers, body, cuts.pop(0) if cuts else None)

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"}, self.command == "GET")

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], body: bool, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        content = (content if cut is None else content[:cut]) if body else b""
        for start in range(0, len(content), PIECE):
            try:
                self.wfile.write(content[start : start + PIECE])
            except ConnectionError:  # the client has seen enough
                self.close_connection = True
                return
            self.hub.sent += len(content[start : start + PIECE])
        if cut is not None:
            self.close_connection = True
