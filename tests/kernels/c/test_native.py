"""The C kernels against torch's forms in float64: each within what its dtype rounds, with a twin that must fail, and a row by itself what it is in company."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.kernels.c import native
from dgemma.kernels.ops.attention import attention
from dgemma.kernels.ops.heads import heads
from dgemma.kernels.ops.matmul import gated_mlp, linear, pack, pack_table
from dgemma.kernels.ops.moe import choose_experts, experts
from dgemma.kernels.ops.norm import add_norm, rms_norm
from dgemma.kernels.ops.vocab import CanvasStats, head, soft_embedding
from dgemma.kernels.select import CHOICE, has_instructions
from tests.helpers import assert_close, is_close
from tests.kernels.twins import (
    attention_of_rounded_scores,
    product_of_rounded_sums,
)
from tests.native import dtypes, native_kernels, skip  # noqa: F401

needed = pytest.mark.parametrize("dtype", dtypes() or [pytest.param(None, marks=skip)], ids=str)
pytestmark = pytest.mark.usefixtures("native_kernels")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * shape[-1] ** -0.5 * scale


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def close(got: Tensor, want: Tensor, dtype: torch.dtype, op: str) -> bool:
    return is_close(got, want, name_of(dtype), op=op)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="no C compiler")
def test_they_are_built_where_they_can_be() -> None:
    """What is installed with a compiler at hand has them; after a change of the sources: python hatch_build.py, or make test."""
    for dtype, needs in native.NEEDS.items():
        assert not has_instructions(*needs) or not isinstance(native._library(dtype), str), native._library(
            dtype
        )


@needed
def test_other_sources_libraries_are_not_used(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    native._library.cache_clear()
    monkeypatch.setattr(native, "source_hash", lambda: 1)
    assert "other sources" in str(native.why_not(dtype))
    native._library.cache_clear()
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    assert "not built" in str(native.why_not(dtype))
    native._library.cache_clear()
    (tmp_path / f"{name_of(dtype)}.so").write_bytes(b"not a library")
    assert "could not be loaded" in str(native.why_not(dtype)) and not native.available(dtype)
    monkeypatch.undo()
    native._library.cache_clear()
    assert native.available(dtype)
    assert native.why_not(torch.float64) and not native.available(torch.float64)
    monkeypatch.setenv(CHOICE, "torch")
    assert not native.available(dtype)


@needed
def test_panels_hold_each_number_once(dtype: torch.dtype) -> None:
    weight, word = normal(96, 64).to(dtype), 4 // dtype.itemsize
    right = weight.view(3, 32, 64 // word, word).transpose(1, 2)
    assert torch.equal(native.panels(weight), right)
    assert torch.equal(native.panels(weight.T.contiguous().T), right)
    both = torch.stack([weight, weight.flip(0)])
    assert torch.equal(native.panels(both)[1], native.panels(weight.flip(0)))
    assert (
        not native.takes(normal(96, 40).to(dtype))
        and not native.takes(normal(95, 64).to(dtype))
        and not native.takes(weight[:, ::2])
    )
    assert not native.takes(weight.double()) and native.takes(weight)


@needed
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 32, 32), (7, 64, 96), (64, 96, 64), (77, 64, 32), (300, 4128, 320), (9, 2080, 64)],
)
def test_products(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    """Among them sums long enough to be taken in pieces, and rows enough for several tasks."""
    x, weight = normal(rows, inputs, scale=3).to(dtype), normal(outputs, inputs, seed=1, scale=3).to(dtype)
    want = x.double() @ weight.double().T
    got = linear(x[None], native.panels(weight))[0]
    assert_close(got, want, name_of(dtype), op="product")
    assert torch.equal(native.product(x[-1:], native.panels(weight))[0], got[-1]), (
        "a row's numbers depend on nothing but that row"
    )
    assert_close(native.product(x, native.panels(weight), "tanh"), want.tanh(), name_of(dtype), op="product")
    assert not close(linear(x, native.panels(weight.roll(1, 1))), want, dtype, op="product")
    if dtype == torch.bfloat16 and inputs > 1000:
        assert not close(product_of_rounded_sums(x, weight), want, dtype, op="product")
    wide = torch.zeros(rows, outputs + 32, dtype=dtype)
    native.product(x, native.panels(weight), out=wide[:, 32:])
    assert torch.equal(wide[:, 32:], got) and not wide[:, :32].any()


@needed
def test_a_gated_mlp(dtype: torch.dtype) -> None:
    x, gate, up, down = (
        normal(*shape, seed=n, scale=4).to(dtype)
        for n, shape in enumerate([(19, 64), (96, 64), (96, 64), (64, 96)])
    )
    want = gated_mlp(x.double(), gate.double(), up.double(), down.double())
    laid = [native.panels(weight) for weight in (gate, up, down)]
    assert_close(gated_mlp(x, *laid), want, name_of(dtype), op="mlp")
    assert not close(gated_mlp(x, laid[1], laid[0], laid[2]), want, dtype, op="mlp")


@needed
@pytest.mark.parametrize("rows", [1, 30, 200])
def test_experts(rows: int, dtype: torch.dtype) -> None:
    """Some are hit by more rows than one task takes, some by none."""
    x, gate_up, down = (
        normal(*shape, seed=n, scale=3).to(dtype)
        for n, shape in enumerate([(rows, 64), (6, 128, 64), (6, 64, 64)])
    )
    favourite = torch.tensor([3.0, 0, 0, 0, 0, -9])
    weights, index = (normal(rows, 6, seed=3, scale=2) + favourite).softmax(-1).topk(2, dim=-1)
    laid = native.panels(gate_up), native.panels(down)
    want = experts(x.double(), gate_up.double(), down.double(), weights.double(), index)
    got = experts(x, *laid, weights, index)
    assert_close(got, want, name_of(dtype), op="experts")
    assert torch.equal(experts(x[-1:], *laid, weights[-1:], index[-1:])[0], got[-1])
    assert not close(
        experts(x, native.panels(gate_up.roll(64, 1)), laid[1], weights, index), want, dtype, op="experts"
    )
    assert not close(experts(x, *laid, weights, (index + 1) % 6), want, dtype, op="experts")


@needed
def test_the_router_chooses_as_torch_does(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, proj, scale, each = (
        normal(500, 96, scale=30).to(dtype),
        normal(24, 96, seed=1, scale=9).to(dtype),
        *(torch.rand(2, 96) + 0.5).to(dtype),
    )
    arguments = proj, scale, each[:24], 1e-6, 4
    weights, index = choose_experts(x, *arguments)
    assert weights.dtype == torch.float32 and index.dtype == torch.int64
    monkeypatch.setenv(CHOICE, "torch")
    want, chosen = choose_experts(x, *arguments)
    same = (index.sort(-1).values == chosen.sort(-1).values).all(-1)  # of equal scores torch takes any
    assert same.float().mean() > 0.97
    spread = torch.zeros(500, 24).scatter_(1, index, weights), torch.zeros(500, 24).scatter_(1, chosen, want)
    assert (spread[0] - spread[1])[same].abs().max() < (1e-5 if dtype == torch.float32 else 5e-3)
    turned = choose_experts(x, proj.flip(0), *arguments[1:])[1]
    assert (turned.sort(-1).values == chosen.sort(-1).values).all(-1).float().mean() < 0.2


@needed
def test_norms(dtype: torch.dtype) -> None:
    x, residual, weight = (
        normal(33, 96, scale=50).to(dtype),
        normal(33, 96, seed=1, scale=20).to(dtype),
        (torch.rand(96) + 0.5).to(dtype),
    )
    for got, want in (
        (rms_norm(x, weight, 1e-6), rms_norm(x.double(), weight.double(), 1e-6)),
        (rms_norm(x, None, 1e-6), rms_norm(x.double(), None, 1e-6)),
        (add_norm(residual, x, weight, 1e-6), add_norm(residual.double(), x.double(), weight.double(), 1e-6)),
    ):
        assert_close(got, want, name_of(dtype), op="norm")
        assert not close(got, want.roll(1, -1), dtype, op="norm")
    assert not rms_norm(x * 0, weight, 1e-6).any()


@needed
@pytest.mark.parametrize("shared", [True, False], ids=["one table", "a table each"])
@pytest.mark.parametrize("own_v", [True, False], ids=["v", "raw k"])
def test_heads(dtype: torch.dtype, own_v: bool, shared: bool) -> None:
    q, k, v = (normal(2, 5, count * 64, seed=count, scale=9).to(dtype) for count in (4, 2, 2))
    weight, angle = (torch.rand(2, 64) + 0.5).to(dtype), torch.rand(1 if shared else 2, 1, 5, 32) * 6
    tables = angle.cos().to(dtype), angle.sin().to(dtype)
    exact = [x.double() for x in (q, k, v, *weight, *tables)]
    want = heads(exact[0], exact[1], exact[2] if own_v else None, exact[3], exact[4], 1e-6, *exact[5:])
    got = heads(q, k, v if own_v else None, *weight, 1e-6, *tables)
    for mine, right in zip(got, want, strict=True):
        assert_close(mine, right, name_of(dtype), op="heads")
    assert not close(heads(q, k, v, *weight, 1e-6, tables[1], tables[0])[0], want[0], dtype, op="heads")


@needed
@pytest.mark.parametrize("masked", [False, True], ids=["all", "some"])
@pytest.mark.parametrize(
    ("count", "groups", "rows", "keys", "width"),
    [(4, 2, 5, 77, 32), (2, 1, 1, 1, 64), (8, 2, 70, 300, 64), (2, 2, 40, 129, 256), (2, 1, 9, 260, 512)],
)
def test_attention(
    count: int, groups: int, rows: int, keys: int, width: int, masked: bool, dtype: torch.dtype
) -> None:
    q, k, v = (
        normal(2, *shape, width, seed=n, scale=width**0.25 * 2).to(dtype)
        for n, shape in enumerate([(count, rows), (groups, keys), (groups, keys)])
    )
    q, k = (
        q.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat((k, k), dim=2)[:, :, :keys],
    )  # rows that do not lie together
    visible = None
    if masked:  # the last rows see all, the first only the end: whole pieces of keys are hidden from some
        visible = torch.arange(keys)[None, :] >= torch.linspace(keys - 1, 0, rows).long()[:, None]
    want = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=visible, scale=1.0, enable_gqa=True
    )
    got = attention(q, k, v, visible)
    assert native.takes_attention(q, k, v, visible) and got.shape == want.shape
    assert_close(got, want, name_of(dtype), op="attention")
    alone = attention(q[:1, :, -1:], k[:1], v[:1], None if visible is None else visible[-1:])
    assert torch.equal(alone[0, :, 0], got[0, :, -1]), "a row's numbers depend on nothing but that row"
    if keys > 1:
        assert not close(attention(q, k, v.roll(1, 2), visible), want, dtype, op="attention")
    if keys > 1 and dtype == torch.bfloat16:
        assert not close(attention_of_rounded_scores(q, k, v, visible), want, dtype, op="attention")


@needed
def test_a_hidden_key_is_never_read_into_an_answer(dtype: torch.dtype) -> None:
    q, k, v = (normal(1, 2, 40, 32, seed=n).to(dtype) for n in range(3))
    k[:, :, 30:], v[:, :, 30:] = 1e4, 1e4
    seen = torch.arange(40).expand(40, 40) < 30
    assert torch.equal(attention(q, k, v, seen), attention(q, k[:, :, :30], v[:, :, :30]))
    k[:, :, 7] = math.nan
    assert (
        attention(q, k, v, seen).isnan().all()
        and not attention(q, k, v, seen & (torch.arange(40) != 7)).isnan().any()
    )


def told(
    dtype: torch.dtype,
    lay: Callable[[Tensor], Tensor | list[Tensor]],
    mask: Tensor | None = None,
    hidden: Tensor | None = None,
) -> CanvasStats:
    hidden = normal(2, 9, 64, scale=9) if hidden is None else hidden
    heat, uniforms = (
        torch.tensor([1.25, 2.0], dtype=torch.float64),
        torch.rand(2, 9, 2, generator=torch.Generator().manual_seed(1)),
    )
    return head(
        hidden.to(dtype),
        lay(normal(544, 64, seed=1, scale=4).to(dtype)),
        5.0,
        heat,
        uniforms.to(dtype if dtype == torch.float64 else torch.float32),
        mask,
    )


@needed
@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "some tokens"])
def test_a_head(masked: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """544 tokens: the last tile is not whole. With a mask only the product is in C."""
    mask = torch.rand(2, 9, 544, generator=torch.Generator().manual_seed(2)) < 0.5 if masked else None
    settled = []
    monkeypatch.setattr(
        native, "settle", lambda *rest, right=native.settle: settled.append(1) or right(*rest)
    )
    got, want = (
        told(dtype, pack_table, mask),
        told(torch.float64, lambda table: table, mask, normal(2, 9, 64, scale=9).to(dtype).double()),
    )
    exact = told(dtype, lambda table: table, mask)
    assert bool(settled) != masked
    if dtype == torch.float32:
        assert torch.equal(got.argmax, want.argmax) and torch.equal(got.sample, want.sample)
        assert_close(got.entropy, want.entropy, "float32", op="head")
    assert_close(got.entropy, exact.entropy, name_of(dtype), op="head")
    assert_close(got.row_sum, got.p.double().sum(-1), "float32", op="head")
    assert (got.p.gather(-1, got.argmax[..., None]) == 1).all() and (got.p <= 1).all()
    table = normal(544, 64, seed=1, scale=4).to(dtype)
    mixed = soft_embedding(got.p, got.row_sum, pack(table.T), 3.0)
    assert_close(
        mixed,
        3.0 * (got.p.double() @ table.double()) / got.row_sum.double()[..., None],
        name_of(dtype),
        op="head",
    )
    assert not close(
        told(dtype, lambda table: pack_table(table.roll(1, 1)), mask).p, want.p, dtype, op="head"
    )


@needed
def test_what_is_not_finite_is_told_and_stays_in_its_row(dtype: torch.dtype) -> None:
    hidden = normal(2, 9, 64, scale=9)
    spoilt = hidden.clone()
    spoilt[0, 3, 5] = math.nan
    got, right = told(dtype, pack_table, hidden=spoilt), told(dtype, pack_table, hidden=hidden)
    fine = torch.ones(2, 9, dtype=torch.bool)
    fine[0, 3] = False
    assert (
        got.entropy[0, 3].isnan()
        and torch.equal(got.entropy[fine], right.entropy[fine])
        and torch.equal(got.p[fine], right.p[fine])
    )


@needed
def test_what_learns_stays_with_torch(dtype: torch.dtype) -> None:
    x, weight = normal(4, 64).to(dtype).requires_grad_(), torch.ones(64, dtype=dtype)
    rms_norm(x, weight, 1e-6).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert native.runs(x)
