"""How long an answer may be whose request names no limit: the service's default, cut to the room that there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.cli.main import main
from dgemma.cli.serve import TURN
from dgemma.config import EngineConfig
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request
from tests.helpers import tiny_checkpoint

Client = Callable[..., TestClient]
ASKED = {"prompt": "abc", "seed": 0}


@pytest.mark.parametrize(
    ("tuned", "flags", "want"), [(True, (), TURN), (False, (), 20), (True, ("--max-tokens", "9"), 9)]
)
def test_the_default_of_the_service(
    tmp_path, monkeypatch: pytest.MonkeyPatch, tuned: bool, flags: tuple[str, ...], want: int
) -> None:
    """A chat-tuned model ends its turns itself and gets room for them; another one keeps its checkpoint's 20."""
    from dgemma.server import http

    served: list[Any] = []
    monkeypatch.setattr(http, "serve", lambda app, *_: served.append(app))
    folder = tiny_checkpoint(tmp_path / "model")
    if tuned:
        (folder / "chat_template.jinja").write_text("{{ turns }}")
    assert main(["serve", "-m", str(folder), "--port", "0", *flags]) == 0
    with TestClient(served[0], base_url="http://localhost") as client:
        assert client.get("/props").json()["default_generation_settings"]["max_new_tokens"] == want
        reply = client.post("/v1/completions", json=ASKED).json()
    room = (512 - 4) // 12 * 12  # whole canvases that the positions leave
    assert reply["usage"]["completion_tokens"] == min(want, room)
    end = f"cut at {room} tokens, all that" if want > room else f"cut at {want} tokens, the default"
    assert reply["dgemma"]["notes"][-1].startswith(end)


def test_a_default_gives_way_to_memory_and_a_limit_that_was_asked_for_does_not(
    client: Client, fresh: dgemma.Model
) -> None:
    denoise = fresh.denoise
    try:
        fresh.denoise = denoise.replace(max_new_tokens=480)
        need = [fresh.engine.scheduler.need(Request((2, 30, 31, 32), length)) for length in (120, 200, 240)]
        assert need[0] < need[1] < need[2]
        fresh.engine = Engine(fresh.net, EngineConfig(memory=need[1]))
        at = client()
        reply = at.post("/v1/completions", json=ASKED).json()
        assert reply["usage"]["completion_tokens"] == 120 and reply["dgemma"]["notes"][-1].startswith(
            "cut at 120 tokens, all that"
        )
        refused = at.post("/v1/completions", json=ASKED | {"max_tokens": 480})
        assert refused.status_code == 503 and "480 new ones need" in refused.json()["error"]["message"]
    finally:
        fresh.denoise = denoise
