"""The Triton norms against the torch ones, in the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from dgemma.kernels.ops import norm
from dgemma.kernels.triton import norm as norm_triton  # noqa: E402
from tests.helpers import DEVICE, assert_close, is_close  # noqa: E402

ROUNDED = (torch.bfloat16, torch.float16)


def normal(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator(DEVICE).manual_seed(seed + sum(shape))).to(dtype)


def differing(got: torch.Tensor, want: torch.Tensor) -> float:
    """The share of elements that are not the same number; a card's rsqrt may flip a few last bits."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    return float((got != want).float().mean())


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 7), max_size=3), st.integers(1, 90), st.booleans(), st.sampled_from((1e-6, 0.3))
)
def test_they_agree_for_any_shape(leading: list[int], width: int, weighted: bool, eps: float) -> None:
    x, weight = normal(*leading, width), normal(width, seed=1) if weighted else None
    assert_close(norm_triton.rms_norm(x, weight, eps), norm.rms_norm(x, weight, eps), op="norm")


@pytest.mark.parametrize("width", [256, 2048, 2816])  # many rows of a block, one, one with columns to spare
def test_they_agree_at_the_widths_of_the_published_model(width: int) -> None:
    x, residual, weight = normal(11, width), normal(11, width, seed=1), normal(width)
    assert_close(norm_triton.rms_norm(x, weight, 1e-6), norm.rms_norm(x, weight, 1e-6), op="norm")
    assert_close(
        norm_triton.add_norm(residual, x, weight, 1e-6), norm.add_norm(residual, x, weight, 1e-6), op="norm"
    )


def test_a_strided_view_is_read_as_it_stands() -> None:
    x, residual = normal(2, 5, 3, 8).transpose(1, 2), normal(8, 6).T
    assert_close(norm_triton.rms_norm(x, None, 1e-6), norm.rms_norm(x, None, 1e-6), op="norm")
    wide = normal(6, 16)[:, ::2]
    assert_close(
        norm_triton.add_norm(residual, wide, normal(8), 1e-6),
        norm.add_norm(residual, wide, normal(8), 1e-6),
        op="norm",
    )


@pytest.mark.parametrize("dtype", ROUNDED)
def test_what_is_rounded_is_rounded_at_the_same_places(dtype: torch.dtype) -> None:
    x, residual, weight = (normal(40, 70, dtype=dtype, seed=seed) for seed in range(3))
    weight = weight[0]
    want, sums = norm.rms_norm(x, weight, 1e-6), norm.add_norm(residual, x, weight, 1e-6)
    assert differing(norm_triton.rms_norm(x, weight, 1e-6), want) < 0.01
    assert differing(norm_triton.add_norm(residual, x, weight, 1e-6), sums) < 0.01
    late = norm.rms_norm(x, None, 1e-6) * weight  # twin: the weight after rounding
    once = (residual.float() + norm.rms_norm(x.float(), weight.float(), 1e-6)).to(
        dtype
    )  # twin: the branch not rounded
    assert differing(late, want) > 0.05 and differing(once, sums) > 0.05


def test_squares_beyond_float16() -> None:
    x = torch.full((2, 8), 6e4, dtype=torch.float16)
    assert torch.equal(norm_triton.rms_norm(x, None, 1e-6), torch.ones_like(x))


@pytest.mark.parametrize(
    "twin", ["eps outside the root", "sum for mean", "mean removed", "no weight", "residual inside"]
)
def test_twins_are_rejected(twin: str) -> None:
    x, residual, weight, eps = normal(6, 40) + 0.5, normal(6, 40, seed=1), normal(40), 0.3
    want, got = norm.rms_norm(x, weight, eps), norm_triton.rms_norm(x, weight, eps)
    if twin == "eps outside the root":
        want = x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight
    elif twin == "sum for mean":
        want = x * (x.square().sum(-1, keepdim=True) + eps).rsqrt() * weight
    elif twin == "mean removed":
        want = norm.rms_norm(x - x.mean(-1, keepdim=True), weight, eps)
    elif twin == "no weight":
        want = norm.rms_norm(x, None, eps)
    else:
        want, got = norm.rms_norm(residual + x, weight, eps), norm_triton.add_norm(residual, x, weight, eps)
    assert not is_close(got, want, op="norm")


def test_the_public_functions_ask_for_this_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(norm_triton, "rms_norm", lambda x, weight, eps: asked.append("rms_norm"))
    monkeypatch.setattr(norm_triton, "add_norm", lambda residual, x, weight, eps: asked.append("add_norm"))
    x, weight = normal(2, 8), normal(8)
    for kernels in ("torch", "triton"):
        monkeypatch.setenv("DGEMMA_KERNELS", kernels)
        norm.rms_norm(x, weight, 1e-6)
        norm.add_norm(x, x, weight, 1e-6)
        norm.rms_norm(x.double(), weight.double(), 1e-6)  # float64 stays with torch
    assert asked == ["rms_norm", "add_norm"]
