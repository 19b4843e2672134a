"""16-bit weights widened inside their products: what float32 gives, rounded once; and where that happens."""

from __future__ import annotations

import pytest
import torch

from dgemma.config.formats import Format
from dgemma.kernels import dtypes
from dgemma.kernels.ops import widen
from dgemma.kernels.ops.attention import attention
from dgemma.kernels.quant.formats import mixture, product, quantise
from tests.helpers import assert_close, is_close
from tests.kernels.twins import attention_of_rounded_scores


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "lacks_avx512", lambda: True)
    monkeypatch.setattr(widen, "WIDENED", 96)  # several pieces, the last one short


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x.double() @ weight.double().T).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7, 40), (2, 3, 40), (0, 40)])
def test_sums_are_rounded_once(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = normal(*shape, dtype=dtype), normal(23, 40, seed=1, dtype=dtype)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(widen.product(x, weight), exact(x, weight), rtol=step, atol=step)
    turned = normal(40, 23, seed=1, dtype=dtype)  # the embedding, of which p @ E takes the columns
    torch.testing.assert_close(widen.product(x, turned.T), exact(x, turned.T), rtol=step, atol=step)


def test_twin_summed_in_16_bits() -> None:
    x, weight = normal(5, 4096), normal(3, 4096, seed=1)
    rounded = torch.zeros(5, 3, dtype=torch.bfloat16)
    for start in range(0, 4096, 64):
        rounded += widen.product(x[:, start : start + 64], weight[:, start : start + 64].contiguous())
    limits = {"rtol": 2**-8, "atol": 2**-8 * 64}
    torch.testing.assert_close(widen.product(x, weight), exact(x, weight), **limits)
    assert (rounded - exact(x, weight)).abs().max() > 2 * (
        widen.product(x, weight) - exact(x, weight)
    ).abs().max()


def test_memory_that_is_given_is_written() -> None:
    x, weight, out = normal(7, 40), normal(23, 40, seed=1), torch.zeros(7, 23, dtype=torch.bfloat16)
    assert widen.product(x, weight, out) is out and torch.equal(out, widen.product(x, weight))


def test_what_learns_and_what_is_wide_is_left_alone() -> None:
    assert widen.arithmetic(normal(2, 3)) == torch.float32
    assert widen.arithmetic(normal(2, 3).requires_grad_()) == torch.bfloat16
    assert widen.arithmetic(normal(2, 3, dtype=torch.float64)) == torch.float64
    x, weight = normal(7, 40), normal(23, 40, seed=1).requires_grad_()
    widen.product(x, weight).sum().backward()
    assert weight.grad is not None


def test_formats_and_attention_compute_wide() -> None:
    x, weight = normal(7, 64), quantise(normal(32, 64, seed=1).float(), Format("int4", 32))
    whole = weight.dequantised(torch.float32).double()
    assert_close(product(x, weight), x.double() @ whole.T, "bfloat16", op="product in few bits")
    p = normal(7, 32).abs()
    assert_close(mixture(p, weight), p.double() @ whole, "bfloat16", op="product in few bits")
    q, k, v = 8 * normal(1, 4, 40, 16), normal(1, 2, 70, 16, seed=1), normal(1, 2, 70, 16, seed=2)
    want = attention(q.double(), k.double(), v.double())
    assert_close(attention(q, k, v), want, "bfloat16", op="attention")
    assert not is_close(attention_of_rounded_scores(q, k, v), want, "bfloat16", op="attention")
