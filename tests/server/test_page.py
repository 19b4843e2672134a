"""The page's files: each is served, asked for, small, and leads nowhere else. What a browser makes of them is in test_browser.py."""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
from collections.abc import Callable
from importlib.resources import files

import pytest
from starlette.testclient import TestClient

from dgemma.server.page import ASSETS, KINDS

Client = Callable[..., TestClient]
OWN = sorted(name for name in ASSETS if not name.startswith("vendor/"))
VENDORED = sorted(name for name in ASSETS if name.startswith("vendor/") and name.endswith((".js", ".mjs")))
MOST_BYTES = 120 * 1024  # of all that a browser loads, gzip
ADDRESS = re.compile(r"(?:https?:)?//[\w-]+\.\w+")
REFERENCES = re.compile(r"""(?:\bfrom |\bimport |(?:src|href)=)["']([^"'#]+)["']""")


def text(name: str) -> str:
    return ASSETS[name].body.decode()


def references(name: str) -> set[str]:
    """The files of web/ that a file asks for. Vendored ones stand alone: what looks like a name there is a template."""
    if name.startswith("vendor/"):
        return set()
    found = REFERENCES.findall(text(name))
    return {
        posixpath.normpath(posixpath.join("/web", posixpath.dirname(name), one)).removeprefix("/web/")
        for one in found
    }


def code(name: str) -> str:
    return re.sub(r"/\*.*?\*/|^\s*//.*$", "", text(name), flags=re.S | re.M)


def test_the_page_is_open_and_what_it_asks_for_is_not(client: Client) -> None:
    asking = client(keys=("right",))
    reply = asking.get("/")
    assert (
        reply.status_code == 200
        and reply.content == ASSETS["index.html"].body
        and asking.head("/").status_code == 200
    )
    assert asking.get("/web/app.js").status_code == 200
    assert asking.get("/props").status_code == 401 and asking.post("/v1/canvas", json={}).status_code == 401


@pytest.mark.parametrize("name", sorted(ASSETS))
def test_every_file_is_served_with_its_kind_and_its_guards(client: Client, name: str) -> None:
    reply = client().get(f"/web/{name}")
    assert reply.status_code == 200 and reply.content == ASSETS[name].body
    ending = "." + name.rpartition(".")[2]
    assert reply.headers["content-type"] == KINDS.get(ending, "text/plain; charset=utf-8")
    assert (
        reply.headers["x-content-type-options"] == "nosniff" and reply.headers["cache-control"] == "no-cache"
    )
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    want = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
    }
    assert policy == want | dict.fromkeys(["base-uri", "form-action", "frame-ancestors"], "'none'")


def test_a_file_that_is_known_is_not_sent_again(client: Client) -> None:
    asking = client()
    tag = asking.get("/web/app.js").headers["etag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        reply = asking.get("/web/app.js", headers={"if-none-match": known})
        assert reply.status_code == 304 and not reply.content and reply.headers["etag"] == tag
    assert asking.get("/web/app.js", headers={"if-none-match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/web/", "/web/nothing.js", "/web/../page.py", "/web/%2e%2e/page.py", "/web//etc/passwd", "/web/vendor"],
)
def test_nothing_else_is_served(client: Client, path: str) -> None:
    reply = client().get(path)
    assert reply.status_code == 404 and "error" in reply.json()


def test_every_file_that_is_asked_for_exists_and_every_file_is_asked_for() -> None:
    asked, waiting = {"index.html"}, ["index.html"]
    while waiting:
        new = references(waiting.pop()) - asked
        assert new <= set(ASSETS), new - set(ASSETS)
        asked |= new
        waiting += sorted(new)
    beside = {
        name for name in ASSETS if name.startswith("vendor/") and (name.endswith(".md") or "/LICENSE" in name)
    }
    assert asked | beside == set(ASSETS)
    assert sum(len(gzip.compress(ASSETS[name].body)) for name in asked) < MOST_BYTES


@pytest.mark.parametrize("name", OWN)
def test_own_files_name_no_other_address_and_open_with_their_purpose(name: str) -> None:
    found = text(name)
    assert not ADDRESS.search(found.replace("http://www.w3.org/2000/svg", "")), "an address of somebody else"
    assert name.endswith(".svg") or found.lstrip().startswith(("// ", "/* ", "<!doctype html>\n<!-- "))
    assert len(found.splitlines()) < 250 and not re.search(
        r"\beval\(|new Function|innerHTML\s*=|\bstyle=", found
    )
    assert name == "answer.js" or "dangerouslySetInnerHTML" not in found


def test_what_is_looked_for_would_be_found() -> None:
    for bad in ("https://a.example/x.js", "//cdn.example/x", 'fetch("http://b.example")'):
        assert ADDRESS.search(bad)
    assert references("index.html") >= {"app.js", "style.css"} and "recording.js" in references("canvas.js")


@pytest.mark.parametrize("name", VENDORED)
def test_vendored_files_are_those_that_are_named_and_have_a_licence(name: str) -> None:
    folder, file = posixpath.split(name)
    row = next(line for line in text("vendor/README.md").splitlines() if name.removeprefix("vendor/") in line)
    assert hashlib.sha256(ASSETS[name].body).hexdigest() in row
    assert any(other.startswith(f"{folder}/LICENSE") for other in ASSETS)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|\bimport\b|sendBeacon|EventSource", code(name))


def test_the_files_lie_in_the_package() -> None:
    assert {entry.name for entry in (files("dgemma.server") / "web").iterdir()} == {
        name.split("/")[0] for name in ASSETS
    }
