"""The Triton router against the torch one, and the routing against plain sorting, in the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from dgemma.kernels.ops import moe
from dgemma.kernels.triton import router as router_triton  # noqa: E402
from dgemma.kernels.triton.router import Routing, choose_experts, route  # noqa: E402
from tests.helpers import DEVICE, assert_close, is_close  # noqa: E402

EPS = 0.1


def case(rows: int = 33, width: int = 70, experts: int = 21, dtype=torch.float32, seed: int = 0):
    """x, proj, scale, per_expert_scale; scores of deviation 2 or so."""
    make = torch.Generator(DEVICE).manual_seed(seed)
    x, proj = torch.randn(rows, width, generator=make), torch.randn(experts, width, generator=make)
    scale, per_expert = 2.0 + torch.randn(width, generator=make), 1.0 + torch.rand(experts, generator=make)
    return x.to(dtype), proj.to(dtype), scale.to(dtype), per_expert.to(dtype)


def check(x, proj, scale, per_expert, top_k: int, dtype: str = "float32") -> None:
    """The chosen are as likely as the reference's (equal chances may be chosen either way), and so are their weights."""
    weights, index = choose_experts(x, proj, scale, per_expert, EPS, top_k)
    chances = moe.router_probabilities(x, proj, scale, EPS)
    assert (weights.dtype, index.dtype) == (torch.float32, torch.int64) and index.shape == (len(x), top_k)
    assert all(len(set(row)) == top_k for row in index.tolist()), "an expert twice"
    best = chances.topk(top_k, dim=-1).values
    assert_close(chances.gather(1, index), best, dtype, op="router")
    assert_close(weights, best / best.sum(-1, keepdim=True) * per_expert[index].float(), dtype, op="router")


@pytest.mark.parametrize(
    ("rows", "width", "experts", "top_k"),
    [(1, 16, 4, 2), (33, 70, 21, 8), (40, 130, 16, 1), (7, 300, 128, 8), (5, 24, 3, 3)],
)
def test_they_agree(rows: int, width: int, experts: int, top_k: int) -> None:
    given = case(rows, width, experts)
    check(*given, top_k)
    got, want = choose_experts(*given, EPS, top_k), moe.choose_experts(*given, EPS, top_k)
    assert torch.equal(got[1], want[1])  # random scores in float32: no two are equal
    assert_close(got[0], want[0], op="router")


def test_they_agree_in_the_blocks_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_triton, "FEW", 8)
    check(*case(70, 100, 70), 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_rounded_where_the_reference_rounds(dtype: torch.dtype) -> None:
    given, top_k = case(64, dtype=dtype), 4
    check(*given, top_k, "bfloat16")
    chances = moe.router_probabilities(*given[:3], EPS)
    best = chances.topk(top_k, dim=-1).values
    _, index = choose_experts(*given, EPS, top_k)
    whole = moe.router_probabilities(*(x.float() for x in given[:3]), EPS).topk(top_k, dim=-1).values
    got, twin = (
        ((one / best - 1).abs() > 1e-4).any(-1).float().mean() for one in (chances.gather(1, index), whole)
    )
    assert (
        got < 0.1 and twin > 0.5
    )  # rows: another order of sums may flip a last bit, no rounding shows in most


def test_equal_chances_go_to_the_lower_expert() -> None:
    x, proj, scale, per_expert = case(experts=6)
    proj = proj[[0, 1, 0, 1, 0, 1]]
    _, index = choose_experts(x, proj, scale, per_expert, EPS, 4)
    first = (
        moe.router_probabilities(x, proj, scale, EPS)[:, :2].diff() > 0
    ).long()  # whether expert 1 is before 0
    assert torch.equal(index, torch.cat((first, first + 2, first + 4, 1 - first), dim=1))


def test_a_row_without_numbers_stays_within_the_experts() -> None:
    x, *rest = case(5, experts=11)
    want = choose_experts(x, *rest, EPS, 3)
    x[2] = torch.nan
    weights, index = choose_experts(x, *rest, EPS, 3)
    assert 0 <= int(index.min()) and int(index.max()) < 11
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(weights[others], want[0][others]) and torch.equal(index[others], want[1][others])


@pytest.mark.parametrize(
    "twin", ["not renormalised", "no scale per expert", "another eps", "scale left out", "no root"]
)
def test_twins_are_rejected(twin: str) -> None:
    x, proj, scale, per_expert = case()
    weights, index = choose_experts(x, proj, scale, per_expert, EPS, 4)
    eps = 1e-6 if twin == "another eps" else EPS
    scale = torch.ones_like(scale) if twin == "scale left out" else scale
    root = x.shape[1] ** 0.5 if twin == "no root" else 1.0
    chances = moe.router_probabilities(x, proj, scale * root, eps)
    share, best = chances.topk(4, dim=-1)
    if twin != "not renormalised":
        share = share / share.sum(-1, keepdim=True)
    if twin != "no scale per expert":
        share = share * per_expert[best]
    assert not (torch.equal(best, index) and is_close(weights, share, op="router"))


def plainly(index: torch.Tensor, experts: int, rows: int) -> Routing:
    """The same routing by sorting and counting on the host."""
    flat = index.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda place: flat[place])
    table, at = [], 0
    for expert in range(experts):
        stop = at + flat.count(expert)
        table += [(expert, first, min(first + rows, stop)) for first in range(at, stop, rows)]
        at = stop
    table += [(-1, 0, 0)] * (len(flat) // rows + min(experts, len(flat)) - len(table))
    return Routing(torch.tensor(order), *torch.tensor(table, dtype=torch.int32).unbind(1))


def same(one: Routing, other: Routing) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@settings(max_examples=20)
@given(
    rows=st.integers(1, 600), experts=st.integers(1, 21), top_k=st.integers(1, 8), block=st.sampled_from((1, 16, 64)),
    favourites=st.integers(1, 21), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_routing_is_a_stable_sort(
    rows: int, experts: int, top_k: int, block: int, favourites: int, seed: int
) -> None:
    make = torch.Generator(DEVICE).manual_seed(seed)
    chosen = torch.randperm(experts, generator=make)[: min(favourites, experts)]
    index = chosen[torch.randint(len(chosen), (rows, top_k), generator=make)]
    assert same(route(index, experts, block), plainly(index, experts, block))


@pytest.mark.parametrize("expert", [0, 2, 4])
def test_everything_to_one_expert(expert: int) -> None:
    index = torch.full((600, 8), expert)
    assert same(route(index, 5, 16), plainly(index, 5, 16))
    assert not same(route(index, 5, 16), plainly(index, 5, 32))


def test_the_comparison_sees_an_unstable_order_and_a_wrong_block() -> None:
    index = torch.randint(5, (40, 2), generator=torch.Generator(DEVICE).manual_seed(0))
    routing, want = route(index, 5, 16), plainly(index, 5, 16)
    swapped = routing.order.clone()
    swapped[:2] = swapped[:2].flip(0)
    assert same(routing, want)
    assert not same(routing._replace(order=swapped), want) and not same(
        routing._replace(last=routing.last + 1), want
    )


def test_the_public_function_asks_for_this_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, given = [], case()
    monkeypatch.setattr(router_triton, "choose_experts", lambda *arguments: asked.append(len(arguments)))
    for kernels in ("torch", "triton"):
        monkeypatch.setenv("DGEMMA_KERNELS", kernels)
        moe.choose_experts(*given, EPS, 4)
    assert asked == [6]
