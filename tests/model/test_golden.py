"""Golden logits and tokens, made by the oracle and committed: parity means something where it is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dgemma.config import ModelConfig
from dgemma.engine.denoise import run
from dgemma.engine.requests import Request, results
from tests.helpers import assert_close, is_close, lively_model
from tests.make_golden import PROMPTS, SETTLED, TEMPERATURE, raws
from tests.model import worlds
from tests.model.twins import TWINS
from tests.model.worlds import World

FILES = sorted((Path(__file__).parents[1] / "data").glob("golden_*.npz"))
NAMES = [path.stem.removeprefix("golden_") for path in FILES]


def golden(path: Path) -> tuple[World, dict[str, Any]]:
    with np.load(path) as stored:
        told = dict(stored)
    raw = json.loads(str(told["config"]))
    config = ModelConfig.from_dict(raw)
    model = lively_model(config, int(told["seed"]))
    canvases = [torch.from_numpy(canvas).long() for canvas in told["canvases"]]
    return World(raw, config, model, [list(prompt) for prompt in PROMPTS], canvases, chunk=5), told


def test_both_spellings_have_their_file() -> None:
    assert NAMES == sorted(raws()) and all(path.stat().st_size < 20_000 for path in FILES)


def differences(path: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ours, stored) logits [3, C, V]: first canvas, the same with self-conditioning, and both for the second."""
    world, told = golden(path)
    kv, pairs, want = worlds.read(world), [], torch.from_numpy(told["logits"])
    for number, canvas in enumerate(world.canvases):
        first, second = want[2 * number], want[2 * number + 1]
        pairs.append((worlds.logits(world, kv, canvas), first))
        pairs.append(
            (worlds.logits(world, kv, canvas, worlds.conditioned(world, first / TEMPERATURE)), second)
        )
        with torch.no_grad():
            world.model.encode(canvas, kv)
    return pairs


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_logits_equal_the_stored_ones(path: Path) -> None:
    for mine, stored in differences(path):
        assert_close(mine, stored)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_tokens_equal_the_stored_ones(path: Path) -> None:
    world, told = golden(path)
    requests = [
        Request(
            tuple(prompt), 2 * world.width, config=SETTLED,
            canvas_ids=tuple(tuple(canvas[row].tolist()) for canvas in world.canvases),
        )
        for row, prompt in enumerate(world.prompts)
    ]  # fmt: skip
    assert [result.token_ids for result in results(run(world.model, requests), len(requests))] == told[
        "tokens"
    ].tolist()


@pytest.mark.parametrize("break_it", TWINS, ids=lambda twin: twin.__name__)
def test_a_broken_twin_is_rejected(break_it, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    for path in FILES:
        assert not all(is_close(mine, stored) for mine, stored in differences(path))
