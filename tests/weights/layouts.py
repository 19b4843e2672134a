"""The published layouts, made by hand: fields of one matrix, quantisation configs, whole folders. Knows nothing of our reader.

`fields` packs by plain arithmetic on integers, so that the reader's views of bytes are compared with something else.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dgemma.config import ModelConfig
from dgemma.config.formats import Format
from dgemma.kernels.quant.formats import QuantTensor, quantise
from dgemma.weights.names import expected_tensors, modules

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"], "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "global_head_dim": 32, "num_global_key_value_heads": 1, "num_experts": 3, "top_k_experts": 2, "moe_intermediate_size": 32,
    "sliding_window": 5, "max_position_embeddings": 512,
}  # fmt: skip
RAW = {"model_type": "diffusion_gemma", "canvas_length": 8, "text_config": SIZES}
FORMATS = {
    "fp8": Format("fp8"), "fp8-tensor": Format("fp8"), "int8": Format("int8"), "nvfp4": Format("nvfp4"),
    "modelopt": Format("nvfp4"), "int4": Format("int4", 32), "int4-zeros": Format("int4", 16, zeros=True, scale="F16"),
    "gptq": Format("int4", 16, zeros=True, scale="F16"), "gptq_v2": Format("int4", 16, zeros=True, scale="F16"),
    "gptq-sym": Format("int4", 32, scale="F16"), "awq": Format("int4", 16, zeros=True, scale="F16"),
}  # fmt: skip
EXPERTS, LINEAR = ("experts",), ("experts", "attention", "dense")


def small_config() -> ModelConfig:
    return ModelConfig.from_dict(RAW)


def description(layout: str, ignore: Collection[str] = ()) -> dict[str, Any]:
    """The quantization_config of a layout."""
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
    token = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
    four = {
        "num_bits": 4,
        "type": "float",
        "symmetric": True,
        "strategy": "tensor_group",
        "group_size": 16,
        "dynamic": False,
    }
    bits = {"num_bits": 4, "type": "int", "strategy": "group", "dynamic": False}
    groups = {
        "fp8": ("float-quantized", weights, token),
        "fp8-tensor": ("float-quantized", weights | {"strategy": "tensor"}, token),
        "int8": ("int-quantized", weights | {"type": "int"}, None),
        "nvfp4": ("nvfp4-pack-quantized", four, four | {"dynamic": "local"}),
        "int4": ("pack-quantized", bits | {"symmetric": True, "group_size": 32}, None),
        "int4-zeros": ("pack-quantized", bits | {"symmetric": False, "group_size": 16}, None),
    }
    if layout in groups:
        name, args, activations = groups[layout]
        group = {
            "targets": ["Linear"],
            "weights": args,
            "input_activations": activations,
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": list(ignore), "kv_cache_scheme": None,
        }  # fmt: skip
    if layout == "modelopt":
        group = {
            "targets": ["Linear"], "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
            "input_activations": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
        }  # fmt: skip
        return {
            "quant_method": "modelopt", "quant_algo": "NVFP4", "config_groups": {"group_0": group}, "ignore": list(ignore),
            "producer": {"name": "modelopt", "version": "0.40"},
        }  # fmt: skip
    if layout == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}
    return {
        "quant_method": "gptq", "bits": 4, "group_size": FORMATS[layout].group, "sym": layout == "gptq-sym", "desc_act": False,
        "checkpoint_format": "gptq_v2" if layout == "gptq_v2" else "gptq", "damp_percent": 0.01,
    }  # fmt: skip


def fields(layout: str, weight: QuantTensor) -> dict[str, Tensor]:
    """What a layout keeps for a matrix [O, I] in its format."""
    parts, group = weight.parts, weight.format.group
    if layout in ("fp8", "fp8-tensor", "int8"):
        scale = parts["row"][:1] if layout == "fp8-tensor" else parts["row"][:, None]
        return {"weight": parts["codes"], "weight_scale": scale.contiguous()}
    if layout == "nvfp4":
        return {
            "weight_packed": parts["codes"], "weight_scale": parts["scales"], "weight_global_scale": 1 / parts["row"][:1],
            "input_global_scale": torch.tensor([300.0]),
        }  # fmt: skip
    if layout == "modelopt":
        return {
            "weight": parts["codes"], "weight_scale": parts["scales"], "weight_scale_2": parts["row"][0].clone(),
            "input_scale": torch.tensor(0.004),
        }  # fmt: skip
    codes, scales = numbers(parts["codes"]), parts["scales"]
    zeros = parts.get("zeros", torch.full(scales.shape, 8)).long()
    if layout in ("int4", "int4-zeros"):
        found = {
            "weight_packed": words(codes),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape),
        }
        return found | (
            {"weight_zero_point": words(zeros.T).T.contiguous()} if layout == "int4-zeros" else {}
        )
    if layout == "awq":
        dealt = [0, 2, 4, 6, 1, 3, 5, 7]
        return {
            "qweight": words(codes.T.unflatten(1, (-1, 8))[..., dealt].flatten(1)), "scales": scales.T.contiguous(),
            "qzeros": words(zeros.T.unflatten(1, (-1, 8))[..., dealt].flatten(1)),
        }  # fmt: skip
    return {
        "qweight": words(codes).T.contiguous(), "qzeros": words(zeros.T if layout == "gptq_v2" else (zeros.T - 1) % 16),
        "scales": scales.T.contiguous(), "g_idx": torch.arange(codes.shape[1], dtype=torch.int32) // group,
    }  # fmt: skip


def numbers(codes: Tensor) -> Tensor:
    """Two codes of every byte, [O, I] int64."""
    return torch.stack((codes.long() % 16, codes.long() // 16), dim=-1).flatten(-2)


def words(codes: Tensor) -> Tensor:
    """Eight codes of a row in an int32, the first in the lowest bits."""
    summed = (codes.unflatten(-1, (-1, 8)) * 16 ** torch.arange(8)).sum(-1)
    return torch.where(summed < 2**31, summed, summed - 2**32).to(torch.int32)


def random_matrix(layout: str, shape: tuple[int, int], seed: int = 0) -> QuantTensor:
    """A quantised matrix whose scales are exactly what the layout can keep."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    found = quantise(weight, FORMATS[layout])
    if layout in ("fp8-tensor", "nvfp4", "modelopt"):  # one scale, and one that has an exact inverse
        found.parts["row"].fill_(2.0 ** float(found.parts["row"][0].log2().round()))
    return found


def small_folder(
    folder: Path, layout: str, groups: Collection[str] = LINEAR, shards: int = 1
) -> tuple[Path, dict[str, Tensor | QuantTensor]]:
    """A checkpoint folder in a layout, and what its tensors must be read as: model name -> weight."""
    state, want = small_state(layout, groups)
    return write(folder, state, description(layout), shards), want


def small_state(
    layout: str, groups: Collection[str] = LINEAR
) -> tuple[dict[str, Tensor], dict[str, Tensor | QuantTensor]]:
    """Names in the checkpoint and in the model."""
    state: dict[str, Tensor] = {}
    want: dict[str, Tensor | QuantTensor] = {}
    generator = torch.Generator().manual_seed(0)
    for number, (name, target) in enumerate(expected_tensors(small_config()).items()):
        if target.group in groups and (matrices := modules(name, target)):
            made = [random_matrix(layout, shape, 1000 * number + n) for n, (_, shape) in enumerate(matrices)]
            for (module, _), matrix in zip(matrices, made, strict=True):
                state |= {f"{module}.{leaf}": tensor for leaf, tensor in fields(layout, matrix).items()}
            format, leading = FORMATS[layout], target.shape[:-1]
            parts = {part: torch.cat([one.parts[part] for one in made]) for part in made[0].parts}
            parts = {part: value.view(*leading, *value.shape[1:]) for part, value in parts.items()}
            want[target.model_name] = QuantTensor(format, target.shape, parts)
        else:
            state[name] = torch.randn(target.shape, generator=generator).to(torch.bfloat16)
            want[target.model_name] = state[name]
    for name in [name for name in state if name.startswith("model.encoder.")]:
        state[name] = state[name.replace("encoder.language_model", "decoder")].clone()
        want[
            name.replace("model.encoder.language_model.", "").replace("layer_scalar", "encoder_layer_scalar")
        ] = state[name]
    return state, want


def write(
    folder: Path, state: dict[str, Tensor], quantization: dict[str, Any] | None, shards: int = 1
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(RAW | ({"quantization_config": quantization} if quantization else {}))
    )
    names, weight_map = list(state), {}
    for number in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(
            {name: state[name].contiguous() for name in names[number::shards]},
            folder / file,
            metadata={"format": "pt"},
        )
        weight_map |= dict.fromkeys(names[number::shards], file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
