"""Heads: the torch reference against a loop, and the Triton form against the reference, in the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from dgemma.kernels.ops.heads import heads  # noqa: E402
from dgemma.kernels.ops.norm import rms_norm  # noqa: E402
from dgemma.kernels.ops.rope import rope_table, rotate  # noqa: E402
from dgemma.kernels.triton import heads as heads_triton  # noqa: E402
from tests.helpers import DEVICE, assert_close, is_close  # noqa: E402

EPS = 0.1


def case(
    batch: int = 2,
    rows: int = 5,
    count: int = 4,
    groups: int = 2,
    width: int = 8,
    dtype=torch.float32,
    seed: int = 0,
):
    """The arguments of `heads`; a part of each head does not rotate."""
    make = torch.Generator(DEVICE).manual_seed(seed)
    q, k, v = (
        torch.randn(batch, rows, heads * width, generator=make).to(dtype) for heads in (count, groups, groups)
    )
    q_weight, k_weight = (torch.randn(width, generator=make).to(dtype) for _ in range(2))
    positions = torch.randint(2000, (batch, rows), generator=make)
    rotary = width // 2 + width // 2 % 2
    return q, k, v, q_weight, k_weight, EPS, *rope_table(positions, 1e4, width, rotary, width, dtype)


def all_close(got, want) -> bool:
    return all(is_close(a, b, op="heads") for a, b in zip(got, want, strict=True))


def assert_all_close(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, op="heads")


def test_the_reference_against_a_loop() -> None:
    q, k, v, q_weight, k_weight, eps, cos, sin = given = case(dtype=torch.float64)
    got = heads(*given)
    for source, out, weight in ((q, got[0], q_weight), (k, got[1], k_weight), (v, got[2], None)):
        for b, head, row in torch.cartesian_prod(*(torch.arange(size) for size in out.shape[:3])).tolist():
            x = source[b, row, head * 8 : head * 8 + 8]
            x = x / (x.square().mean() + eps).sqrt()
            if weight is not None:
                x, c, s = x * weight, cos[b, 0, row], sin[b, 0, row]
                x = torch.stack(
                    [x[i] * c[i % 4] + (-x[i + 4] if i < 4 else x[i - 4]) * s[i % 4] for i in range(8)]
                )
            assert_close(out[b, head, row], x, "float64", op="heads")
    raw = heads(q, k, None, *given[3:])
    assert torch.equal(raw[1], got[1]) and torch.equal(raw[2], heads(q, k, k, *given[3:])[2])


@settings(max_examples=30)
@given(
    st.integers(1, 3), st.integers(1, 9), st.sampled_from(((1, 1), (4, 2), (3, 3))), st.sampled_from((2, 12, 16, 64)),
    st.booleans(),
)  # fmt: skip
def test_they_agree(batch: int, rows: int, counts: tuple[int, int], width: int, raw: bool) -> None:
    q, k, v, *rest = case(batch, rows, *counts, width)
    v = None if raw else v
    got, want = heads_triton.heads(q, k, v, *rest), heads(q, k, v, *rest)
    for one, other in zip(got, want, strict=True):
        assert one.is_contiguous()
        assert_close(one, other, op="heads")


def test_more_rows_than_a_block_holds() -> None:
    given = case(1, 37, 2, 1, 64)
    assert all_close(heads_triton.heads(*given), heads(*given))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_rounded_is_rounded_at_the_same_places(dtype: torch.dtype) -> None:
    given = case(1, 40, width=16, dtype=dtype)
    differing = [
        float((a != b).float().mean()) for a, b in zip(heads_triton.heads(*given), heads(*given), strict=True)
    ]
    assert max(differing) < 0.01  # a card's rsqrt may flip a few last bits
    whole = [x.to(dtype) for x in heads(*(x.float() if isinstance(x, torch.Tensor) else x for x in given))]
    twin = [float((a != b).float().mean()) for a, b in zip(whole, heads(*given), strict=True)]
    assert min(twin[:2]) > 0.05, "rounding once at the end must show"


def test_projections_may_be_columns_of_one_product_and_tables_may_be_shared() -> None:
    q, k, v, *rest, cos, sin = case(2, 6)
    q, k, v = torch.cat((q, k, v), dim=-1).split((32, 16, 16), dim=-1)
    assert q.stride(1) == 64
    shared = cos[:1], sin[:1]
    assert_all_close(heads_triton.heads(q, k, v, *rest, *shared), heads(q, k, v, *rest, *shared))
    turned = q.transpose(0, 1).contiguous().transpose(0, 1), k.mT.contiguous().mT, v
    assert_all_close(heads_triton.heads(*turned, *rest, cos, sin), heads(q, k, v, *rest, cos, sin))


TWINS = [
    "pairs are neighbours",
    "turned the other way",
    "v from normed k",
    "v weighted",
    "another eps",
    "columns",
    "rows",
]


@pytest.mark.parametrize("twin", TWINS)
def test_twins_are_rejected(twin: str) -> None:
    q, k, v, q_weight, k_weight, eps, cos, sin = given = case()
    want = list(heads(*given))
    assert_all_close(heads_triton.heads(*given), want)
    if twin == "pairs are neighbours":
        x = (
            rms_norm(q.unflatten(-1, (4, 8)).transpose(1, 2), q_weight, eps)
            .unflatten(-1, (4, 2))
            .mT.flatten(-2)
        )
        want[0] = rotate(x, cos, sin).unflatten(-1, (2, 4)).mT.flatten(-2)
    elif twin == "turned the other way":
        want = heads(*given[:-1], -sin)
    elif twin == "v from normed k":
        given = (q, k, None, *given[3:])
        want = [
            *heads(*given)[:2],
            rms_norm(rms_norm(k.unflatten(-1, (2, 8)).transpose(1, 2), k_weight, eps), None, eps),
        ]
    elif twin == "v weighted":
        want[2] = want[2] * k_weight
    elif twin == "another eps":
        want = heads(*given[:5], 1e-6, cos, sin)
    elif twin == "columns":
        want = heads(q.unflatten(-1, (8, 4)).mT.flatten(-2), *given[1:])
    else:
        want = heads(*(x.roll(1, 1) for x in (q, k, v)), *given[3:])
    assert not all_close(heads_triton.heads(*given), want)


def test_the_public_function_asks_for_this_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, given = [], case()
    monkeypatch.setattr(heads_triton, "heads", lambda *arguments: asked.append(len(arguments)))
    for kernels in ("torch", "triton"):
        monkeypatch.setenv("DGEMMA_KERNELS", kernels)
        heads(*given)
    assert asked == [8]
