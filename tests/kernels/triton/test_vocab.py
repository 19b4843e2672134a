"""The Triton head against the torch one, in the interpreter: odd sizes, cold rows, and twins that must fail."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from dgemma.kernels.ops import vocab
from dgemma.kernels.ops.vocab import CanvasStats  # noqa: E402
from dgemma.kernels.triton import vocab as vocab_triton  # noqa: E402
from tests.helpers import DEVICE, is_close  # noqa: E402

CAP = 30.0
pytestmark = pytest.mark.filterwarnings(
    "ignore:(invalid value|divide by zero|overflow|All-NaN)"
)  # numpy's, of masked lanes


def both(
    temperatures: list[float], dtype: torch.dtype = torch.float32, canvas: int = 5, width: int = 40, size: int = 300,
    sharp: float = 1.0,
) -> tuple[CanvasStats, CanvasStats]:  # fmt: skip
    """The reference in float32 on the same 16-bit numbers, and the kernels."""
    make = torch.Generator(DEVICE).manual_seed(len(temperatures) + size)
    hidden = (sharp * torch.randn(len(temperatures), canvas, width, generator=make)).to(dtype)
    table = torch.randn(size, width, generator=make).to(dtype)
    uniforms = torch.rand(len(temperatures), canvas, 2, generator=make)
    heat = 1.0 / torch.tensor(temperatures, dtype=torch.float64)
    want = vocab.head(hidden.float(), table.float(), CAP, heat, uniforms)
    return want, CanvasStats(*vocab_triton.head(hidden, table, CAP, heat, uniforms))


def chances(stats: CanvasStats) -> torch.Tensor:
    return stats.p.float() / stats.row_sum[..., None]


@pytest.mark.parametrize("size", [64, 128, 300, 1000])
@pytest.mark.parametrize("temperatures", [[0.8], [0.41, 0.39], [0.05, 2.0, 0.3]])
def test_float32_agrees_to_its_digits(temperatures: list[float], size: int) -> None:
    want, got = both(temperatures, size=size)
    assert torch.equal(want.argmax, got.argmax) and torch.equal(want.sample, got.sample)
    assert (want.entropy - got.entropy).abs().max() < 3e-5
    assert (chances(want) - chances(got)).abs().max() < 2e-5
    assert torch.allclose(got.p.sum(-1), got.row_sum, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.8, 0.4, 0.1])
def test_bf16_agrees_as_far_as_p_is_rounded(temperature: float) -> None:
    """float16 has too few exponents for exp(x / T - 10); such models take the torch form."""
    want, got = both([temperature], torch.bfloat16)
    assert torch.equal(want.argmax, got.argmax)
    assert (want.entropy - got.entropy).abs().max() < 0.02
    assert (chances(want) - chances(got)).abs().max() < 0.01
    assert torch.allclose(got.p.float().sum(-1), got.row_sum, rtol=1e-5), "the rounded p is summed"


def test_rows_at_the_soft_cap_stay_finite() -> None:
    """All logits at +cap or at -cap: the ends of what float32 must hold."""
    for temperature in (0.4, 0.39, 1e-3, 50.0):
        want, got = both([temperature], sharp=100.0, size=256)
        assert got.entropy.isfinite().all() and (got.row_sum > 0).all() and got.row_sum.isfinite().all()
        assert (chances(want) - chances(got)).abs().max() < 1e-4


def test_what_is_not_finite_is_seen() -> None:
    make = torch.Generator(DEVICE).manual_seed(0)
    hidden, table = torch.randn(1, 4, 32, generator=make), torch.randn(200, 32, generator=make)
    hidden[0, 2, 5] = float("nan")
    stats = CanvasStats(
        *vocab_triton.head(hidden, table, CAP, torch.ones(1).double(), torch.full((1, 4, 2), 0.5))
    )
    assert stats.entropy.isfinite().tolist() == [[True, True, False, True]]
    assert (stats.argmax < 200).all() and (stats.sample < 200).all() and (stats.sample >= 0).all()


@pytest.mark.parametrize("twin", ["no soft cap", "another row's temperature", "uniforms swapped"])
def test_twins_are_rejected(twin: str) -> None:
    make = torch.Generator(DEVICE).manual_seed(3)
    hidden, table = torch.randn(2, 5, 40, generator=make), torch.randn(300, 40, generator=make)
    uniforms, heat = torch.rand(2, 5, 2, generator=make), torch.tensor([1.25, 2.5], dtype=torch.float64)
    want = vocab.head(hidden, table, CAP, heat, uniforms)
    cap, wrong_heat, wrong_uniforms = CAP, heat, uniforms
    if twin == "no soft cap":
        cap = 1e4
    elif twin == "another row's temperature":
        wrong_heat = heat.flip(0)
    else:
        wrong_uniforms = uniforms.flip(-1).contiguous()
    got = CanvasStats(*vocab_triton.head(hidden, table, cap, wrong_heat, wrong_uniforms))
    same = torch.equal(want.sample, got.sample) and is_close(chances(got), chances(want))
    assert not same
