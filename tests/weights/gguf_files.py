"""GGUF files for tests, written by the `gguf` library: a tiny model in any mix of types, and the published one without data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from dgemma.config import ModelConfig
from dgemma.config.formats import BLOCKS
from dgemma.kernels.quant.ggml import HALVES
from dgemma.weights.gguf_names import gguf_name
from dgemma.weights.names import expected_tensors
from tests.helpers import lively_model, tiny_config
from tests.text.gemma_like import MERGES, gguf_tokens

ARCH = "diffusion-gemma"
Kinds = Callable[[str, tuple[int, ...]], str]  # (name in the file, shape) -> ggml's type
PLAIN = {"F32", "F16", "BF16"}


def config_for_blocks(layers: str = "SSF") -> ModelConfig:
    """A tiny config whose rows are whole blocks: of 256 into attention and MLPs, of 32 out of them."""
    return tiny_config(
        layers, vocab_size=len(gguf_tokens()[0]), hidden_size=256, intermediate_size=96, head_dim=64, global_head_dim=128,
        moe_intermediate_size=32, canvas_length=8,
    )  # fmt: skip


def like_q4_k_m(name: str, shape: tuple[int, ...]) -> str:
    """The types of llama.cpp's Q4_K_M: what rows of 256 do not divide falls back to types of 32."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return "F32"
    if name == "token_embd.weight":
        return "Q6_K"
    if shape[-1] % 256:
        return "Q8_0" if ".0." in name else "Q5_0"
    return "Q6_K" if "attn_v" in name else "Q4_K"


def blocks(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random blocks with sane scales, uint8 [..., O, bytes of a row]; what the library can quantise is quantised by it."""
    random = np.random.RandomState(seed)
    elements, size = BLOCKS[kind.lower()]
    if not kind.endswith("_K"):
        weights = (random.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
        return quantize(weights, gguf.GGMLQuantizationType[kind])
    raw = random.randint(0, 256, (*shape[:-1], shape[-1] // elements, size)).astype(np.uint8)
    for start, stop in HALVES[kind.lower()]:
        scales = random.uniform(1e-4, 3e-4, raw.shape[:-1]).astype(np.float16)
        raw[..., start:stop] = scales[..., None].view(np.uint8)
    return raw.reshape(*shape[:-1], -1)


def metadata(config: ModelConfig) -> dict[str, Any]:
    """What the conversion writes, by key; numbers in numpy's types where the size matters."""
    layers = config.layers
    full = next((layer for layer in layers if not layer.is_sliding), layers[0])
    sliding = next((layer for layer in layers if layer.is_sliding), layers[0])
    tokens, kinds = gguf_tokens()
    numbers = {
        "block_count": len(layers), "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
        "expert_count": config.num_experts, "expert_used_count": config.top_k_experts,
        "expert_feed_forward_length": config.moe_intermediate_size, "attention.sliding_window": config.sliding_window,
        "attention.key_length": full.head_dim, "attention.value_length": full.head_dim,
        "attention.key_length_swa": sliding.head_dim, "attention.value_length_swa": sliding.head_dim,
        "rope.dimension_count": full.head_dim, "rope.dimension_count_swa": sliding.head_dim,
        "attention.shared_kv_layers": 0, "embedding_length_per_layer_input": 0,
        "attention.head_count_kv": [layer.num_key_value_heads for layer in layers],
        "attention.sliding_window_pattern": [layer.is_sliding for layer in layers],
        "rope.freq_base": full.rope_theta, "rope.freq_base_swa": sliding.rope_theta,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "final_logit_softcapping": config.final_logit_softcapping,
        "attention.causal": False,
    }  # fmt: skip
    return {f"{ARCH}.{key}": value for key, value in numbers.items()} | {
        "general.type": "model",
        "general.file_type": 15,
        "diffusion.canvas_length": config.canvas_length,
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": "{{ messages }}",
    }


def writer(path: Path, pairs: dict[str, Any], **given: Any) -> gguf.GGUFWriter:
    """A writer with its metadata; plain Python values take the types that the conversion gives them."""
    made = gguf.GGUFWriter(path, given.pop("arch", ARCH), **given)
    for key, value in pairs.items():
        one = value[0] if isinstance(value, list) and value else value
        if isinstance(value, list):
            made.add_array(key, value)
        elif isinstance(one, bool):
            made.add_bool(key, value)
        elif isinstance(one, int):
            made.add_uint32(key, value)
        elif isinstance(one, float):
            made.add_float32(key, value)
        else:
            made.add_string(key, value)
    return made


def rope_freqs(config: ModelConfig) -> np.ndarray:
    full = next(layer for layer in config.layers if not layer.is_sliding)
    turning = full.rotary_dims // 2
    return np.array([1.0] * turning + [1e30] * (full.head_dim // 2 - turning), dtype=np.float32)


def tensors(
    config: ModelConfig, kinds: Kinds = like_q4_k_m, seed: int = 0
) -> dict[str, tuple[str, np.ndarray]]:
    """Name in the file -> (type, values or the bytes of blocks), in the order of the model."""
    state = {name: tensor.numpy() for name, tensor in lively_model(config, seed).state_dict().items()}
    found = {}
    for number, target in enumerate(expected_tensors(config).values()):
        name = gguf_name(target.model_name)
        kind = kinds(name, target.shape)
        values = state[target.model_name]
        if kind == "BF16":
            found[name] = kind, quantize(values, gguf.GGMLQuantizationType.BF16)
        elif kind in PLAIN:
            found[name] = kind, values.astype({"F32": np.float32, "F16": np.float16}[kind])
        else:
            found[name] = kind, blocks(kind, target.shape, seed + number)
    if any(not layer.is_sliding for layer in config.layers):
        found["rope_freqs.weight"] = "F32", rope_freqs(config)
    return found


def write(path: Path, pairs: dict[str, Any], found: dict[str, tuple[str, np.ndarray]], **given: Any) -> Path:
    made = writer(path, pairs, **given)
    for name, (kind, values) in found.items():
        made.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


def write_model(
    path: Path, config: ModelConfig | None = None, kinds: Kinds = like_q4_k_m, seed: int = 0, **pairs: Any
) -> Path:
    config = config or config_for_blocks()
    return write(path, metadata(config) | pairs, tensors(config, kinds, seed))


def numbers(config: ModelConfig, found: dict[str, tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Model name -> float32 array, as the library decodes the file's tensors."""
    values = {}
    for target in expected_tensors(config).values():
        kind, stored = found[gguf_name(target.model_name)]
        values[target.model_name] = dequantize(stored, gguf.GGMLQuantizationType[kind]).reshape(target.shape)
    return values


def published_q4_k_m(name: str, shape: tuple[int, ...]) -> str:
    """The types of the published Q4_K_M file: llama.cpp gives the first, the last and every third layer between more bits."""

    def more(index: int, count: int) -> bool:
        return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2

    if len(shape) == 1 or "ffn_gate_inp" in name:
        return "F32"
    if name == "token_embd.weight":
        return "Q6_K"
    layer = int(name.split(".")[1]) if name.startswith("blk.") else 3
    if "ffn_down" in name or "self_cond_down" in name:
        return "Q8_0" if more(layer, 30) else "Q5_0"
    if "attn_v" in name:  # 25 layers have one
        return "Q6_K" if more(layer - layer // 6, 25) else "Q4_K"
    return "Q4_K"


def write_hollow(path: Path, config: ModelConfig, kinds: Kinds) -> Path:
    """A whole file whose data are holes, but for rope_freqs: all names, shapes and bytes, and hardly any disk."""
    made = writer(path, metadata(config))
    offset, places = 0, {}
    shapes = {gguf_name(target.model_name): target.shape for target in expected_tensors(config).values()}
    turns = rope_freqs(config)
    for name, shape in (shapes | {"rope_freqs.weight": turns.shape}).items():
        kind = "F32" if name == "rope_freqs.weight" else kinds(name, shape)
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        row = (*shape[:-1], shape[-1] // elements * size)
        nbytes = int(np.prod(row, dtype=np.int64))
        made.add_tensor_info(name, row if elements > 1 else shape, np.dtype("u1" if elements > 1 else "f4"), nbytes,
                             gguf.GGMLQuantizationType[kind])  # fmt: skip
        places[name] = offset
        offset += -(-nbytes // 32) * 32
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_ti_data_to_file()
    made.close()
    start = -(-path.stat().st_size // 32) * 32
    with path.open("rb+") as file:
        file.truncate(start + offset)
        file.seek(start + places["rope_freqs.weight"])
        file.write(turns.tobytes())
    return path
