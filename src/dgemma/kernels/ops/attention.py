"""Scaled-dot-product attention with grouped heads and scale 1 (q and k are already normalised per head).

Torch's fused kernels make no scores: the CPU's takes everything that is asked here, those of CUDA neither
masks nor a head dim of 512, and what torch does instead there repeats K and V per query head and makes all
scores at once, 5 GB at 32k tokens of the published model. So on a card `scored` stands in: rows of queries
in pieces of bounded size. Trap: scores are float32 also where q and k are bfloat16, because a score of 64
rounded to that is off by up to 0.25.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..c import native
from ..dtypes import arithmetic, wide
from ..sizes import SCORES

FLASH = 256  # the largest head dim of the kernel that makes no scores


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T) v.

    q [B, H, Q, K]; k, v [B, G, S, K] with G dividing H; visible bool, broadcastable to [B, 1, Q, S]
    (True: may be seen) or None for all; causal: row i sees keys 0..i (only with Q == S). -> [B, H, Q, K].
    """
    has_flash = visible is None and q.element_size() == 2 and q.shape[-1] <= FLASH
    if q.is_cuda and not has_flash:
        if causal:
            visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        return scored(q, k, v, visible)
    if not causal and native.takes_attention(q, k, v, visible):
        return native.attention(q, k, v, visible)
    grouped = k.shape[1] != q.shape[1]
    kind = arithmetic(q)
    mixed = F.scaled_dot_product_attention(
        q.to(kind), k.to(kind), v.to(kind), attn_mask=visible, is_causal=causal, scale=1.0, enable_gqa=grouped
    )
    return mixed.to(q.dtype)


def scored(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """`attention` by two products, some rows of queries at a time.

    The query heads of one K and V are rows of one product.
    """
    batch, heads, rows, width = q.shape
    groups, seen = k.shape[1:3]
    kind = wide(q.dtype)
    most = max(1, SCORES // (batch * heads * seen))
    mixed = []
    for first in range(0, rows, most):
        some = q[:, :, first : first + most]
        queries = some.reshape(batch, groups, -1, width).to(kind)  # [B, G, H / G * rows of the piece, K]
        scores = queries @ k.to(kind).mT
        if visible is not None:
            every_row = visible.expand(*visible.shape[:-2], rows, seen)
            hidden = ~every_row[..., first : first + most, :]
            scores.unflatten(2, (-1, some.shape[2])).masked_fill_(hidden.unsqueeze(-3), -torch.inf)
        scores = scores.softmax(-1)
        mixed.append((scores @ v.to(kind)).view_as(some).to(q.dtype))
    return torch.cat(mixed, dim=2)
