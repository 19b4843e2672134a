"""Making the module: on the meta device for a loader to fill, or with random weights for tests and
benchmarks.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..config import ModelConfig
from ..config.formats import Format
from ..kernels.ops.matmul import PART, pack_table, should_pack
from ..kernels.ops.matmul import pack as pack_weight
from ..kernels.quant.formats import QuantTensor
from ..kernels.quant.formats import quantise as quantised
from ..memory.tensors import copies_of_table
from ..weights.names import expected_tensors
from ..weights.reader import assign
from .dgemma import DiffusionGemma
from .layers import Experts, Linear


def build(
    config: ModelConfig, device: str | torch.device = "meta", dtype: torch.dtype = torch.float32
) -> DiffusionGemma:
    """An unfilled model: on "meta" it takes no memory, elsewhere its weights are uninitialised or 1."""
    with torch.device(device):
        model = DiffusionGemma(config)
    return model.to(dtype).eval().requires_grad_(False)


def build_random(
    config: ModelConfig,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    gain: float = 1.0,
) -> DiffusionGemma:
    """A model with reproducible random weights: matrices normal / sqrt(fan-in) times `gain`, norm weights
    near 1.
    """
    model = build(config, "cpu", torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*model.parameters(), *model.buffers()]:
        fill = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() >= 2:
            tensor.copy_(fill * gain * tensor.shape[-1] ** -0.5)
        else:
            tensor.copy_(1.0 + 0.1 * fill)
    return model.to(device=device, dtype=dtype)


@torch.no_grad()
def quantise(model: DiffusionGemma, formats: Mapping[str, Format]) -> DiffusionGemma:
    """Matrices of some groups (weights/names.py: experts, attention, dense, embedding ...) in number
    formats, in place.

    Norms, scales and the router's vectors are no matrices and stay. Raises ValueError where a matrix has no
    whole groups.
    """
    for target in expected_tensors(model.config).values():
        if target.group in formats and len(target.shape) > 1:
            weight = model.get_parameter(target.model_name)
            assign(model, target.model_name, quantised(weight, formats[target.group]))
    return model


def pack(model: DiffusionGemma, away: Collection[int] = ()) -> DiffusionGemma:
    """Put weights into the layout that products are fastest with (kernels/ops/matmul.py), in place.

    Only on a CPU, in float32 or bfloat16, where that pays (should_pack). From then on the model only runs: it
    cannot be trained, saved or moved. The embedding stays, because ids are looked up in it, beside its packed
    copies; every other weight is replaced, one at a time. away: layers whose weights are not there; memory is
    short then, and the embedding is packed for the time of a product, so that tokens are those of a model in
    memory.
    """
    if model.device.type != "cpu":
        return model
    if not away:
        _keep_memory()
    if not should_pack(model.dtype):
        return model
    table = model.embed.weight
    places: list[nn.Module] = [layer for number, layer in enumerate(model.layers) if number not in away]
    for place in [*places, model.self_conditioning]:
        for module in place.modules():
            if isinstance(module, Linear | Experts):
                module.pack()
    if not isinstance(table, QuantTensor):
        turned = copies_of_table(model.config) == 2
        if away:
            model.packed = list(table.split(PART)), None if turned else table.T
        else:
            model.packed = pack_table(table), pack_weight(table.T) if turned else table.T
    return model


def _keep_memory() -> None:
    """Ask glibc to keep what is freed (up to 512 MB) instead of giving it back.

    By default the 1-2 MB tensors of a step come fresh from the kernel at every operation, zeroed page by
    page: 0.6 ms each.
    """
    _set_malloc(most_on_the_heap=1 << 22, kept=1 << 29)


@contextlib.contextmanager
def gives_back_memory() -> Iterator[None]:
    """Load with glibc giving back what is freed.

    Afterwards it keeps what a step frees, but less than for a model in memory. By default it raises its own
    threshold as large blocks are freed: loading a 1.1 B model in FP8 under half of its bytes left 300 MB that
    nobody used (260 with a threshold of 1 MB, above one expert's matrix). Steps under the low threshold took
    three times as long (INT4).
    """
    _set_malloc(most_on_the_heap=1 << 18, kept=1 << 23)
    yield
    _set_malloc(most_on_the_heap=1 << 22, kept=1 << 27)


def trim_memory() -> None:
    """Ask glibc to give back all that it kept.

    16 requests of 130,000 tokens left 2.1 GB in the shipped model's process, now 0.1.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _set_malloc(most_on_the_heap: int, kept: int) -> None:
    """Set two of glibc's limits, in bytes.

    most_on_the_heap: the largest block that does not come from the system on its own; kept: free memory at
    the heap's end that stays.
    """
    trim_threshold = -1
    mmap_threshold = -3
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, most_on_the_heap)
        mallopt(trim_threshold, kept)


def weight_of(model: DiffusionGemma, name: str) -> Any:
    """The weight that stands where the model's tensor `name` (weights/names.py) belongs.

    Plain, packed, in few bits, or a list of such.
    """
    place, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(place), leaf)


def format_of(model: DiffusionGemma) -> str:
    """What it computes in, and the groups of tensors in number formats: "bfloat16", "bfloat16 (experts
    int4)".
    """
    formats = {}
    for target in expected_tensors(model.config).values():
        weight = weight_of(model, target.model_name)
        while isinstance(weight, list | tuple):
            weight = weight[0]
        if isinstance(weight, QuantTensor):
            formats[target.group] = weight.format.name
    dtype = str(model.dtype).removeprefix("torch.")
    if not formats:
        return dtype
    few = ", ".join(f"{group} {name}" for group, name in formats.items())
    return f"{dtype} ({few})"


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
