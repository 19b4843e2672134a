"""Models to measure without a checkpoint: shapes by name, filled with random weights where they will run.

What is measured with them is time and memory; their text means nothing. The weights are made on the device
in the wanted dtype or number format, one tensor at a time, so that no second copy is ever held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch

from ..config import ModelConfig
from ..config.formats import Format
from ..errors import UsageError
from ..kernels.quant.formats import QuantTensor, Weight, empty, quantise
from ..model.build import build, pack
from ..model.dgemma import DiffusionGemma
from ..weights.names import expected_tensors
from ..weights.reader import assign

_TEXT = {
    "diffusiongemma-26b": {
        "vocab_size": 262144,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_global_key_value_heads": 2,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
        "sliding_window": 1024,
        "max_position_embeddings": 262144,
    },
    "1b": {
        "vocab_size": 65536,
        "hidden_size": 1024,
        "intermediate_size": 1024,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "global_head_dim": 256,
        "num_global_key_value_heads": 2,
        "num_experts": 32,
        "top_k_experts": 8,
        "moe_intermediate_size": 512,
        "sliding_window": 512,
        "max_position_embeddings": 131072,
    },
    "140m": {
        "vocab_size": 65536,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "global_head_dim": 128,
        "num_global_key_value_heads": 2,
        "num_experts": 16,
        "top_k_experts": 4,
        "moe_intermediate_size": 256,
        "sliding_window": 512,
        "max_position_embeddings": 131072,
    },
    "100m": {
        "vocab_size": 16384,
        "hidden_size": 640,
        "intermediate_size": 1280,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "global_head_dim": 128,
        "num_global_key_value_heads": 2,
        "num_experts": 16,
        "top_k_experts": 4,
        "moe_intermediate_size": 128,
        "sliding_window": 256,
        "max_position_embeddings": 4096,
    },
}


def shape(name: str) -> ModelConfig:
    """A named shape. Raises UsageError for an unknown one."""
    if name not in _TEXT:
        raise UsageError(f"there is no shape '{name}'; shapes: {', '.join(_TEXT)}")
    text = {"model_type": "diffusion_gemma_text"} | _TEXT[name]
    return ModelConfig.from_dict(
        {"model_type": "diffusion_gemma", "canvas_length": 256, "text_config": text}, name
    )


@torch.no_grad()
def random_model(
    config: ModelConfig,
    device: str | torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    formats: Mapping[str, Format] = {},
    rounds: Collection[str] = (),
) -> DiffusionGemma:
    """A model of this shape on the device: matrices normal / sqrt(fan-in), norm weights 1; groups of tensors
    in number formats.

    rounds: formats whose products round what they multiply with, as published files of them declare.
    """
    model = build(config, "meta", dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for target in expected_tensors(config).values():
        if len(target.shape) == 1:
            weight: Weight = torch.ones(target.shape, dtype=dtype, device=device)
        elif target.group in formats:
            few = _random(formats[target.group], target.shape, device, generator)
            weight = replace(few, rounded=few.format.name in rounds)
        else:
            weight = torch.empty(target.shape, dtype=dtype, device=device)
            weight.normal_(0.0, target.shape[-1] ** -0.5, generator=generator)
        assign(model, target.model_name, weight)
    return pack(model)


def _random(
    format: Format, shape: tuple[int, ...], device: str | torch.device, generator: torch.Generator
) -> QuantTensor:
    """A matrix, or those of all experts one after the other, so that no more than one is ever there in 32
    bits.
    """
    whole = empty(format, shape, device)
    for one in [whole[expert] for expert in range(len(whole))] if len(shape) == 3 else [whole]:
        draw = torch.empty(one.shape, device=device).normal_(0.0, shape[-1] ** -0.5, generator=generator)
        for name, part in quantise(draw, format).parts.items():
            one.parts[name].copy_(part)
    return whole
