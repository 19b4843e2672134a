"""What the metadata of a GGUF file says: ModelConfig and DenoiseConfig, through the parsers that read a
folder's JSON.

Knows llama.cpp's keys of the architecture `diffusion-gemma` (its conversion of this model, and the header
of a published file) and no tensor but two: the vocabulary is as long as the embedding, and how much of a
full layer's head rotates stands nowhere but in the values of `rope_freqs.weight`. Trap: a published file
names one end token of three; the others are found by their text.
"""

from __future__ import annotations

import math
from typing import Any

from ..config import DenoiseConfig, ModelConfig
from ..config.model import FULL, SLIDING
from ..config.reader import Reader, shown
from ..errors import CheckpointError, ConfigError
from .gguf import Gguf, read_floats

ARCHITECTURE = "diffusion-gemma"
EMBEDDING = "token_embd.weight"
ROPE_FREQS = "rope_freqs.weight"
STILL = 1e20  # a divisor of a frequency from which on a pair of dims does not turn; the files say 1e30
END_TEXTS = ("<eos>", "<turn|>", "<|tool_response>")  # in the order of the published generation_config.json
# general.file_type, by llama.cpp's numbers: the mix of formats that a file was quantised to
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    25: "IQ4_NL",
    30: "IQ4_XS",
    32: "BF16",
    38: "MXFP4",
}
# Keys that would change the mathematics, and what this model is
_FIXED: dict[str, tuple[Any, ...]] = {
    "attention.causal": (False,),
    "attention.shared_kv_layers": (0,),
    "embedding_length_per_layer_input": (0,),
    "expert_gating_func": (0, 1),  # unsaid, softmax
    "rope.scaling.type": ("none",),
}


def check_kind(file: Gguf) -> None:
    """Raises CheckpointError for another model's file, a part of one, or one that holds no model."""
    if (architecture := file.architecture) != ARCHITECTURE:
        raise CheckpointError(
            f"{file.path}: a model of the architecture {shown(architecture)}; "
            f"this build runs '{ARCHITECTURE}'"
        )
    if (kind := file.metadata.get("general.type", "model")) != "model":
        raise CheckpointError(f"{file.path}: its general.type is {shown(kind)}; it holds no model of its own")
    if file.metadata.get("split.count", 0) not in (0, 1):
        raise CheckpointError(f"{file.path}: one part of several; join them with `llama-gguf-split --merge`")


def model_config(file: Gguf) -> ModelConfig:
    """The model of a file. Raises ConfigError or CheckpointError (names file and key)."""
    check_kind(file)
    prefix = ARCHITECTURE + "."
    values = {
        key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)
    }
    keys = Reader(values, f"{file.path}: metadata of {ARCHITECTURE}")
    for key, allowed in _FIXED.items():
        if key in keys.raw and (value := keys.raw.pop(key)) not in allowed:
            raise ConfigError(
                f"{keys.source}: '{key}' is {shown(value)}; this build computes only {allowed[-1]!r}"
            )
    text = _layers(file, keys) | _sizes(file, keys)
    keys.done(strict=True)
    if (value := file.metadata.get("diffusion.shift_logits", False)) is not False:
        raise ConfigError(
            f"{file.path}: 'diffusion.shift_logits' is {shown(value)}; this model's logits are not shifted"
        )
    raw = {
        "model_type": "diffusion_gemma",
        "canvas_length": file.metadata.get("diffusion.canvas_length"),
        "eos_token_id": list(_end_tokens(file)),
        "text_config": text,
    }
    if raw["canvas_length"] is None:
        raise ConfigError(f"{file.path}: the metadata 'diffusion.canvas_length' is missing")
    return ModelConfig.from_dict(raw, str(file.path))


def denoise_config(file: Gguf, config: ModelConfig | None) -> DenoiseConfig:
    """Sampler settings: the file's, and for what it does not say dgemma's own, which are the published
    ones.
    """
    names = {
        "max_denoising_steps": "eb_max_steps",
        "t_min": "eb_t_min",
        "t_max": "eb_t_max",
        "stability_threshold": "eb_stability_threshold",
        "confidence_threshold": "eb_confidence_threshold",
    }
    settings = {name: file.metadata.get(f"diffusion.{key}") for name, key in names.items()}
    raw: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if (bound := file.metadata.get("diffusion.eb_entropy_bound")) is not None:
        raw["sampler_config"] = {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": bound}
    if config is not None:
        raw |= {"eos_token_id": list(config.eos_token_ids), "pad_token_id": config.pad_token_id}
    return DenoiseConfig.from_dict(raw, f"{file.path}: metadata of diffusion")


def _sizes(file: Gguf, keys: Reader) -> dict[str, Any]:
    renamed = {
        "hidden_size": "embedding_length",
        "num_experts": "expert_count",
        "top_k_experts": "expert_used_count",
        "moe_intermediate_size": "expert_feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "sliding_window": "attention.sliding_window",
        "max_position_embeddings": "context_length",
    }
    sizes: dict[str, Any] = {name: keys.size(key) for name, key in renamed.items()}
    sizes["intermediate_size"] = _same(keys, "feed_forward_length")
    sizes["rms_norm_eps"] = keys.number("attention.layer_norm_rms_epsilon")
    sizes["final_logit_softcapping"] = keys.number("final_logit_softcapping")
    sizes["vocab_size"] = _vocabulary(file, keys)
    for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        sizes[name] = file.metadata.get(f"tokenizer.ggml.{key}_token_id")  # absent: the parser's default
    return sizes


def _layers(file: Gguf, keys: Reader) -> dict[str, Any]:
    """The per-layer part of a text_config, every layer's heads spelled out."""
    count = keys.size("block_count")
    sliding = keys.take("attention.sliding_window_pattern", list)
    heads = keys.take("attention.head_count_kv", (list, int))
    heads = [heads] * len(sliding) if isinstance(heads, int) else heads
    for key, values in (("sliding_window_pattern", sliding), ("head_count_kv", heads)):
        if len(values) != count:
            raise ConfigError(
                f"{keys.source}: 'attention.{key}' has {len(values)} entries for {count} layers"
            )
    if not all(isinstance(value, bool) for value in sliding):
        raise ConfigError(
            f"{keys.source}: 'attention.sliding_window_pattern' is not a list of true and false"
        )
    dims = {SLIDING: _head_dim(keys, "_swa"), FULL: _head_dim(keys, "")}
    kinds = [SLIDING if local else FULL for local in sliding]
    ropes = {
        SLIDING: {"rope_type": "default", "rope_theta": keys.number("rope.freq_base_swa")},
        FULL: {"rope_type": "proportional", "rope_theta": keys.number("rope.freq_base")},
    }
    ropes[FULL]["partial_rotary_factor"] = _part_that_rotates(file, dims[FULL]) if FULL in kinds else 0.25
    return {
        "model_type": "diffusion_gemma_text",
        "num_hidden_layers": count,
        "layer_types": kinds,
        "head_dim": dims[SLIDING],
        "num_key_value_heads": heads[0],
        "per_layer_config": {
            str(n): {"head_dim": dims[kind], "num_key_value_heads": kv}
            for n, (kind, kv) in enumerate(zip(kinds, heads, strict=True))
        },
        "rope_parameters": ropes,
    }


def _head_dim(keys: Reader, kind: str) -> int:
    """One number that stands there three times: keys, values, and dims that rope is given (rope_freqs
    stops some of them).
    """
    dim = keys.size(f"attention.key_length{kind}")
    for key in (f"attention.value_length{kind}", f"rope.dimension_count{kind}"):
        if (other := keys.size(key)) != dim:
            raise ConfigError(f"{keys.source}: '{key}' is {other}, but attention.key_length{kind} is {dim}")
    return dim


def _part_that_rotates(file: Gguf, head_dim: int) -> float:
    """`rope_freqs` divides the frequency of each pair of dims: by 1 where it turns, and by 1e30 where it
    does not.
    """
    info = file.tensors.get(ROPE_FREQS)
    if info is None:
        raise CheckpointError(
            f"{file.path}: tensor '{ROPE_FREQS}' is missing; it says how the full layers rotate"
        )
    if info.dtype != "F32" or info.shape != (head_dim // 2,):
        raise CheckpointError(
            f"{file.path}: tensor '{ROPE_FREQS}' is {info.dtype} {list(info.shape)}; "
            f"F32 [{head_dim // 2}] was expected"
        )
    divisors = read_floats(info)
    turning = next((n for n, divisor in enumerate(divisors) if divisor != 1), len(divisors))
    if not all(STILL <= divisor < math.inf for divisor in divisors[turning:]):
        raise CheckpointError(
            f"{file.path}: tensor '{ROPE_FREQS}' scales frequencies; this model keeps them or stops them"
        )
    part = 2 * turning / head_dim
    if 2 * int(part * head_dim // 2) == 2 * turning:
        return part
    return math.nextafter(part, 1)


def _same(keys: Reader, key: str) -> int:
    """A size that may be given for every layer, where it has to be the same."""
    value = keys.raw.get(key)
    if isinstance(value, list) and value and all(one == value[0] for one in value):
        keys.raw[key] = value[0]
    return keys.size(key)


def _vocabulary(file: Gguf, keys: Reader) -> int:
    info = file.tensors.get(EMBEDDING)
    if info is None or len(info.shape) != 2:
        raise CheckpointError(f"{file.path}: there is no tensor '{EMBEDDING}' of two dimensions, so no model")
    rows = info.shape[0]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if (said := keys.size("vocab_size", rows)) != rows:
        raise ConfigError(f"{keys.source}: 'vocab_size' is {said}, but '{EMBEDDING}' has {rows} rows")
    if isinstance(tokens, list) and len(tokens) > rows:
        raise ConfigError(
            f"{file.path}: its vocabulary has {len(tokens)} tokens, but '{EMBEDDING}' has {rows} rows"
        )
    return rows


def _end_tokens(file: Gguf) -> tuple[int, ...]:
    """The end tokens that the file names, and those that every DiffusionGemma ends with where the
    vocabulary has them.
    """
    ids = [file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        ids += [tokens.index(text) for text in END_TEXTS if text in tokens]
    return tuple(dict.fromkeys(token for token in ids if token is not None))
