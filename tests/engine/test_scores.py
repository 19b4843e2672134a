"""Attention as cards do it without Triton, scores in pieces (kernels/ops/attention.py): the same tokens as with the CPU's kernel, in float64."""

from __future__ import annotations

import pytest
import torch

from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine.denoise import run as plainly
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, results
from dgemma.kernels.ops import attention as op
from dgemma.model import passes
from tests.helpers import lively_model, tiny_config

SETTINGS = DenoiseConfig(max_denoising_steps=4, eos_token_id=None)


@pytest.mark.parametrize("most", [1, 100, 1 << 25])
def test_scores_in_pieces_give_the_same_tokens(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("SFSF")
    model = lively_model(config, dtype="float64")
    requests = [
        Request(tuple(range(3, 3 + n)), 2 * config.canvas_length + 1, n, SETTINGS) for n in (5, 23, 40)
    ]
    want = [one.token_ids for one in results(plainly(model, requests), len(requests))]
    calls = []

    def on_a_card(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor | None = None
    ) -> torch.Tensor:
        calls.append(visible is None)
        return op.scored(q, k, v, visible)

    monkeypatch.setattr(op, "SCORES", most)
    monkeypatch.setattr(passes, "attention", on_a_card)
    for chunk in (512, 7):
        engine = Engine(model, EngineConfig(memory=2**40, prefill_chunk=chunk))
        assert [one.token_ids for one in results(engine.run(requests), len(requests))] == want
    assert {True, False} == set(calls)
    monkeypatch.setattr(
        passes, "attention", lambda q, k, v, visible=None: op.scored(q, k, v, None)
    )  # a twin that forgets the masks
    assert [
        one.token_ids
        for one in results(Engine(model, EngineConfig(memory=2**40)).run(requests), len(requests))
    ] != want
