"""Acceptance, pins, schedule and stopping: what each promises for any input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma.sampling.accept import accept
from dgemma.sampling.pins import FREE, hold
from dgemma.sampling.schedule import temperature
from dgemma.sampling.stopping import converged, counted, mean_entropy, unchanged_steps

nats = st.floats(0, 12, width=32) | st.sampled_from((0.0, 1e-9, 0.1))


@st.composite
def rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entropies [B, C], bounds [B], free cells [B, C]."""
    batch, width = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    entropy = [draw(st.lists(nats, min_size=width, max_size=width)) for _ in range(batch)]
    free = [draw(st.lists(st.booleans(), min_size=width, max_size=width)) for _ in range(batch)]
    bounds = [draw(st.sampled_from((0.0, 0.1, 1.0, 5.0, 1e9))) for _ in range(batch)]
    return (
        torch.tensor(entropy, dtype=torch.float64),
        torch.tensor(bounds, dtype=torch.float64),
        torch.tensor(free),
    )


def chosen_by_hand(entropy: list[float], bound: float, free: list[bool]) -> list[bool]:
    """Walk the free positions from the surest; stop where those before already exceed the bound."""
    accepted, spent = [False] * len(entropy), 0.0
    for place in sorted(
        (place for place in range(len(entropy)) if free[place]), key=lambda place: entropy[place]
    ):
        if spent > bound:
            break
        accepted[place] = True
        spent += entropy[place]
    return accepted


@settings(max_examples=200)
@given(rows())
def test_acceptance_is_the_walk_from_the_surest(row: tuple) -> None:
    entropy, bound, free = row
    accepted = accept(entropy, bound, free)
    for b in range(len(bound)):
        assert accepted[b].tolist() == chosen_by_hand(entropy[b].tolist(), float(bound[b]), free[b].tolist())
        taken = entropy[b][accepted[b]]
        assert (accepted[b].any() or not free[b].any()) and not (accepted[b] & ~free[b]).any()
        if len(taken):
            assert taken.sum() - taken.max() <= bound[b] * (1 + 1e-12)
            left = entropy[b][free[b] & ~accepted[b]]
            assert not len(left) or left.min() >= taken.max()


@settings(max_examples=50)
@given(rows())
def test_rows_do_not_know_each_other(row: tuple) -> None:
    entropy, bound, free = row
    together = accept(entropy, bound, free)
    for b in range(len(bound)):
        assert torch.equal(accept(entropy[b : b + 1], bound[b : b + 1], free[b : b + 1])[0], together[b])


def test_ties_go_to_the_first_position() -> None:
    entropy = torch.full((1, 6), 0.5, dtype=torch.float64)
    free = torch.ones(1, 6, dtype=torch.bool)
    assert accept(entropy, torch.tensor([0.6]), free).tolist() == [[True] * 2 + [False] * 4]


def test_numbers_that_are_not_finite_are_never_accepted() -> None:
    entropy = torch.tensor([[torch.nan, 0.1, torch.nan]], dtype=torch.float64)
    free = torch.ones(1, 3, dtype=torch.bool)
    assert accept(entropy, torch.tensor([9.0]), free).tolist() == [[False, True, False]]
    assert not accept(entropy * torch.nan, torch.tensor([9.0]), free).any()


def test_pins_hold_their_tokens() -> None:
    canvas, pins = torch.tensor([[1, 2, 3]]), torch.tensor([[FREE, 0, 9]])
    assert hold(canvas, pins).tolist() == [[1, 0, 9]] and hold(canvas, torch.full((1, 3), FREE)).tolist() == [
        [1, 2, 3]
    ]


def schedule(steps: int, t_min: float, t_max: float) -> list[float]:
    column = [torch.tensor([value], dtype=torch.float64) for value in (t_min, t_max)]
    return [float(temperature(torch.tensor([s]), torch.tensor([steps]), *column)) for s in range(steps)]


@given(st.integers(1, 96), st.floats(0, 2), st.floats(0, 2))
def test_the_schedule_starts_at_t_max_and_never_reaches_t_min(steps: int, t_min: float, rise: float) -> None:
    made = schedule(steps, t_min, t_min + rise)
    assert made[0] == pytest.approx(t_min + rise) and made[-1] == pytest.approx(t_min + rise / steps)
    assert all(first >= second for first, second in zip(made, made[1:], strict=False))


def test_the_published_schedule() -> None:
    made = schedule(48, 0.4, 0.8)
    assert (made[0], made[24], made[47]) == pytest.approx((0.8, 0.6, 0.4 + 0.4 / 48))


def stops_after(
    canvases: list[list[int]], threshold: int, entropy: float = 0.0, free: list[bool] | None = None
) -> int:
    """How many steps a canvas takes whose argmax goes through `canvases`; 0 where it never stands."""
    mask = torch.tensor([free or [True] * len(canvases[0])])
    last, unchanged = torch.full((1, len(canvases[0])), -1), torch.tensor([0])
    for number, canvas in enumerate(canvases, start=1):
        argmax = torch.tensor([canvas])
        unchanged = unchanged_steps(argmax, last, mask, unchanged)
        mean = mean_entropy(torch.full((1, len(canvas)), entropy), mask)
        if converged(unchanged, mean, torch.tensor([threshold]), torch.tensor([0.5])):
            return number
        last = argmax
    return 0


@pytest.mark.parametrize(
    ("threshold", "canvases", "steps"),
    [
        (0, [[1, 2]], 1),
        (1, [[1, 2], [1, 2]], 2),
        (1, [[1, 2], [1, 3], [1, 2], [1, 2]], 4),
        (2, [[1, 2], [1, 2]], 0),
        (2, [[1, 2], [1, 2], [1, 2]], 3),
        (2, [[1, 2], [1, 2], [5, 2], [5, 2], [5, 2]], 5),
        (3, [[7, 7]] * 3, 0),
        (3, [[7, 7]] * 4, 4),
    ],
)
def test_a_threshold_of_k_needs_k_plus_1_canvases(
    threshold: int, canvases: list[list[int]], steps: int
) -> None:
    assert stops_after(canvases, threshold) == steps
    assert stops_after(canvases, threshold, entropy=0.5) == 0, (
        "confidence is asked for as well, strictly below"
    )


def looked_at(
    argmax: list[int], last: list[int], ends: list[int], free: list[bool] | None = None
) -> list[bool]:
    mask = torch.tensor([free or [True] * len(argmax)])
    return counted(torch.tensor([argmax]), torch.tensor([last]), mask, torch.tensor([ends])).tolist()[0]


def test_what_follows_a_stable_end_does_not_count() -> None:
    yes, no = True, False
    assert looked_at([5, 9, 3, 9, 4], [6, 9, 1, 2, 4], [8, 9, -1]) == [yes, yes, no, no, no]
    assert looked_at([5, 9, 3, 9, 4], [5, 8, 3, 9, 4], [8, 9, -1]) == [yes] * 5, (
        "another end than in the last draft"
    )
    assert looked_at([5, 9, 3], [-1, -1, -1], [9, -1]) == [yes] * 3, "a first step"
    assert looked_at([5, 9, 3], [5, 9, 3], [-1, -1]) == looked_at([5, 9, 3], [5, 9, 3], [4, 3]) == [yes] * 3
    assert looked_at([9, 7, 7], [9, 7, 7], [9]) == [yes, no, no]
    assert looked_at([5, 9, 3, 4], [5, 9, 3, 4], [9], [no, no, yes, yes]) == [no, no, no, no]


def test_pinned_cells_take_no_part_in_stopping() -> None:
    assert stops_after([[1, 2], [1, 3]], 1, free=[True, False]) == 2
    entropy, free = torch.tensor([[0.2, 9.0], [0.3, 0.5]]), torch.tensor([[True, False], [True, True]])
    assert mean_entropy(entropy, free).tolist() == pytest.approx([0.2, 0.4])
    assert mean_entropy(entropy, torch.zeros(2, 2, dtype=torch.bool)).tolist() == [0.0, 0.0]
