"""Small checkpoints for tests: a config, its tensors, folders on disk, and ways to damage them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dgemma.config import ModelConfig
from dgemma.weights.names import expected_tensors

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "tests" / "data" / "published"

RAW = {
    "model_type": "diffusion_gemma",
    "canvas_length": 8,
    "text_config": {
        "vocab_size": 280, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "global_head_dim": 12, "num_global_key_value_heads": 1, "num_experts": 4, "top_k_experts": 2,
        "moe_intermediate_size": 6, "sliding_window": 5, "max_position_embeddings": 512,
    },
}  # fmt: skip


def tiny_config() -> ModelConfig:
    return ModelConfig.from_dict(RAW)


def tiny_state(
    config: ModelConfig | None = None, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Checkpoint name -> random tensor, the two copies of each layer_scalar equal."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(target.shape, generator=generator).to(dtype)
        for name, target in expected_tensors(config or tiny_config()).items()
    }
    for name in [name for name in state if name.startswith("model.encoder.")]:
        state[name] = state[name.replace("encoder.language_model", "decoder")].clone()
    return state


def write_folder(
    folder: Path, state: dict[str, Tensor] | None = None, shards: int = 1, index: bool = True
) -> Path:
    """A checkpoint folder made with the safetensors library (not with our writer)."""
    state = tiny_state() if state is None else state
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(RAW))
    names = list(state)
    weight_map = {}
    for number in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if index and shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header: an object to be dumped, or the text itself."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


class StandIn(nn.Module):
    """A module with exactly the given names and shapes, on the meta device: a model without a model."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            empty = torch.empty(shape, device="meta")
            if leaf.endswith("layer_scalar"):
                owner.register_buffer(leaf, empty)
            else:
                owner.register_parameter(leaf, nn.Parameter(empty, requires_grad=False))


def stand_in(config: ModelConfig | None = None) -> StandIn:
    targets = expected_tensors(config or tiny_config()).values()
    return StandIn({target.model_name: target.shape for target in targets})


def sparse_checkpoint() -> ModuleType:
    """benchmarks/sparse_checkpoint.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location(
        "sparse_checkpoint", ROOT / "benchmarks" / "sparse_checkpoint.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
