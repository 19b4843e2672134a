"""What a pass must cost on this machine: its floating-point operations over the matrix rate, its bytes over the bandwidth.

Both rates are measured in the same run, because a virtual machine's neighbours and a card's clock are part of the
machine. Arithmetic counts matrix products only and bytes what must be read or written once, so that the fraction
of the limit that a run reaches says what its other work costs.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig


@dataclass(frozen=True)
class Machine:
    """Measured rates of one device."""

    flops: float  # per second, of a square matrix product in the dtype
    bytes_per_second: float  # read and written by a large copy

    def seconds(self, work: Work) -> float:
        """The least time for this work."""
        return max(work.flops / self.flops, work.bytes / self.bytes_per_second)


@dataclass(frozen=True)
class Work:
    flops: float
    bytes: float


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Rates of this device now: the best of several runs, each about 0.1 s."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = _best(lambda: torch.matmul(a, b), device)
    source = torch.ones(2**26, device=device)  # 256 MiB: larger than any cache
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)
    return Machine(2 * size**3 / product, 2 * source.nbytes / copy)


def _best(act: Callable[[], Tensor], device: torch.device, runs: int = 5) -> float:
    def timed(times: int) -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(times):
            act()
        synchronise(device)
        return (time.perf_counter() - start) / times

    times = max(1, int(0.1 / max(timed(1), 1e-6)))
    return min(timed(times) for _ in range(runs))


def name_of(device: torch.device) -> str:
    """The card's name, or the processor's and how many cores this machine shows."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def work_of(config: ModelConfig, size: int, clean: int, canvas: int, believing: int, context: int, rows: int) -> Work:
    """A pass over `clean` tokens and `canvas` positions, `believing` of which are conditioned on a step before.

    size: bytes per element; context: cached tokens that a sequence has on average; rows: sequences in the pass.
    """
    tokens, hidden, vocab = clean + canvas, config.hidden_size, config.vocab_size
    flops, elements = 2.0 * hidden * vocab * (canvas + believing), vocab * hidden
    flops += 6.0 * hidden * config.intermediate_size * believing
    elements += 3 * hidden * config.intermediate_size if believing else 0
    for layer in config.layers:
        projections = hidden * layer.head_dim * (
            2 * config.num_attention_heads + (2 if layer.is_sliding else 1) * layer.num_key_value_heads
        )
        expert = 3 * hidden * config.moe_intermediate_size
        dense = 3 * hidden * config.intermediate_size + hidden * config.num_experts
        seen = min(context, config.sliding_window - 1) if layer.is_sliding else context
        flops += 2.0 * tokens * (projections + dense + config.top_k_experts * expert)
        flops += 4.0 * config.num_attention_heads * layer.head_dim * tokens * (seen + tokens / max(1, rows))
        touched = config.num_experts * (1.0 - (1.0 - config.top_k_experts / config.num_experts) ** tokens)
        elements += projections + dense + touched * expert
        elements += rows * 2 * layer.num_key_value_heads * layer.head_dim * (seen + tokens / max(1, rows))
    elements += vocab * (canvas + believing)  # the probabilities: written once, read once
    return Work(flops, elements * size)
