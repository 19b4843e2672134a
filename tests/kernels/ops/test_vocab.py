"""The head: statistics against textbook formulas, and the sampler against a search written with plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma.kernels.ops.random import uniforms
from dgemma.kernels.ops.vocab import CanvasStats, head, soft_capped_logits, soft_embedding, stats_of
from dgemma.kernels.sizes import TILE
from tests.helpers import assert_close, chi_square, is_close

LOW, HIGH = 2.0**-24, 1 - 2.0**-24  # the outermost uniforms


def first_above(masses: list[float], u: float) -> int:
    """The first index whose running total passes u * total; the last one with mass where rounding leaves none."""
    total, running = math.fsum(masses), 0.0
    for index, mass in enumerate(masses):
        running += mass
        if mass > 0 and running > u * total:
            return index
    return max(index for index, mass in enumerate(masses) if mass > 0)


def search(p: list[float], u: tuple[float, float]) -> int:
    tiles = [p[start : start + TILE] for start in range(0, len(p), TILE)]
    tile = first_above([math.fsum(masses) for masses in tiles], u[0])
    return tile * TILE + first_above(tiles[tile], u[1])


def sampled(logits: torch.Tensor, u: torch.Tensor, mask: torch.Tensor | None = None) -> CanvasStats:
    """Statistics of one row of logits [V] for many pairs of uniforms [N, 2]."""
    rows = logits.expand(1, len(u), -1).clone()
    return stats_of(rows, u[None], logits.dtype, mask)


@settings(max_examples=60)
@given(
    st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=400), st.data(),
)  # fmt: skip
def test_a_sample_is_what_a_search_finds(numbers: list[float], data: st.DataObject) -> None:
    logits = torch.tensor(numbers, dtype=torch.float64)
    unit = st.sampled_from((LOW, HIGH)) | st.integers(0, 2**23 - 1).map(lambda bits: (bits + 0.5) / 2**23)
    pairs = data.draw(st.lists(st.tuples(unit, unit), min_size=1, max_size=6))
    allowed = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    allowed[data.draw(st.integers(0, len(numbers) - 1))] = True
    mask = torch.tensor(allowed)
    stats = sampled(logits, torch.tensor(pairs, dtype=torch.float64), mask)
    for place, pair in enumerate(pairs):
        assert stats.sample[0, place] == search(stats.p[0, place].tolist(), pair)
        assert mask[stats.sample[0, place]] and mask[stats.argmax[0, place]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_masked_tokens_are_never_drawn(dtype: torch.dtype) -> None:
    logits = torch.full((1, 4, 3 * TILE + 7), 2.0)
    mask = torch.zeros(logits.shape[-1], dtype=torch.bool)
    mask[[TILE + 1, TILE + 5, 3 * TILE + 6]] = True  # the first and third tile hold nothing
    u = torch.tensor([[[LOW, LOW], [LOW, HIGH], [HIGH, LOW], [HIGH, HIGH]]])
    stats = stats_of(logits, u, dtype, mask)
    assert stats.sample.tolist() == [[TILE + 1, TILE + 5, 3 * TILE + 6, 3 * TILE + 6]]
    assert (stats.p[..., ~mask] == 0).all() and stats.row_sum.tolist() == [[3.0] * 4]


@pytest.mark.parametrize("u", [(LOW, LOW), (HIGH, HIGH), (LOW, HIGH), (HIGH, LOW)])
def test_the_ends_of_the_unit_interval_stay_inside(u: tuple[float, float]) -> None:
    logits = torch.randn(8, 5, 1000, generator=torch.Generator().manual_seed(0)) * 8
    stats = stats_of(logits, torch.tensor(u).expand(8, 5, 2), torch.float32)
    drawn = stats.p.gather(-1, stats.sample[..., None])
    assert (drawn > 0).all() and stats.sample.max() < 1000


def counts_of(logits: torch.Tensor, temper: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts of 40 000 samples of `temper` times the logits, and the counts that softmax(logits) expects."""
    n = 40_000
    u = uniforms(torch.tensor([11]), torch.tensor([0]), torch.tensor([0]), n)[0].double()
    drawn = sampled(logits * temper, u).sample[0]
    return torch.bincount(drawn, minlength=len(logits)), logits.softmax(-1) * n


def test_samples_follow_the_distribution() -> None:
    logits = torch.randn(300, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert chi_square(*counts_of(logits)) > 1e-4
    assert chi_square(*counts_of(logits, temper=1.1)) < 1e-9, "a twin whose temperature is off by 10 %"


def test_statistics_are_those_of_the_softmax() -> None:
    draw = torch.Generator().manual_seed(1)
    hidden, embedding = (
        torch.randn(2, 3, 8, generator=draw).double(),
        torch.randn(200, 8, generator=draw).double(),
    )
    inverse = torch.tensor([2.0, 0.5], dtype=torch.float64)
    half = torch.full((2, 3, 2), 0.5)
    stats = head(hidden, embedding, 5.0, inverse, half)
    logits = 5.0 * torch.tanh(hidden @ embedding.T / 5.0)
    assert_close(soft_capped_logits(hidden, embedding, 5.0), logits, "float64", op="head")
    reference = torch.distributions.Categorical(logits=logits * inverse[:, None, None])
    assert_close(stats.entropy, reference.entropy(), "float64", op="head")
    assert_close(stats.p / stats.row_sum[..., None], reference.probs, "float64", op="head")
    assert torch.equal(stats.argmax, logits.argmax(-1))
    mixed = soft_embedding(stats.p, stats.row_sum, embedding.T, 3.0)
    assert_close(mixed, 3.0 * reference.probs @ embedding, "float64", op="head")
    off = head(hidden, embedding, 5.0, inverse * 1.001, half)
    assert not is_close(off.entropy, reference.entropy(), "float64", op="head")


def test_a_certain_token_has_no_entropy_and_logits_that_are_not_finite_show() -> None:
    logits = torch.zeros(1, 2, 50)
    logits[0, 0, 7] = 1e9
    stats = stats_of(logits, torch.full((1, 2, 2), 0.5), torch.float32)
    assert stats.entropy[0, 0] == 0 and stats.sample[0, 0] == 7
    assert stats.entropy[0, 1] == pytest.approx(math.log(50), rel=1e-6)
    broken = torch.zeros(1, 2, 50)
    broken[0, 0, 3] = torch.nan
    entropy = stats_of(broken, torch.full((1, 2, 2), 0.5), torch.float32).entropy
    assert entropy[0, 0].isnan() and entropy[0, 1].isfinite()


def test_row_sums_are_those_of_the_rounded_masses() -> None:
    logits = torch.randn(1, 4, 5000, generator=torch.Generator().manual_seed(2))
    stats = stats_of(logits, torch.full((1, 4, 2), 0.5), torch.bfloat16)
    assert stats.p.dtype == torch.bfloat16
    assert_close(stats.row_sum, stats.p.double().sum(-1), op="head")
