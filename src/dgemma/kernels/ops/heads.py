"""The heads of a layer: projections split by head, a norm per head on q, k and v, rope on q and k.

It refuses to know where the projections come from and where K and V go. Trap: a layer without a v
projection takes V from the **raw** K projection, before k's norm and rope.
"""

from __future__ import annotations

from torch import Tensor

from ..c import native
from ..select import triton_backend
from .norm import rms_norm
from .rope import rotate


def heads(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, T, H*K], k and v [B, T, G*K] (v None: the raw k) -> q [B, H, T, K], k and v [B, G, T, K].

    q_weight, k_weight [K]; v's norm has no weight. cos, sin [B, 1, T, K/2] of `rope_table`, in the dtype of
    q. A head is rounded to that dtype after its norm, then turned.
    """
    if fast := triton_backend("heads", q):
        split: tuple[Tensor, Tensor, Tensor] = fast.heads(q, k, v, q_weight, k_weight, eps, cos, sin)
        return split
    width = q_weight.shape[0]
    queries = q.unflatten(-1, (-1, width))
    keys = k.unflatten(-1, (-1, width))
    values = keys
    if v is not None:
        values = v.unflatten(-1, (-1, width))
    if native.norms(queries, q_weight):
        queries = native.norm(queries, q_weight, eps, turn=(cos, sin))
        keys = native.norm(keys, k_weight, eps, turn=(cos, sin))
        values = native.norm(values, None, eps)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    # turned after the norm, whose rows lie together before it
    queries = rms_norm(queries, q_weight, eps).transpose(1, 2)
    keys = rms_norm(keys, k_weight, eps).transpose(1, 2)
    values = rms_norm(values, None, eps).transpose(1, 2)
    return rotate(queries, cos, sin), rotate(keys, cos, sin), values
