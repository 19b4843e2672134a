"""Captured steps against eager ones: the same records, bit for bit, on a stand-in that keeps what a CUDA graph keeps."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from dgemma.config import DenoiseConfig, EngineConfig  # noqa: E402
from dgemma.config.formats import Format  # noqa: E402
from dgemma.engine import graphs  # noqa: E402
from dgemma.engine.engine import Engine  # noqa: E402
from dgemma.engine.requests import Request  # noqa: E402
from dgemma.kernels.quant.formats import empty  # noqa: E402
from dgemma.kernels.triton import attention as attention_triton  # noqa: E402
from dgemma.model.passes import Pass  # noqa: E402
from tests.engine import recorder  # noqa: E402
from tests.helpers import lively_model, tiny_config  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow)")
WIDTH = 4
ROOMY = EngineConfig(prefill_chunk=8, memory=2**40, prefix_cache=0)


@pytest.fixture(autouse=True)
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton forms, whose attention loops as far as any context of these tests (on a card it reads how far from the tables)."""
    monkeypatch.setenv("DGEMMA_KERNELS", "triton")
    make = attention_triton.Spans.__init__

    def roomy(self, *arguments) -> None:
        make(self, *arguments)
        self.most_keys = 64

    monkeypatch.setattr(attention_triton.Spans, "__init__", roomy)


@pytest.fixture(scope="module")
def model():
    return lively_model(tiny_config("SF", canvas_length=WIDTH, num_experts=2), seed=7, sharpness=4.0)


def request(length: int, canvases: int, seed: int, **changes) -> Request:
    settings = {
        "max_denoising_steps": 3,
        "stability_threshold": 99,
        "entropy_bound": 1.0,
        "eos_token_id": None,
    }
    return Request(tuple(range(1, 1 + length)), canvases * WIDTH, seed, DenoiseConfig(**settings | changes))


def told(engine: Engine, requests: list[Request], late: int = 0) -> list[list]:
    """The records of each request; from the second on they are submitted `late` passes apart."""
    records, waiting, tickets = defaultdict(list), list(enumerate(requests)), {}
    while (waiting or not engine.idle) and engine.passes < 16:  # a broken twin may never end
        if waiting and (engine.idle or engine.passes >= late * waiting[0][0]):
            index, one = waiting.pop(0)
            tickets[engine.submit(one)] = index
        engine.advance()
        for ticket, index in tickets.items():
            records[index] += [record.of(index) for record in engine.poll(ticket)]
    return [records[index] for index in range(len(requests))]


def captured(model, **changes) -> Engine:
    engine = Engine(model, ROOMY)
    engine.graphs = graphs.Graphs(model, recorder.capture, **changes)
    return engine


MIXES = {
    "one": ([request(9, 2, 1)], 0),
    "two that start together": (
        [request(4, 1, 1, max_denoising_steps=5), request(7, 1, 2, max_denoising_steps=4)],
        0,
    ),
    "three that come and go": (
        [request(3, 2, 1), request(9, 1, 2), request(6, 1, 3, max_denoising_steps=4)],
        3,
    ),
}


def eagerly(model, mix: str) -> list[list]:
    if mix not in _eager:
        _eager[mix] = told(Engine(model, ROOMY), *MIXES[mix])
    return _eager[mix]


_eager: dict[str, list[list]] = {}


@pytest.mark.parametrize(
    "mix", [pytest.param(name, marks=pytest.mark.slow if "three" in name else ()) for name in MIXES]
)
def test_captured_steps_tell_what_eager_ones_tell(model, mix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replays, run = [], graphs.Step.run
    monkeypatch.setattr(
        graphs.Step,
        "run",
        lambda self, batch, capture: (replays.append(self.replay is not None), run(self, batch, capture))[1],
    )
    got = told(captured(model), *MIXES[mix])
    assert sum(replays) >= 2, "nothing was replayed"
    same = got == eagerly(model, mix)
    assert same and all(records[-1].finish_reason == "length" for records in got)


def test_sequences_are_not_kept_alive_by_a_graph(model) -> None:
    engine = captured(model)
    told(engine, [request(9, 2, 1)])
    assert engine.graphs.steps and not engine.scheduler.taken
    assert all(step.context.spans == [] for step in engine.graphs.steps.values())


def test_a_host_read_is_refused(model) -> None:
    with pytest.raises(recorder.HostRead):
        recorder.capture(lambda: torch.ones(1).sum().item())


@pytest.mark.parametrize("twin", ["tables that stay", "a state that stays", "beliefs that stay"])
def test_a_buffer_that_is_not_refreshed_shows(model, twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin == "tables that stay":
        monkeypatch.setattr(Pass, "becomes", lambda self, other: None)
    elif twin == "a state that stays":
        load = graphs.Step._load_canvases
        monkeypatch.setattr(
            graphs.Step, "_load_canvases", lambda self, batch: None if self.replay else load(self, batch)
        )
    else:
        body = graphs.Step._body
        monkeypatch.setattr(graphs.Step, "_body", lambda self: (body(self), self.known.fill_(False))[0])
    same = told(captured(model), *MIXES["one"]) == eagerly(model, "one")
    assert not same


def test_what_cannot_be_captured_is_not(model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not graphs.can_capture(model) and Engine(model, ROOMY).graphs is None  # no card here


@pytest.mark.parametrize(("name", "captured"), [("int4", True), ("q8_0", False)])
def test_experts_that_are_counted_on_the_host_are_not_captured(name: str, captured: bool) -> None:
    """On a card, GGUF's blocks go through the torch form, which reads how many rows each expert has."""
    form = Format(name)
    experts = SimpleNamespace(
        gate_up_proj=empty(form, (2, 32, 32), "meta"), down_proj=empty(form, (2, 32, 32), "meta")
    )
    weight = SimpleNamespace(is_cuda=True, requires_grad=False, element_size=lambda: 2)
    card = SimpleNamespace(
        norm=SimpleNamespace(weight=weight), embed=SimpleNamespace(weight=torch.ones(1)),
        layers=[SimpleNamespace(experts=experts)], config=SimpleNamespace(layers=[SimpleNamespace(head_dim=16)]),
    )  # fmt: skip
    assert graphs.can_capture(card) == captured
