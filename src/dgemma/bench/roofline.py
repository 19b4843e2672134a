"""What a pass must cost on this machine: its floating-point operations over the matrix rate, its bytes over
the bandwidth.

Both rates are measured in the same run, because a virtual machine's neighbours and a card's clock are part
of the machine. Arithmetic counts matrix products only and bytes what must be read or written once, so that
the fraction of the limit that a run reaches says what its other work costs.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..kernels.quant.formats import bytes_of
from ..model.build import weight_of
from ..model.dgemma import DiffusionGemma
from ..weights.names import expected_tensors


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
    source = torch.ones(2**26, device=device)  # 256 MiB: larger than any cache
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)
    return Machine(matrix_rate(device, dtype), 2 * source.nbytes / copy)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a square product, 1024-cube on a CPU and 8192-cube on a card; the best of
    several runs.
    """
    size = 8192
    if device.type == "cpu":
        size = 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: torch.matmul(a, b), device)


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


OPERATIONS = (
    "projections",
    "attention",
    "dense MLP",
    "router",
    "experts",
    "expected embedding",
    "conditioning MLP",
    "head",
)


Weights = Mapping[str, float]  # bytes per weight, by group of weights/names.py
NOTHING_STORED: Weights = {}  # every group takes its dtype's bytes


def work_of(
    config: ModelConfig,
    size: int,
    clean: int,
    canvas: int,
    conditioned: int,
    context: int,
    rows: int,
    weights: Weights = NOTHING_STORED,
) -> Work:
    """A pass over `clean` tokens and `canvas` positions, `conditioned` of which are conditioned on a step
    before.

    size: bytes per element, of weights too where `weights` says nothing else; context: cached tokens that a
    sequence has on average; rows: sequences in the pass.
    """
    return total(
        dict(work_by_operation(config, size, clean, canvas, conditioned, context, rows, weights)).values()
    )


def bytes_per_weight(model: DiffusionGemma) -> Weights:
    """What a weight of each group takes in this model, scales included."""
    held: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    for target in expected_tensors(model.config).values():
        held[target.group] += bytes_of(weight_of(model, target.model_name))
        elements[target.group] += math.prod(target.shape)
    return {group: held[group] / elements[group] for group in held}


def total(works: Iterable[Work]) -> Work:
    works = list(works)
    return Work(sum(work.flops for work in works), sum(work.bytes for work in works))


def work_by_operation(
    config: ModelConfig,
    size: int,
    clean: int,
    canvas: int,
    conditioned: int,
    context: int,
    rows: int,
    weights: Weights = NOTHING_STORED,
) -> Iterator[tuple[str, Work]]:
    """The same pass by OPERATIONS, in their order.

    The vocabulary's table counts once, with the head; p @ E reads it as well.
    """
    tokens = clean + canvas
    hidden = config.hidden_size
    vocab = config.vocab_size
    expert = 3 * hidden * config.moe_intermediate_size
    dense = 3 * hidden * config.intermediate_size
    routed = hidden * config.num_experts
    layers = len(config.layers)
    touched = config.num_experts * (1.0 - (1.0 - config.top_k_experts / config.num_experts) ** tokens)
    projections = 0
    attended = 0.0
    cached = 0.0
    for layer in config.layers:
        projections += (
            hidden
            * layer.head_dim
            * (2 * config.num_attention_heads + (2 if layer.is_sliding else 1) * layer.num_key_value_heads)
        )
        seen = context
        if layer.is_sliding:
            seen = min(context, config.sliding_window - 1)
        attended += (
            4.0 * config.num_attention_heads * layer.head_dim * tokens * (seen + tokens / max(1, rows))
        )
        cached += rows * 2 * layer.num_key_value_heads * layer.head_dim * (seen + tokens / max(1, rows))
    parts = (  # operations, weights read and their group, other elements
        (2.0 * tokens * projections, projections, "attention", 0),
        (attended, 0, "", cached),
        (2.0 * tokens * layers * dense, layers * dense, "dense", 0),
        (2.0 * tokens * layers * routed, layers * routed, "router", 0),
        (2.0 * tokens * layers * config.top_k_experts * expert, layers * touched * expert, "experts", 0),
        (
            2.0 * hidden * vocab * conditioned,
            0,
            "",
            vocab * conditioned,
        ),  # the probabilities: written by the head, read here
        (2.0 * dense * conditioned, dense if conditioned else 0, "self_conditioning", 0),
        (2.0 * hidden * vocab * canvas, vocab * hidden, "embedding", vocab * canvas),
    )
    for name, (flops, read, group, elements) in zip(OPERATIONS, parts, strict=True):
        yield name, Work(flops, read * weights.get(group, size) + elements * float(size))
