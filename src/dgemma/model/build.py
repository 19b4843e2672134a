"""Making the module: on the meta device for a loader to fill, or with random weights for tests and benchmarks."""

from __future__ import annotations

import ctypes

import torch
from torch import nn

from ..config import ModelConfig
from ..kernels.matmul import can_pack, pack_table
from ..kernels.matmul import pack as pack_weight
from ..weights.plan import copies_of_table
from .dgemma import DiffusionGemma
from .layers import Experts, Linear


def build(config: ModelConfig, device: str | torch.device = "meta", dtype: torch.dtype = torch.float32) -> DiffusionGemma:
    """An unfilled model: on "meta" it takes no memory, elsewhere its weights are uninitialised or 1."""
    with torch.device(device):
        model = DiffusionGemma(config)
    return model.to(dtype).eval().requires_grad_(False)


def build_random(
    config: ModelConfig, seed: int = 0, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    gain: float = 1.0,
) -> DiffusionGemma:  # fmt: skip
    """A model with reproducible random weights: matrices normal / sqrt(fan-in) times `gain`, norm weights near 1."""
    model = build(config, "cpu", torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        fill = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() >= 2:
            tensor.copy_(fill * gain * tensor.shape[-1] ** -0.5)
        else:
            tensor.copy_(1.0 + 0.1 * fill)
    return model.to(device=device, dtype=dtype)


def pack(model: DiffusionGemma) -> DiffusionGemma:
    """On a CPU, in float32 or bfloat16 (where its processor has products for it): weights in the layout that products are fastest with (kernels/matmul.py), in place.

    From then on the model only runs: it cannot be trained, saved or moved. The embedding stays, because ids are looked up in it,
    beside its packed copies; every other weight is replaced, one at a time.
    """
    if model.device.type != "cpu" or not can_pack(model.dtype):
        return model
    weight = model.embed.weight
    copies = copies_of_table(weight.numel(), count_parameters(model))
    for module in model.modules():
        if isinstance(module, Linear | Experts):
            module.pack()
    _keep_memory()
    model.packed = pack_table(weight), pack_weight(weight.T) if copies == 2 else weight.T
    return model


def _keep_memory() -> None:
    """Ask glibc to keep what is freed (up to 512 MB) instead of giving it back.

    By default the 1-2 MB tensors of a step come fresh from the kernel at every operation, zeroed page by page: 0.6 ms each.
    """
    trim_threshold, mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(mmap_threshold, 1 << 25)  # the most it takes
    mallopt(trim_threshold, 1 << 29)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
