"""Making the module: on the meta device for a loader to fill, or with random weights for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import nn

from ..config import ModelConfig
from .dgemma import DiffusionGemma


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


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
