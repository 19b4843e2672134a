"""Mixture of experts: the router and the experts, grouped by rows so that each expert is one matrix product.

With 256 canvas rows and top-8 of 128 experts nearly every expert is hit, so rows are sorted by expert
once and the products run over contiguous slices; a loop with a mask per expert reads the rows 128 times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .matmul import gelu_times
from .norm import rms_norm, wide
from .select import triton_form


def router_probabilities(x: Tensor, proj: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Probabilities over the experts, [N, E], float32 or wider.

    x [N, D] is the **raw residual** (not the input of the experts): normalised without a weight here,
    times `scale` [D] and D^-0.5, then projected by `proj` [E, D].
    """
    y = rms_norm(x, None, eps) * scale * x.shape[-1] ** -0.5
    return F.linear(y, proj).to(wide(x.dtype)).softmax(-1)


def choose(probabilities: Tensor, per_expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The top_k experts of each row: weights [N, k] (renormalised to 1, then scaled) and indices [N, k]."""
    weights, index = probabilities.topk(top_k, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights * per_expert_scale[index].to(weights.dtype), index


def experts(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """Sum over a row's chosen experts of weight * down_e @ (gelu_tanh(gate_e @ x) * (up_e @ x)).

    x [N, D]; gate_up [E, 2F, D], gate rows first; down [E, D, F]; weights, index [N, k] -> [N, D] in x's dtype.
    """
    if fast := triton_form("moe", x):
        return fast.experts(x, gate_up, down, weights, index)
    top_k = index.shape[1]
    order = index.flatten().argsort(stable=True)
    rows = order // top_k
    counts = torch.bincount(index.flatten(), minlength=gate_up.shape[0]).tolist()
    grouped = x[rows].split(counts)
    outputs = []
    for expert, group in enumerate(grouped):
        if not counts[expert]:
            continue
        outputs.append(F.linear(group, gate_up[expert]))
    gate, up = torch.cat(outputs).chunk(2, dim=-1)
    inner = gelu_times(gate, up).split(counts)
    outputs = [F.linear(inner[expert], down[expert]) for expert, count in enumerate(counts) if count]
    # back to the order of the rows, then a sum over k: an index_add on CUDA would add in any order
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    chosen = torch.cat(outputs)[place].unflatten(0, (-1, top_k))
    return (chosen * weights[..., None].to(x.dtype)).sum(1)
