"""What server/http.py takes from the inside of uvicorn is there, in every version that pyproject.toml lets in.

What it does with them is tested over real sockets, in test_http.py; `make test-all` runs both with the oldest version and the newest.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from dgemma.server.http import Connection, Server

ROOT = Path(__file__).resolve().parents[2]
# by class: what is overridden, with the names of its parameters
OVERRIDDEN: dict[tuple[type, type], dict[str, tuple[str, ...]]] = {
    (Connection, H11Protocol): {
        "connection_made": ("transport",),
        "connection_lost": ("exc",),
        "data_received": ("data",),
        "pause_writing": (),
        "resume_writing": (),
        "on_response_complete": (),
        "timeout_keep_alive_handler": (),
        "send_400_response": ("msg",),
    },
    (Server, uvicorn.Server): {
        "startup": ("sockets",),
        "handle_exit": ("sig", "frame"),
        "on_tick": ("counter",),
    },
}
READ = {
    H11Protocol: ("client", "connections", "conn", "cycle", "loop", "transport"),
    RequestResponseCycle: ("response_complete",),
    uvicorn.Server: ("should_exit",),
}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def parameters(method: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(method).parameters)[1:]


def overridden(ours: type, theirs: type) -> set[str]:
    """The methods of a class that its base in uvicorn has as well."""
    return {name for name in vars(ours) if not name.startswith("__") and hasattr(theirs, name)}


@pytest.mark.parametrize(("ours", "theirs"), [*OVERRIDDEN])
def test_what_is_overridden_is_named_here_and_there_in_uvicorn(ours: type, theirs: type) -> None:
    assert overridden(ours, theirs) == set(OVERRIDDEN[ours, theirs])
    for name, expected in OVERRIDDEN[ours, theirs].items():
        assert parameters(getattr(theirs, name)) == expected, name


def test_a_method_that_uvicorn_renames_is_seen() -> None:
    class Renamed(H11Protocol):
        send_400_response = None

        def send_error_response(self, msg: str) -> None: ...

    assert overridden(Connection, Renamed) == overridden(Connection, H11Protocol)
    with pytest.raises(TypeError):
        parameters(Renamed.send_400_response)


@pytest.mark.parametrize("kind", [*READ])
def test_what_is_read_is_set_by_uvicorn(kind: type) -> None:
    source = inspect.getsource(kind)
    for name in READ[kind]:
        assert re.search(rf"\bself\.{name}\b[^=\n]*=[^=]", source), name


def test_the_range_is_what_the_two_ends_are_tested_with() -> None:
    """A newer version is let in when its tests have passed: the upper bound and newest.txt move together."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (line,) = [one for one in project["optional-dependencies"]["serve"] if one.startswith("uvicorn")]
    bounds = re.fullmatch(r"uvicorn>=([\d.]+),<([\d.]+)", line)
    assert bounds is not None
    ends = {}
    for end in ("oldest", "newest"):
        text = (ROOT / "tests" / "range" / f"{end}.txt").read_text(encoding="utf-8")
        (ends[end],) = re.findall(r"^uvicorn==([\d.]+)$", text, re.MULTILINE)
    assert numbers(bounds[1]) == numbers(ends["oldest"])[: len(numbers(bounds[1]))]
    major, minor = numbers(ends["newest"])[:2]
    assert numbers(bounds[2]) == (major, minor + 1)
    assert numbers(bounds[1]) <= numbers(version("uvicorn")) < numbers(bounds[2])
