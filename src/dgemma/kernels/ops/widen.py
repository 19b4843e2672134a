"""16-bit weights on CPUs that multiply 16-bit numbers slower than 32-bit ones: widened to float32 a piece
at a time.

An x86 processor without AVX-512 has no such products, and torch's stand-in reaches 10 GFLOP/s in bfloat16
where float32 reaches 66 (Zen 3, 2 threads, 1024-cube). A piece of a matrix turned into float32 in memory
that stays in the cache costs little beside its product with a canvas. Sums are float32 in both forms; only
their order differs. Trap: a product of one row is bound by the conversion; nothing here is meant for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dtypes import arithmetic
from ..sizes import WIDENED


def product(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x [..., I] @ weight [O, I]^T -> [..., O], in `out` where given; both in one dtype."""
    kind = arithmetic(x)
    if kind == x.dtype or weight.requires_grad:
        if out is None:
            return F.linear(x, weight)
        return torch.mm(x, weight.T, out=out)
    if not weight.is_contiguous():
        return _by_inputs(x, weight, kind)
    if out is None:
        out = x.new_empty((*x.shape[:-1], len(weight)))
    return _by_outputs(x.to(kind), weight, out)


def _by_outputs(x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    size = max(1, WIDENED // weight.shape[1])
    wide = torch.empty((min(size, len(weight)), weight.shape[1]), dtype=x.dtype)
    for start in range(0, len(weight), size):
        piece = weight[start : start + size]
        out[..., start : start + size] = F.linear(x, wide[: len(piece)].copy_(piece))
    return out


def _by_inputs(x: Tensor, weight: Tensor, kind: torch.dtype) -> Tensor:
    """A weight that is another one turned (the embedding, [D, V]): its inputs lie row by row."""
    rows = weight.T
    size = max(1, WIDENED // weight.shape[0])
    total = x.new_zeros((*x.shape[:-1], weight.shape[0]), dtype=kind)
    wide = torch.empty((min(size, len(rows)), rows.shape[1]), dtype=kind)
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        total += x[..., start : start + size].to(kind) @ wide[: len(piece)].copy_(piece)
    return total.to(x.dtype)
