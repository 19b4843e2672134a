"""The gated MLP, dense. Weights are [out, in]; the activation is GELU in its tanh form."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .select import fusable


@fusable
def gelu_times(gate: Tensor, up: Tensor) -> Tensor:
    """gelu_tanh(gate) * up, elementwise."""
    return F.gelu(gate, approximate="tanh") * up


def gated_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down @ (gelu_tanh(gate @ x) * (up @ x)); x [..., D], gate and up [F, D], down [D, F] -> [..., D]."""
    return F.linear(gelu_times(F.linear(x, gate), F.linear(x, up)), down)
