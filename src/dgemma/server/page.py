"""The page at `/`: the files of web/, as they are in the package.

Open to everybody who reaches the socket, since they hold nothing but this package; what they ask for takes
the key as ever. Trap: the policy below is all that stands between a model's words and the reader's key, so
nothing may be loosened in it: no inline script or style, no other address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .jobs import RequestError
from .routes import Page
from .schema.openai_answers import shape
from .service import Service

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
OTHER = "text/plain; charset=utf-8"  # licences
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # kept, and asked for again by its tag: a new version of the package shows at once
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class Asset:
    body: bytes
    kind: str  # media type
    tag: str  # ETag


def assets() -> dict[str, Asset]:
    """Every file of web/ by its path there, from wherever the package lies."""
    return dict(_read_folder(files(__package__) / "web", ""))


def _read_folder(folder: Traversable, prefix: str) -> Iterator[tuple[str, Asset]]:
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            yield from _read_folder(entry, f"{path}/")
            continue
        body = entry.read_bytes()
        kind = KINDS.get("." + entry.name.rpartition(".")[2], OTHER)
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        yield path, Asset(body, kind, tag)


ASSETS = assets()  # 200 kB: read once, so that no path of a request ever meets the disk


def index(service: Service, request: Any) -> Response:
    return _answer(request, ASSETS["index.html"])


def asset(service: Service, request: Any) -> Response:
    file = ASSETS.get(request.path_params["name"])
    if file is None:
        raise RequestError(404, "the page has no such file", "not_found_error")
    return _answer(request, file)


def _answer(request: Request, file: Asset) -> Response:
    headers = HEADERS | {"etag": file.tag}
    tags = request.headers.get("if-none-match", "").split(",")
    known = [tag.strip().removeprefix("W/") for tag in tags]
    if file.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers | {"content-type": file.kind})


ROUTES = (
    Page("/", index, shape, media="text/html", access="open"),
    Page("/web/{name:path}", asset, shape, media="*/*", access="open"),
)
