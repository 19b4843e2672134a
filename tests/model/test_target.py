"""Where and in what a model runs: planned from headers, on cards that are made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dgemma
from dgemma.config import EngineConfig
from dgemma.errors import ResourceError
from dgemma.hub.locate import EMBEDDED
from dgemma.memory import placement as placement_module
from dgemma.memory.plan import GIB, Memory
from dgemma.model import target
from dgemma.weights.source import source

CARD = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """card(free): this machine has a card with so many bytes free, and 64 GiB of memory."""

    def put(free: int) -> None:
        frees = {"cuda": free, "cpu": 64 * GIB}
        monkeypatch.setattr(placement_module, "free_on", lambda kind, index=None: frees[kind])
        monkeypatch.setattr("dgemma.api.loading.choose_device", lambda _: CARD)

    return put


def layout() -> Any:
    found = source(EMBEDDED)
    return found.inspect(found.config())


def test_a_card_without_room_is_refused_before_anything_is_read(
    card: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgemma.api.loading.load_model", lambda *_, **__: pytest.fail("weights were read"))
    card(GIB + 2_000_000)
    with pytest.raises(ResourceError, match="the model needs .* of weights.* the card has 1.08 GB"):
        dgemma.load()


def test_what_does_not_fit_a_card_streams_without_being_asked(
    card: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def load_model(*arguments: Any, **_: Any) -> None:
        loaded.append(arguments[3])
        raise KeyboardInterrupt

    monkeypatch.setattr("dgemma.api.loading.load_model", load_model)
    whole = placement_module.placement(layout().config, "bfloat16", "cuda", 64 * GIB).device_bytes
    for free, streams in ((64 * GIB, False), (GIB + whole, False), (GIB + whole - 1_000_000, True)):
        card(free)
        with pytest.raises(KeyboardInterrupt):
            dgemma.load(dtype="bfloat16")
        assert bool(loaded[-1].streamed) is streams and not loaded[-1].missing


def test_a_card_that_tells_nothing_is_large_enough(card: Any) -> None:
    card(0)
    place, engine = target.plan_memory(layout(), CARD, torch.bfloat16, None, may_stream=True)
    assert place is not None and place.streamed == () and engine == EngineConfig()


def test_a_dtype_that_was_asked_for_is_planned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(target, "machine", lambda: [Memory("RAM", 64 * GIB, 80 * 2**20)])
    with pytest.raises(ResourceError, match="the model needs .* and this machine has 83.89 MB free"):
        target.choose_dtype("float64", cpu, layout(), None)
    assert target.choose_dtype("float64", cpu, layout(), 80 * 2**20) == torch.float64  # layers stream
    monkeypatch.setattr(target, "machine", lambda: [Memory("RAM", 0, 0)])
    assert target.choose_dtype("float64", cpu, layout(), None) == torch.float64
