"""The Triton experts against the torch ones, in the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from dgemma.kernels import moe, moe_triton  # noqa: E402
from tests.helpers import DEVICE, assert_close, is_close  # noqa: E402


def case(rows: int, width: int = 24, depth: int = 10, experts: int = 5, top_k: int = 2, seed: int = 0, dtype=torch.float32):
    make = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn(rows, width, generator=make).to(dtype)
    gate_up = (torch.randn(experts, 2 * depth, width, generator=make) * width**-0.5).to(dtype)
    down = (torch.randn(experts, width, depth, generator=make) * depth**-0.5).to(dtype)
    chances = torch.randn(rows, experts, generator=make).softmax(-1)
    weights, index = chances.topk(top_k, dim=-1)
    return x, gate_up, down, weights, index


@pytest.mark.parametrize(
    ("rows", "width", "depth", "experts", "top_k"), [(1, 24, 10, 5, 2), (40, 24, 10, 3, 1), (33, 70, 68, 4, 4), (90, 32, 16, 2, 2)]
)
def test_they_agree(rows: int, width: int, depth: int, experts: int, top_k: int) -> None:
    given = case(rows, width, depth, experts, top_k)
    assert_close(moe_triton.experts(*given), moe.experts(*given), "float32")


def test_bf16_agrees_as_far_as_it_is_rounded() -> None:
    given = case(20, dtype=torch.bfloat16)
    assert_close(moe_triton.experts(*given), moe.experts(*given), "bfloat16")


def test_an_expert_that_nobody_chose_and_one_that_all_chose() -> None:
    x, gate_up, down, weights, index = case(50)
    index = torch.stack((torch.full((50,), 3), torch.full((50,), 1)), dim=-1)
    assert_close(moe_triton.experts(x, gate_up, down, weights, index), moe.experts(x, gate_up, down, weights, index), "float32")


@settings(max_examples=60)
@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 4), st.sampled_from((1, 2, 16)), st.integers(0, 99))
def test_blocks_cover_every_choice_once_and_hold_one_expert(rows: int, experts: int, top_k: int, block: int, seed: int) -> None:
    index = torch.randint(experts, (rows, top_k), generator=torch.Generator(DEVICE).manual_seed(seed))
    routing, flat = moe_triton.route(index, experts, block), index.flatten()
    seen = []
    for owner, first, last in zip(*(part.tolist() for part in routing[1:]), strict=True):
        if owner < 0:
            continue
        assert 0 < last - first <= block
        places = routing.order[first:last]
        assert (flat[places] == owner).all()
        seen += places.tolist()
    assert sorted(seen) == list(range(rows * top_k))


@pytest.mark.parametrize("twin", ["gate and up swapped", "unweighted", "another expert"])
def test_twins_are_rejected(twin: str) -> None:
    x, gate_up, down, weights, index = case(30)
    want = moe.experts(x, gate_up, down, weights, index)
    if twin == "gate and up swapped":
        gate_up = gate_up.roll(10, 1)
    elif twin == "unweighted":
        weights = torch.ones_like(weights)
    else:
        index = (index + 1) % 5
    assert not is_close(moe_triton.experts(x, gate_up, down, weights, index), want)
