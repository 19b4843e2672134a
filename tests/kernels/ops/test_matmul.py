"""Packed weights against plain ones: the same products, activations inside them, a whole model."""

from __future__ import annotations

import copy

import pytest
import torch

from dgemma.kernels.ops import matmul
from dgemma.kernels.ops.matmul import PACKED, activated, can_pack, gated_mlp, linear, pack, pack_table
from dgemma.kernels.ops.moe import experts
from dgemma.kernels.ops.vocab import head, soft_embedding
from dgemma.model.build import count_parameters
from dgemma.model.build import pack as pack_model
from tests.helpers import assert_close, is_close, lively_model, tiny_config

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no oneDNN")
KINDS = [str(dtype).removeprefix("torch.") for dtype in PACKED if can_pack(dtype)]


@pytest.fixture(autouse=True)
def _pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed products are tested wherever they work."""
    monkeypatch.setattr(matmul, "lacks_avx512", lambda: False)
    monkeypatch.setattr(matmul, "SMALL", 0)


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> torch.Tensor:
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * shape[-1] ** -0.5
    return draw.to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_a_packed_product_is_the_plain_one(rows: int, dtype: str) -> None:
    x, weight = normal(2, rows, 40, dtype=dtype), normal(24, 40, seed=1, dtype=dtype)
    assert_close(linear(x, pack(weight)), linear(x, weight), dtype, op="product")
    assert_close(activated(x, pack(weight), "tanh"), linear(x, weight).tanh(), dtype, op="product")
    assert not is_close(linear(x, pack(weight.roll(1, 0))), linear(x, weight), dtype, op="product")


@pytest.mark.parametrize("dtype", KINDS)
def test_a_packed_mlp_is_the_plain_one(dtype: str) -> None:
    x, gate, up, down = (
        normal(*shape, seed=n, dtype=dtype) for n, shape in enumerate([(9, 40), (24, 40), (24, 40), (40, 24)])
    )
    packed = [pack(weight) for weight in (gate, up, down)]
    assert_close(gated_mlp(x, *packed), gated_mlp(x, gate, up, down), dtype, op="mlp")
    assert not is_close(
        gated_mlp(x, packed[1], packed[0], packed[2]), gated_mlp(x, gate, up, down), dtype, op="mlp"
    )


def test_packed_experts_are_the_plain_ones() -> None:
    x, gate_up, down = normal(30, 24), normal(5, 20, 24, seed=1), normal(5, 24, 10, seed=2)
    weights, index = normal(30, 4, seed=3).softmax(-1).topk(2, dim=-1)
    pairs = [(pack(both[:10]), pack(both[10:])) for both in gate_up]
    want = experts(x, gate_up, down, weights, index)
    assert_close(experts(x, pairs, [pack(weight) for weight in down], weights, index), want, op="experts")
    assert not is_close(
        experts(x, pairs, [pack(weight) for weight in down.roll(1, 0)], weights, index), want, op="experts"
    )


@pytest.mark.parametrize("dtype", KINDS)
def test_a_packed_head_says_what_the_plain_one_says(dtype: str) -> None:
    hidden, table = normal(2, 6, 32, dtype=dtype) * 40, normal(2100, 32, seed=1, dtype=dtype) * 6
    heat, uniforms = torch.tensor([1.25, 2.0], dtype=torch.float64), torch.rand(2, 6, 2)
    got, want = (head(hidden, weight, 5.0, heat, uniforms) for weight in (pack_table(table), table))
    assert_close(got.entropy, want.entropy, dtype, op="head")
    mixed = soft_embedding(got.p, got.row_sum, pack(table.T), 3.0)
    assert_close(mixed, soft_embedding(want.p, want.row_sum, table.T, 3.0), dtype, op="head")
    if dtype == "float32":
        assert torch.equal(got.argmax, want.argmax) and torch.equal(got.sample, want.sample)
        assert not is_close(
            head(hidden, pack_table(table), 5.5, heat, uniforms).entropy, want.entropy, dtype, op="head"
        )


@torch.no_grad()
def test_a_packed_model_is_the_plain_one() -> None:
    plain = lively_model(tiny_config("SSF"), seed=4)
    packed = pack_model(copy.deepcopy(plain))
    assert packed.packed and not isinstance(packed.layers[0].experts.down_proj, torch.Tensor)
    ids, canvas = torch.randint(48, (1, 9)), torch.randint(48, (1, 6))
    for model in (plain, packed):
        kv = [model.new_cache()]
        model.encode(ids, kv)
        hidden = model.denoise(canvas, kv)
        stats = head(hidden, model.table, 30.0, torch.ones(1), torch.full((1, 6, 2), 0.5))
        found = torch.cat((hidden, model.denoise(canvas, kv, (stats.p, stats.row_sum))))
        if model is plain:
            want = found
    assert_close(found, want)


def test_without_avx512_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "lacks_avx512", lambda: True)
    assert pack_model(lively_model(tiny_config("SF"))).packed is None


def test_what_no_kernel_packs_stays_plain() -> None:
    model = pack_model(lively_model(tiny_config("SF"), dtype="float64"))
    assert model.packed is None and count_parameters(model) == count_parameters(
        lively_model(tiny_config("SF"))
    )


def test_a_processor_that_refuses_a_dtype_keeps_its_weights_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("bf16 path needs the cpu support avx512bw")

    can_pack.cache_clear()
    monkeypatch.setattr(matmul, "pack", refused)
    try:
        assert not can_pack(torch.bfloat16)
        assert pack_model(lively_model(tiny_config("SF"), dtype="bfloat16")).packed is None
    finally:
        can_pack.cache_clear()
