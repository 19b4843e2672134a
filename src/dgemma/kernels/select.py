"""Which form of an operation runs, chosen once per process.

Today there are two: plain torch, and the same functions compiled into fused loops by torch.compile
(`fuse`), which training turns on. On 2 CPU cores an elementwise chain over [4096, 256] costs 5-7
memory passes in plain torch; fused, a training step takes 5.3 s of processor time instead of 7.3 s.
Generation keeps the plain form: compiling takes longer than a prompt does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_fused = False


def fuse(on: bool = True) -> None:
    """Run every `fusable` function in its compiled form (needs a C++ compiler on CPU, Triton on CUDA)."""
    global _fused
    _fused = on


def fusable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function of tensors, made of elementwise and row-wise operations only, as one that may be compiled."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        import torch

        torch._dynamo.config.recompile_limit = 32  # one form per shape: training keeps its shapes fixed for this
        return torch.compile(function, dynamic=False)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return compiled()(*arguments) if _fused else function(*arguments)

    return call
