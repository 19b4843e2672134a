"""Token ids against the oracle, in the setting where no random number matters: every draft of every step, two canvases.

Everything is accepted and the temperature is next to nothing, so a canvas takes its own argmax; stability alone stops.
The oracle is called once per canvas, because the canvas it is given serves only its first.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import dgemma.engine.denoise
import dgemma.sampling.step
from dgemma.config import DenoiseConfig
from dgemma.engine.denoise import run
from dgemma.engine.requests import CommitRecord, Request, StepRecord
from tests import oracle
from tests.model import worlds

CANVASES = 2
NUMBERS = range(12)
SETTLED = DenoiseConfig(
    max_denoising_steps=12, t_min=1e-7, t_max=2e-7, entropy_bound=1e9, stability_threshold=1, confidence_threshold=1e9,
    eos_token_id=None,
)  # fmt: skip

Drafts = list[list[list[int]]]  # per canvas, per step, C ids


@functools.cache
def oracle_of(number: int) -> Any:
    world = worlds.world(number)
    return oracle.model_of(world.model, world.raw)


@functools.cache
def theirs(number: int, row: int) -> Drafts:
    world, model = worlds.world(number), oracle_of(number)
    ids, drafts = list(world.prompts[row]), []
    for start in world.canvases:
        drafts.append(oracle.canvas_of(model, ids, start[row].tolist(), SETTLED))
        ids += drafts[-1][-1]
    return drafts


def ours(number: int) -> tuple[list[Drafts], list[list[int]]]:
    """The drafts of each row and its committed tokens, all rows in one batch."""
    world = worlds.world(number)
    requests = [
        Request(
            tuple(prompt), max_tokens=CANVASES * world.width, config=SETTLED,
            canvas_ids=tuple(tuple(canvas[row].tolist()) for canvas in world.canvases),
        )
        for row, prompt in enumerate(world.prompts)
    ]  # fmt: skip
    drafts: list[Drafts] = [[[] for _ in range(CANVASES)] for _ in requests]
    tokens: list[list[int]] = [[] for _ in requests]
    for record in run(world.model, requests):
        if isinstance(record, StepRecord):
            drafts[record.request][record.canvas].append(record.argmax)
        else:
            tokens[record.request] += record.token_ids
    return drafts, tokens


@oracle.needed
@pytest.mark.parametrize("number", NUMBERS)
def test_every_draft_equals_the_oracles(number: int) -> None:
    drafts, tokens = ours(number)
    for row, mine in enumerate(drafts):
        assert mine == theirs(number, row)
        assert tokens[row] == mine[0][-1] + mine[1][-1]


@oracle.needed
def test_canvases_take_several_steps_and_some_stop_early() -> None:
    steps = [len(canvas) for number in NUMBERS for row in range(3) for canvas in theirs(number, row)]
    assert min(steps) < SETTLED.max_denoising_steps and sum(count > 2 for count in steps) > len(steps) // 2
    assert any(count == SETTLED.max_denoising_steps for count in steps)


@oracle.needed
def test_one_canvas_too_few_for_stability_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    count = dgemma.sampling.step.unchanged_steps
    monkeypatch.setattr(dgemma.sampling.step, "unchanged_steps", lambda *state: count(*state) + 1)
    assert any(ours(number)[0] != [theirs(number, row) for row in range(3)] for number in (0, 1))


@oracle.needed
def test_a_canvas_that_is_not_encoded_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(world: worlds.World) -> list[Drafts]:
        read = dgemma.engine.denoise.read_prompts
        encode, busy = world.model.encode, []

        def reading(*arguments):
            busy.append(1)
            try:
                return read(*arguments)
            finally:
                busy.pop()

        def only_prompts(ids, kv, counts=None):
            return encode(ids if busy else torch.zeros_like(ids), kv, counts)

        monkeypatch.setattr(dgemma.engine.denoise, "read_prompts", reading)
        monkeypatch.setattr(world.model, "encode", only_prompts, raising=False)
        monkeypatch.setattr(worlds, "world", lambda number: world)
        return ours(0)[0]

    want = [theirs(0, row) for row in range(3)]
    got = forgetful(worlds.world(0))
    assert [row[0] for row in got] == [row[0] for row in want] and got != want


@oracle.needed
@pytest.mark.parametrize("threshold", [0, 2, 3])
def test_the_stop_waits_as_long_as_the_oracle(threshold: int) -> None:
    world = worlds.world(0)
    config = SETTLED.replace(stability_threshold=threshold)
    start = world.canvases[0][0].tolist()
    want = oracle.canvas_of(oracle_of(0), world.prompts[0], start, config)
    request = Request(tuple(world.prompts[0]), world.width, config=config, canvas_ids=(tuple(start),))
    records = list(run(world.model, [request]))
    assert [record.argmax for record in records if isinstance(record, StepRecord)] == want
    assert isinstance(records[-1], CommitRecord) and records[-1].steps == len(want)
