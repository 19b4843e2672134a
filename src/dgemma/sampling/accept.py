"""Entropy-bound acceptance (arXiv:2505.24857): the surest positions, while their joint entropy stays small.

The sum that is bounded leaves out the position itself, so at least one free position is always accepted.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accept(entropy: Tensor, bound: Tensor, free: Tensor) -> Tensor:
    """Which positions take their sampled token, [B, C] bool.

    entropy [B, C] in nats, bound [B] in nats, free [B, C] bool: pinned cells (not free) are never
    accepted and cost nothing. Ties are broken by position, so that the choice is the same on every device.
    """
    entropy = entropy.masked_fill(~free, torch.inf)
    ordered, order = entropy.sort(dim=-1, stable=True)
    before = torch.nn.functional.pad(ordered[:, :-1].cumsum(-1), (1, 0))
    chosen = (before <= bound[:, None]) & ordered.isfinite()
    return torch.zeros_like(free).scatter(-1, order, chosen)
