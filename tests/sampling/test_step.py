"""One step of a batch: what it may change, what it must hold, and that no row sees another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgemma.sampling.step
from dgemma.config import DenoiseConfig
from dgemma.kernels.ops.random import noise
from dgemma.kernels.ops.vocab import CanvasStats, stats_of
from dgemma.sampling.step import CanvasState, Settings, begin, draws, first_noise, inverse_temperature, step
from tests.helpers import assert_close

WIDTH, VOCABULARY = 5, 40
CPU = torch.device("cpu")


def fresh_state(
    configs: list[DenoiseConfig], seeds: list[int], numbers: list[int], pins: torch.Tensor | None = None
) -> CanvasState:
    settings, number = Settings.of(configs, seeds, CPU), torch.tensor(numbers)
    return begin(settings, number, first_noise(settings, number, WIDTH, VOCABULARY), pins)


@st.composite
def batches(draw: st.DrawFn) -> tuple[CanvasState, int]:
    """A fresh state of 1-4 rows with any settings and pins, and a seed for what the model will say."""
    size = draw(st.integers(1, 4))
    configs = [
        DenoiseConfig(
            max_denoising_steps=draw(st.integers(1, 4)), t_min=0.2, t_max=draw(st.sampled_from((0.2, 1.5))),
            entropy_bound=draw(st.sampled_from((0.0, 0.5, 1e9))), stability_threshold=draw(st.integers(0, 2)),
            confidence_threshold=draw(st.sampled_from((0.1, 1e9))), ignore_after_end=draw(st.booleans()),
            eos_token_id=tuple(range(draw(st.integers(0, 16)))),
        )
        for _ in range(size)
    ]  # fmt: skip
    seeds = [draw(st.integers(0, 2**63 - 1)) for _ in range(size)]
    cell = st.just(-1) | st.integers(0, VOCABULARY - 1)
    pins = torch.tensor([draw(st.lists(cell, min_size=WIDTH, max_size=WIDTH)) for _ in range(size)])
    return fresh_state(configs, seeds, list(range(size)), pins), draw(st.integers(0, 2**31))


def opinions(state: CanvasState, seed: int, number: int) -> CanvasStats:
    """What a made-up model says of each row: some steps repeat the last, so that canvases stand."""
    rows = []
    for row in range(len(state.step)):
        generator = torch.Generator().manual_seed(seed + 1000 * row + number // 2)
        rows.append(torch.randn(WIDTH, VOCABULARY, generator=generator, dtype=torch.float64) * 5)
    logits = torch.stack(rows) * inverse_temperature(state)[:, None, None]
    return stats_of(logits, draws(state), torch.float64)


@settings(max_examples=60)
@given(batches())
def test_a_step_holds_its_promises(batch: tuple[CanvasState, int]) -> None:
    state, seed = batch
    assert torch.equal(state.canvas[state.pins >= 0], state.pins[state.pins >= 0])
    for number in range(5):
        stats = opinions(state, seed, number)
        before, state = state, step(stats, state, VOCABULARY)
        pinned = state.pins >= 0
        assert torch.equal(state.canvas[pinned], state.pins[pinned])
        assert torch.equal(state.argmax[pinned], state.pins[pinned]) and not state.accepted[pinned].any()
        fresh = noise(state.settings.seed, state.number, before.step + 1, WIDTH, VOCABULARY)
        for row in range(len(state.step)):
            if before.done[row]:
                assert all(
                    torch.equal(old[row], new[row]) for old, new in zip(before[:-1], state[:-1], strict=True)
                )
                continue
            assert state.step[row] == before.step[row] + 1
            taken, left = state.accepted[row], ~state.accepted[row] & ~pinned[row]
            assert torch.equal(state.canvas[row][taken], stats.sample[row][taken])
            assert torch.equal(state.canvas[row][left], fresh[row][left])
            assert torch.equal(state.argmax[row][~pinned[row]], stats.argmax[row][~pinned[row]])
            assert state.done[row] or state.step[row] < state.settings.max_steps[row]
    assert state.done.all()


@settings(max_examples=30)
@given(batches())
def test_rows_do_not_know_each_other(batch: tuple[CanvasState, int]) -> None:
    state, seed = batch
    together = [state]
    for number in range(4):
        together.append(step(opinions(together[-1], seed, number), together[-1], VOCABULARY))
    for row in range(len(state.step)):
        alone = state._replace(
            settings=Settings(*(column[row : row + 1] for column in state.settings)),
            **{name: getattr(state, name)[row : row + 1] for name in CanvasState._fields[:-1]},
        )
        for number in range(4):
            alone = step(opinions(alone, seed + 1000 * row, number), alone, VOCABULARY)
            for name in ("canvas", "argmax", "accepted", "done", "step"):
                assert torch.equal(getattr(alone, name)[0], getattr(together[number + 1], name)[row])


def one_state(**changes) -> CanvasState:
    config = DenoiseConfig(max_denoising_steps=48, t_min=0.4, t_max=0.8, **changes)
    return fresh_state([config], [3], [2])


def test_a_canvas_begins_as_the_hash_says() -> None:
    state = one_state()
    want = noise(torch.tensor([3]), torch.tensor([2]), torch.tensor([0]), WIDTH, VOCABULARY)
    assert torch.equal(state.canvas, want) and (state.argmax == -1).all() and not state.done.any()
    given_ids = torch.arange(WIDTH)[None]
    pins = torch.tensor([[-1, 9, -1, -1, -1]])
    pinned = begin(state.settings, state.number, given_ids, pins)
    assert pinned.canvas.tolist() == [[0, 9, 2, 3, 4]]


def test_the_temperature_falls_with_the_steps() -> None:
    state = one_state()
    assert_close(inverse_temperature(state), torch.tensor([1 / 0.8], dtype=torch.float64), "float64")
    last = state._replace(step=torch.tensor([47]))
    assert_close(
        inverse_temperature(last), 1 / torch.tensor([0.4 + 0.4 / 48], dtype=torch.float64), "float64"
    )


def test_every_step_and_canvas_draws_anew() -> None:
    state = one_state()
    seen = [
        draws(state._replace(step=torch.tensor([s]), number=torch.tensor([n])))
        for s in range(3)
        for n in range(3)
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def steps_taken(config: DenoiseConfig, drafts: list[list[int]], entropy: list[list[float]]) -> int:
    """Steps until a canvas stands that is shown these drafts, sure to so many nats each."""
    state = begin(
        Settings.of([config], [0], CPU), torch.tensor([0]), torch.zeros(1, len(drafts[0]), dtype=torch.int64)
    )
    for draft, nats in zip(drafts, entropy, strict=True):
        ids = torch.tensor([draft])
        state = step(CanvasStats(ids, ids, torch.tensor([nats]), None, None), state, VOCABULARY)
    return int(state.step)


ENDED = [
    [5, 9, 1],
    [5, 9, 2],
    [5, 9, 3],
    [5, 9, 3],
    [5, 9, 3],
]  # 9 ends the answer; what follows settles two steps later


def test_what_moves_behind_the_end_keeps_no_canvas_from_standing_where_that_is_asked_for() -> None:
    usual = DenoiseConfig(eos_token_id=(9,), confidence_threshold=0.5, stability_threshold=1)
    early = usual.replace(ignore_after_end=True)
    calm, unsure = [[0.1, 0.1, 0.1]] * 5, [[0.1, 0.1, 2.0]] * 3 + [[0.1, 0.1, 0.1]] * 2
    assert (steps_taken(usual, ENDED, calm), steps_taken(early, ENDED, calm)) == (4, 2)
    assert (steps_taken(usual, ENDED, unsure), steps_taken(early, ENDED, unsure)) == (4, 2)
    assert [steps_taken(early.replace(eos_token_id=other), ENDED, calm) for other in ((8,), None)] == [4, 4]
    text_moves = [[1, 9, 3], [2, 9, 3], [5, 9, 3], [5, 9, 3], [5, 9, 3]]
    assert steps_taken(early, text_moves, calm) == steps_taken(usual, text_moves, calm) == 4
    sure_behind = [
        [0.9, 0.1, 0.0]
    ] * 5  # a mean of 0.33 over all three: leaving the last out would never let it stand
    assert steps_taken(early, ENDED, sure_behind) == 2


def test_a_twin_that_lets_a_fresh_end_count_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    early = DenoiseConfig(
        eos_token_id=(9,), confidence_threshold=0.5, stability_threshold=0, ignore_after_end=True
    )
    nats = [[0.1, 0.1, 2.0]] * 5
    assert steps_taken(early, ENDED, nats) == 2
    right = dgemma.sampling.step.counted
    monkeypatch.setattr(
        dgemma.sampling.step, "counted", lambda argmax, last, *rest: right(argmax, argmax, *rest)
    )
    assert steps_taken(early, ENDED, nats) != 2


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=8, max_size=8),
    st.lists(st.lists(st.floats(0, 2), min_size=3, max_size=3), min_size=8, max_size=8), st.integers(0, 2),
)  # fmt: skip
def test_it_never_takes_a_step_more(drafts: list[list[int]], entropy: list[list[float]], stable: int) -> None:
    usual = DenoiseConfig(eos_token_id=(0, 1), confidence_threshold=1.0, stability_threshold=stable)
    assert steps_taken(usual.replace(ignore_after_end=True), drafts, entropy) <= steps_taken(
        usual, drafts, entropy
    )
