"""Mixture of experts: the router and the experts, grouped by rows so that each expert is one matrix
product.

With 256 canvas rows and top-8 of 128 experts nearly every expert is hit, so rows are sorted by expert once
and the products run over contiguous slices; a loop with a mask per expert reads the rows 128 times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..c import native
from ..dtypes import wide
from ..quant.formats import Weight
from ..select import triton_backend
from .matmul import Pair, gated, gelu_times, linear
from .norm import rms_norm

ROWS = 8  # packed experts work on multiples of so many rows


def router_probabilities(x: Tensor, proj: Weight, scale: Tensor, eps: float) -> Tensor:
    """Probabilities over the experts, [N, E], float32 or wider.

    x [N, D] is the **raw residual** (not the input of the experts): normalised without a weight here,
    times `scale` [D] and D^-0.5, then projected by `proj` [E, D].
    """
    y = rms_norm(x, None, eps) * scale * x.shape[-1] ** -0.5
    return linear(y, proj).to(wide(x.dtype)).softmax(-1)


def choose(probabilities: Tensor, per_expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The top_k experts of each row: weights [N, k] (renormalised to 1, then scaled) and indices [N, k]."""
    weights, index = probabilities.topk(top_k, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights * per_expert_scale[index].to(weights.dtype), index


def choose_experts(
    x: Tensor, proj: Weight, scale: Tensor, per_expert_scale: Tensor, eps: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """`choose` of `router_probabilities`: weights [N, k], float32 or wider, and indices [N, k] int64 of x
    [N, D].
    """
    if isinstance(proj, Tensor) and (fast := triton_backend("router", x)):
        choice: tuple[Tensor, Tensor] = fast.choose_experts(x, proj, scale, per_expert_scale, eps, top_k)
        return choice
    if isinstance(proj, Tensor) and native.norms(x, proj) and native.runs(scale, per_expert_scale):
        return native.router(x, proj, scale, per_expert_scale, eps, top_k)
    return choose(router_probabilities(x, proj, scale, eps), per_expert_scale, top_k)


def experts(
    x: Tensor,
    gate_up: Weight | Sequence[Pair],
    down: Weight | Sequence[Weight],
    weights: Tensor,
    index: Tensor,
) -> Tensor:
    """Sum over a row's chosen experts of weight * down_e @ (gelu_tanh(gate_e @ x) * (up_e @ x)).

    x [N, D]; gate_up [E, 2F, D], gate rows first; down [E, D, F]; weights, index [N, k] -> [N, D] in x's
    dtype. gate_up and down may be in few bits (quant/formats.py), in panels (c/native.py), or lists of
    matrices, packed (matmul.py) or in few bits.
    """
    if (fast := triton_backend("moe", x)) and fast.takes(gate_up) and fast.takes(down):
        mixed: Tensor = fast.experts(x, gate_up, down, weights, index)
        return mixed
    if isinstance(gate_up, Tensor) and isinstance(down, Tensor):
        if native.in_panels(down):
            return native.experts(x, gate_up, down, weights, index)
        return _plain_experts(x, gate_up, down, weights, index)
    hit, sizes, place = _padded(index.flatten(), len(gate_up))
    numbers = torch.arange(index.numel(), device=x.device) // index.shape[1]
    source = torch.zeros(sum(sizes), dtype=torch.int64, device=x.device).scatter_(0, place, numbers)
    grouped = x.index_select(0, source).split(sizes)  # indexing with [] takes 7 times as long on a CPU
    outputs = []
    for rows, expert in zip(grouped, hit, strict=True):
        inner = gated(rows, *gate_and_up(gate_up, expert))
        outputs.append(linear(inner, down[expert]))
    # gathers, weighs and adds up a row's choices, in their order, without a copy of them: 0.06 ms instead
    # of 0.5
    return F.embedding_bag(
        place.view_as(index), torch.cat(outputs), per_sample_weights=weights.to(x.dtype), mode="sum"
    )


def gate_and_up(gate_up: Weight | Sequence[Pair], expert: int) -> Pair:
    """The two matrices of an expert, whichever way its weights are held."""
    both = gate_up[expert]
    if isinstance(both, tuple):
        return both
    half = len(both) // 2
    return both[:half], both[half:]


def _plain_experts(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    top_k = index.shape[1]
    flat = index.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=len(gate_up)).tolist()
    hit = [expert for expert, count in enumerate(counts) if count]
    sizes = [counts[expert] for expert in hit]
    grouped = x[order // top_k].split(sizes)
    both = torch.cat([linear(rows, gate_up[e]) for rows, e in zip(grouped, hit, strict=True)])
    gate, up = both.chunk(2, dim=-1)
    inner = gelu_times(gate, up).split(sizes)
    # back to the order of the rows, then a sum over k: an index_add on CUDA would add in any order
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    chosen = torch.cat([linear(rows, down[e]) for rows, e in zip(inner, hit, strict=True)])[place]
    by_row: Tensor = chosen.unflatten(0, (-1, top_k))
    return (by_row * weights[..., None].to(x.dtype)).sum(1)


def _padded(flat: Tensor, experts: int) -> tuple[list[int], list[int], Tensor]:
    """Groups whose sizes are multiples of ROWS.

    -> the experts that were hit, rows of each, and the place of every choice in `flat`. oneDNN makes machine
    code for every number of rows it meets: without this a small model made 240 MB of it.
    """
    counts = torch.bincount(flat, minlength=experts)
    sizes = (counts + ROWS - 1) // ROWS * ROWS
    owner, order = flat.sort(stable=True)
    shift = (sizes - counts).cumsum(0) - (sizes - counts)  # rows that pad the groups before an expert's
    shifted = torch.arange(len(flat), device=flat.device) + shift[owner]
    place = torch.empty_like(order).scatter_(0, order, shifted)
    padded = sizes.tolist()
    hit = [expert for expert, size in enumerate(padded) if size]
    return hit, [padded[expert] for expert in hit], place
