"""Scaled-dot-product attention with grouped heads and scale 1 (q and k are already normalised per head)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T) v.

    q [B, H, Q, K]; k, v [B, G, S, K] with G dividing H; visible bool, broadcastable to [B, 1, Q, S]
    (True: may be seen) or None for all; causal: row i sees keys 0..i (only with Q == S). -> [B, H, Q, K].
    """
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal, scale=1.0, enable_gqa=grouped)
