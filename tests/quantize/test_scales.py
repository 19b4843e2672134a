"""Scales chosen by their error: never worse than the format's own, best where it counts, the same however the work is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma.config.formats import Format
from dgemma.kernels.quant import nvfp4
from dgemma.kernels.quant.formats import codec, quantise
from dgemma.quantize import scales as scales_module
from dgemma.quantize.scales import TRIED, search_scales

FORMATS = [
    Format("fp8"),
    Format("nvfp4"),
    Format("int4"),
    Format("int4", 64, zeros=True, scale="F16"),
    Format("int4", 128),
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(weight: torch.Tensor, format: Format, importance: torch.Tensor | None, best: bool) -> torch.Tensor:
    """Weighted squared error of each group or row."""
    found = search_scales(weight, format, importance) if best else quantise(weight, format)
    assert codec(format).check(found.parts) is None
    squares = (found.dequantised() - weight).square() * (
        1.0 if importance is None else importance[..., None, :]
    )
    return squares.unflatten(-1, (-1, format.group or weight.shape[-1])).sum(-1)


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(FORMATS), rows=st.integers(1, 5), groups=st.integers(1, 2), seed=st.integers(0, 99),
    size=st.sampled_from([1e-20, 1.0, 1e3]), zero=st.booleans(), weighed=st.booleans(),
)  # fmt: skip
def test_no_group_errs_more_than_with_its_own_scale(
    form: Format, rows: int, groups: int, seed: int, size: float, zero: bool, weighed: bool
) -> None:
    weight = normal(rows, 128 * groups, seed=seed) * (1.0 if form.scale == "F16" else size)
    if zero:
        weight[0, :64] = 0.0
    importance = normal(128 * groups, seed=seed + 1).square() if weighed else None
    own, best = (error(weight, form, importance, best) for best in (False, True))
    assert (best <= own * (1 + 1e-5)).all()


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_scales_that_are_looked_for_err_less(form: Format) -> None:
    """By as much as was measured (head of scales.py), for normal weights."""
    weight = normal(64, 256)
    own, best = (float(error(weight, form, None, best).sum()) for best in (False, True))
    assert best < {"fp8": 0.97, "nvfp4": 0.85, "int4": 0.93}[form.name] * own


def test_four_is_chosen_over_six_where_it_is_exact() -> None:
    """Weights of 1, 2, 3 and 4 times a number are exact where the largest becomes 4; at 6 they are not."""
    weight = torch.tensor([[4.0, 3.0, 2.0, 1.0] * 4])
    assert torch.equal(search_scales(weight, Format("nvfp4")).dequantised(), weight)
    assert not torch.equal(quantise(weight, Format("nvfp4")).dequantised(), weight)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_experts_and_rows_in_pieces_are_the_same(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, importance = normal(3, 20, 128), normal(3, 128, seed=1).square()
    whole = search_scales(weight, form, importance)
    monkeypatch.setattr(scales_module, "PIECE", 3 * 128)
    assert all(
        torch.equal(part, whole.parts[name])
        for name, part in search_scales(weight, form, importance).parts.items()
    )
    for expert in range(3):
        alone = search_scales(weight[expert], form, importance[expert])
        assert all(torch.equal(part, whole.parts[name][expert]) for name, part in alone.parts.items())
    crossed = search_scales(weight, form, importance.flip(0))
    assert any(not torch.equal(part, whole.parts[name]) for name, part in crossed.parts.items())


def test_the_scale_of_a_matrix_is_a_power_of_two() -> None:
    for size in (1e-30, 0.3, 1792.0, 1793.0, 1e30):
        row = nvfp4.power_scale(torch.tensor([[size, 0.0]]))
        exact = size / 2688 * 1.5
        assert (
            float(row.log2()) == round(float(row.log2()))
            and exact * 0.999999 <= float(row) < 2 * exact * 1.000001
        )
    assert float(nvfp4.power_scale(torch.zeros(1, 16))) == 2.0


def test_what_has_nothing_to_choose_or_no_whole_groups() -> None:
    weight = normal(4, 48)
    assert "int8" not in TRIED
    assert torch.equal(
        search_scales(weight, Format("int8")).dequantised(), quantise(weight, Format("int8")).dequantised()
    )
    with pytest.raises(ValueError, match="48 inputs"):
        search_scales(weight, Format("int4"))
    assert search_scales(weight[:0], Format("fp8")).shape == (0, 48)
