"""Forms of an operation that round where none may: what every 16-bit parity test must tell from the right ones."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_of_rounded_scores(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Attention that is exact but for its scores, which have the dtype of q before the softmax."""
    keys, values = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1).double() for x in (k, v))
    scores = (q.double() @ keys.mT).to(q.dtype).double()
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ values


def product_of_rounded_sums(x: Tensor, weight: Tensor, piece: int = 8) -> Tensor:
    """x [..., I] times weight [O, I], whose running sum has the dtype of x after every few inputs."""
    total = x.new_zeros(*x.shape[:-1], weight.shape[0])
    for start in range(0, x.shape[-1], piece):
        part = x[..., start : start + piece].double() @ weight[:, start : start + piece].double().T
        total = (total.double() + part).to(x.dtype)
    return total
