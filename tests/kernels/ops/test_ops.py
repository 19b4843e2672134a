"""Norms, rope, attention and the MLPs against hand numbers and plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from dgemma.kernels.ops import attention as op
from dgemma.kernels.ops.attention import attention, scored
from dgemma.kernels.ops.matmul import gated_mlp
from dgemma.kernels.ops.moe import choose, experts, router_probabilities
from dgemma.kernels.ops.norm import add_norm, rms_norm
from dgemma.kernels.ops.rope import rope_table, rotate
from tests.helpers import assert_close, is_close
from tests.kernels.twins import attention_of_rounded_scores

DRAW = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64)


def test_rms_norm_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0]])
    assert_close(rms_norm(x, None, 0.0), torch.tensor([[3.0, 4.0]]) / math.sqrt(12.5), op="norm")
    assert_close(rms_norm(x, torch.tensor([2.0, -1.0]), 12.5), torch.tensor([[6.0, -4.0]]) / 5.0, op="norm")
    assert_close(add_norm(x, x, torch.tensor([1.0, 1.0]), 12.5), x + x / 5.0, op="norm")


def test_rms_norm_is_wide_inside_and_rounds_once() -> None:
    x = (normal(4, 64) * 1e3).to(torch.bfloat16)
    weight = normal(64).to(torch.bfloat16)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    want = exact.to(torch.bfloat16)
    assert rms_norm(x, weight, 1e-6).dtype == torch.bfloat16
    assert torch.equal(rms_norm(x, weight, 1e-6), want)
    half = rms_norm(torch.full((1, 8), 6e4, dtype=torch.float16), None, 1e-6)  # squares overflow float16
    assert torch.equal(half, torch.ones_like(half))


def test_rope_turns_pairs_half_a_head_apart() -> None:
    cos, sin = rope_table(torch.tensor([[0, 5]]), 100.0, 8, 4, 8, torch.float64)
    assert cos.shape == (1, 1, 2, 4)
    angles = [5.0, 5.0 * 100.0 ** (-2 / 8), 0.0, 0.0]  # pairs 2 and 3 do not rotate
    assert_close(cos[0, 0, 1], torch.tensor([math.cos(angle) for angle in angles]), "float32", op="rope")
    x = torch.zeros(1, 1, 2, 8, dtype=torch.float64)
    x[..., 1] = 1.0
    turned = rotate(x, cos, sin)[0, 0]
    assert turned[0].tolist() == x[0, 0, 0].tolist()
    want = torch.zeros(8, dtype=torch.float64)
    want[1], want[5] = math.cos(angles[1]), math.sin(angles[1])
    assert_close(turned[1], want, "float32", op="rope")


def test_rope_scores_depend_on_distance_alone() -> None:
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8)

    def score(at: int, distance: int) -> torch.Tensor:
        tables = [
            rope_table(torch.tensor([[place]]), 1e4, 8, 8, 8, torch.float64) for place in (at, at + distance)
        ]
        return (rotate(q, *tables[0]) * rotate(k, *tables[1])).sum()

    assert score(3, 7) == pytest.approx(float(score(20, 7)), rel=1e-5)
    assert score(3, 7) != pytest.approx(float(score(3, 8)), rel=1e-3)


def test_attention_against_a_loop() -> None:
    q, k, v = normal(2, 6, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4)
    visible = torch.rand(2, 1, 3, 5, generator=DRAW) > 0.4
    visible[..., 0] = True
    want = torch.zeros_like(q)
    for b in range(2):
        for h in range(6):
            for row in range(3):
                seen = [s for s in range(5) if visible[b, 0, row, s]]
                scores = torch.stack([q[b, h, row] @ k[b, h // 3, s] for s in seen]).softmax(-1)
                want[b, h, row] = sum(
                    weight * v[b, h // 3, s] for weight, s in zip(scores, seen, strict=True)
                )
    assert_close(attention(q, k, v, visible), want, "float64", op="attention")
    assert not is_close(attention(q, k, v), want, "float64", op="attention")
    causal = attention(q, k[:, :, :3], v[:, :, :3], causal=True)
    assert_close(
        causal,
        attention(q, k[:, :, :3], v[:, :, :3], torch.ones(3, 3).tril().bool()),
        "float64",
        op="attention",
    )


@pytest.mark.parametrize("most", [1, 60, 61, 1 << 25])
@pytest.mark.parametrize("shape", [(7, 9), (1, 9), (2, 1, 7, 9), None], ids=str)
def test_scores_in_pieces_are_the_fused_kernel(
    most: int, shape: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "SCORES", most)
    q, k, v = normal(2, 6, 7, 4), normal(2, 3, 12, 4)[:, :, 3:], normal(2, 3, 9, 4)
    visible = None
    if shape:
        visible = torch.rand(shape, generator=DRAW) > 0.4
        visible[..., 0] = True
    want = attention(q, k, v, visible)
    assert_close(scored(q, k, v, visible), want, "float64", op="attention")
    assert not is_close(
        scored(q, k.flip(1), v, visible), want, "float64", op="attention"
    )  # a twin whose heads see another group
    half = [tensor.bfloat16() for tensor in (q, k, v)]
    exact = scored(*(tensor.double() for tensor in half), visible)
    assert scored(*half, visible).dtype == torch.bfloat16
    assert_close(scored(*half, visible), exact, "bfloat16", op="attention")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_in_pieces_are_never_rounded(seed: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of 30 and more, of which 16 bits would keep whole numbers and little else."""
    monkeypatch.setattr(op, "SCORES", 2000)
    make = torch.Generator().manual_seed(seed)
    shapes = (2, 6, 40, 16), (2, 3, 70, 16), (2, 3, 70, 16)
    q, k, v = (torch.randn(shape, generator=make).to(getattr(torch, dtype)) for shape in shapes)
    q = 8 * q
    want = attention(q.double(), k.double(), v.double())
    assert_close(scored(q, k, v, None), want, dtype, op="attention")
    assert not is_close(attention_of_rounded_scores(q, k, v), want, dtype, op="attention")


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_gated_mlp_by_its_formula() -> None:
    x, gate, up, down = normal(3, 4), normal(6, 4), normal(6, 4), normal(4, 6)
    assert_close(gated_mlp(x, gate, up, down), (gelu(x @ gate.T) * (x @ up.T)) @ down.T, "float64", op="mlp")


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_experts_against_a_loop_over_rows(top_k: int) -> None:
    rows, count, hidden, inner = 7, 4, 6, 5
    x, gate_up, down = normal(rows, hidden), normal(count, 2 * inner, hidden), normal(count, hidden, inner)
    proj, scale, per_expert = normal(count, hidden), normal(hidden), normal(count).abs()
    chances = router_probabilities(x, proj, scale, 1e-6)
    weights, index = choose(chances, per_expert, top_k)
    got = experts(x, gate_up, down, weights, index)
    for row in range(rows):
        state = x[row] / (x[row].square().mean() + 1e-6).sqrt() * scale / math.sqrt(hidden)
        odds = (proj @ state).exp()
        assert_close(chances[row], odds / odds.sum(), "float64", op="router")
        best = sorted(range(count), key=lambda expert: -odds[expert])[:top_k]
        want = torch.zeros(hidden, dtype=torch.float64)
        for expert in best:
            gate, up = (gate_up[expert] @ x[row]).chunk(2)  # gate rows first
            share = odds[expert] / sum(odds[other] for other in best) * per_expert[expert]
            want += share * (down[expert] @ (gelu(gate) * up))
        assert sorted(index[row].tolist()) == sorted(best)
        assert_close(got[row], want, "float64", op="experts")
    swapped = torch.cat(gate_up.chunk(2, dim=1)[::-1], dim=1)
    assert not is_close(experts(x, swapped, down, weights, index), got, "float64", op="experts"), (
        "up rows first must show"
    )


def test_an_expert_nobody_chose_costs_nothing() -> None:
    x, gate_up, down = normal(2, 3), normal(3, 4, 3), normal(3, 3, 2)
    gate_up[1] = torch.nan
    index = torch.tensor([[0, 2], [2, 0]])
    assert experts(x, gate_up, down, torch.ones(2, 2, dtype=torch.float64), index).isfinite().all()
