"""The breakdown of a step: its parts and the step agree, everything in the tables is seen, and nothing of it stays behind."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from dgemma.bench import profile as profiling
from dgemma.bench.profile import FUNCTIONS, MODULES, REST, STEP, Clock, listening, profile
from dgemma.bench.roofline import OPERATIONS, Machine
from dgemma.bench.workloads import Workload, workloads
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine.engine import Engine
from dgemma.model.dgemma import DiffusionGemma
from tests.helpers import lively_model, tiny_config

CONFIG = dataclasses.replace(tiny_config("SSF"), max_position_embeddings=4096)
MACHINE = Machine(1e12, 1e12)  # faster than any that runs this


def fixed16() -> tuple[DiffusionGemma, Workload]:
    (workload,) = workloads("fixed16", CONFIG, DenoiseConfig(), tokens=2 * CONFIG.canvas_length, prompt=40)
    return lively_model(CONFIG, seed=1), workload


def heard(model: DiffusionGemma, workload: Workload) -> Counter[str]:
    """How often each operation was timed in one run."""
    clock, engine = Clock(model.device), Engine(model, EngineConfig(prefix_cache=0))
    with listening(model, clock):
        assert [*engine.run(workload.requests)]
    return Counter(operation for operation, _, _ in clock.stretches)


def hooks(model: DiffusionGemma) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_parts_add_up_to_the_step_and_none_was_missed() -> None:
    parts = {part.operation: part for part in profile(*fixed16(), MACHINE, EngineConfig())}
    assert tuple(parts) == (*OPERATIONS, REST, STEP)
    assert all(part.ms > 0 for part in parts.values()), (
        "an operation was never seen, or more was seen than there was"
    )
    assert sum(part.ms for name, part in parts.items() if name != STEP) == pytest.approx(parts[STEP].ms)
    assert sum(part.share for name, part in parts.items() if name != STEP) == pytest.approx(1.0)
    limits = [parts[name].limit_ms for name in OPERATIONS]
    assert parts[REST].limit_ms is None and max(limits) <= parts[STEP].limit_ms <= sum(limits)
    assert all(0 < parts[name].fraction < 1 for name in (*OPERATIONS, STEP))


def test_every_name_of_the_tables_is_one_of_the_model() -> None:
    names = {name.rpartition(".")[2] for name, _ in fixed16()[0].named_modules()}
    assert set(MODULES) <= names
    assert {*MODULES.values(), *(operation for _, _, operation in FUNCTIONS)} == set(OPERATIONS)


def test_every_call_is_heard_once() -> None:
    """16 steps of 2 canvases, the first of each without a belief; a commit goes with a step, as a prompt's last chunk does."""
    model, workload = fixed16()
    found = heard(model, workload)
    passes, layers = found["router"] // len(CONFIG.layers), len(CONFIG.layers)
    assert (
        found["head"] == 32
        and found["expected embedding"] == found["conditioning MLP"] == 30
        and 32 <= passes <= 33
    )
    assert found["attention"] == found["experts"] == found["dense MLP"] == passes * layers
    assert found["projections"] == passes * sum(4 if layer.is_sliding else 3 for layer in CONFIG.layers)


@pytest.mark.parametrize("name", ["experts", "q_proj", "head"])
def test_a_renamed_operation_is_missed(name: str, monkeypatch) -> None:
    """The twin: were a module called otherwise, or a function called by another name, the checks above would fail."""
    model, workload = fixed16()
    whole, before = heard(model, workload), [*FUNCTIONS]
    monkeypatch.setattr(
        profiling, "MODULES", {key + "_" * (key == name): kind for key, kind in MODULES.items()}
    )
    nobody = (SimpleNamespace(head=None), "head", "head")
    monkeypatch.setattr(profiling, "FUNCTIONS", [nobody if name == known[1] else known for known in before])
    operation = MODULES.get(name, name)
    assert heard(model, workload)[operation] < whole[operation]
    if name != "q_proj":
        assert {part.operation: part.ms for part in profile(model, workload, MACHINE, EngineConfig())}[
            operation
        ] == 0
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    assert name not in MODULES or not set(profiling.MODULES) <= names


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(fails: bool) -> None:
    model, workload = fixed16()
    before = [getattr(owner, name) for owner, name, _ in FUNCTIONS]
    with pytest.raises(KeyError) if fails else torch.no_grad(), listening(model, Clock(model.device)):
        assert hooks(model) and [getattr(owner, name) for owner, name, _ in FUNCTIONS] != before
        if fails:
            raise KeyError
    assert hooks(model) == 0 and [getattr(owner, name) for owner, name, _ in FUNCTIONS] == before
    assert [*Engine(model, EngineConfig()).run(workload.requests)]


def test_listening_changes_no_token() -> None:
    model, workload = fixed16()
    plain = [*Engine(model, EngineConfig()).run(workload.requests)]
    with listening(model, Clock(model.device)):
        assert [*Engine(model, EngineConfig()).run(workload.requests)] == plain
