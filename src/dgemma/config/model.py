"""A checkpoint's `config.json`: ModelConfig, read from either spelling of the full layers' heads and written
back.

Knows shapes and rotary settings, no tensor. Trap: an absent key is not an unknown one. It has the default
that the checkpoint was trained with, and some of them surprise (full layers of head dim 512, a soft cap of
30).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .reader import Reader, read_json, shown

SLIDING = "sliding_attention"
FULL = "full_attention"
_MOST_LAYERS = 10_000  # the published model has 30; a list is made from the number before anything checks it
_MOST_EXPERTS = 1 << 16  # the published model has 128
_ROPE_DEFAULTS = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25},
}


@dataclass(frozen=True)
class LayerConfig:
    """One layer's attention: its kind and the shapes and rotary settings that depend on it."""

    kind: str  # SLIDING or FULL
    head_dim: int
    num_key_value_heads: int
    rope_theta: float
    rotary_dims: int  # how many of head_dim rotate; the rest have frequency 0
    rope_divisor: int  # what the frequency exponent divides by

    @property
    def is_sliding(self) -> bool:
        return self.kind == SLIDING


@dataclass(frozen=True)
class ModelConfig:
    """The text model as its `config.json` describes it. Sizes are in elements, token ids are integers."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_experts: int
    top_k_experts: int
    moe_intermediate_size: int
    sliding_window: int
    canvas_length: int
    max_position_embeddings: int
    layers: tuple[LayerConfig, ...]
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float = 30.0
    pad_token_id: int = 0
    bos_token_id: int = 2
    eos_token_ids: tuple[int, ...] = (1,)
    image_token_id: int | None = None
    has_vision: bool = False

    @classmethod
    def from_dict(cls, raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
        """Parse a published `config.json` (both spellings of the full layers' heads). Raises ConfigError."""
        return _parse_model(raw, source)

    @classmethod
    def from_file(cls, path: Path) -> ModelConfig:
        return cls.from_dict(read_json(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` that Transformers and this reader accept for the same model."""
        return _model_to_dict(self)

    @property
    def embedding_scale(self) -> float:
        return math.sqrt(self.hidden_size)


def _parse_model(raw: dict[str, Any], source: str) -> ModelConfig:
    top = Reader(raw, source)
    top.raw.pop(
        "quantization_config", None
    )  # says how the weights are stored, and weights/quantization.py judges it
    if (model_type := top.take("model_type", str)) != "diffusion_gemma":
        raise ConfigError(f"{source}: model_type is {shown(model_type)}, not 'diffusion_gemma'")
    text = Reader(top.take("text_config", dict), f"{source}: text_config")
    vision = top.take("vision_config", dict, None)
    for key in (
        "boi_token_id",
        "eoi_token_id",
        "vision_soft_tokens_per_image",
        "pad_token_id",
        "bos_token_id",
    ):
        top.take(key, int, None)
    eos_top = top.tokens("eos_token_id")
    eos_text = text.tokens("eos_token_id")
    if (model_type := text.take("model_type", str, "diffusion_gemma_text")) != "diffusion_gemma_text":
        raise ConfigError(f"{text.source}: model_type is {shown(model_type)}, not 'diffusion_gemma_text'")
    layers = _parse_layers(text)
    config = ModelConfig(
        vocab_size=text.size("vocab_size"),
        hidden_size=text.size("hidden_size"),
        intermediate_size=text.size("intermediate_size"),
        num_attention_heads=text.size("num_attention_heads"),
        num_experts=text.size("num_experts"),
        top_k_experts=text.size("top_k_experts"),
        moe_intermediate_size=text.size("moe_intermediate_size"),
        sliding_window=text.size("sliding_window", 512),
        canvas_length=top.size("canvas_length", 256),
        max_position_embeddings=text.size("max_position_embeddings", 131_072),
        layers=layers,
        rms_norm_eps=text.number("rms_norm_eps", 1e-6),
        final_logit_softcapping=text.number("final_logit_softcapping", 30.0),
        pad_token_id=text.token("pad_token_id", 0),
        bos_token_id=text.token("bos_token_id", 2),
        eos_token_ids=eos_top or eos_text or (1,),
        image_token_id=top.token("image_token_id", None),
        has_vision=vision is not None,
    )
    text.done()
    top.done()
    _check_model(config, text.source)
    return config


def _parse_layers(text: Reader) -> tuple[LayerConfig, ...]:
    count = text.size("num_hidden_layers")
    if count > _MOST_LAYERS:
        raise ConfigError(f"{text.source}: 'num_hidden_layers' is {count}; at most {_MOST_LAYERS} are read")
    default_types = [FULL if (i + 1) % 6 == 0 or i == count - 1 else SLIDING for i in range(count)]
    kinds = text.take("layer_types", list, None)
    if kinds:  # then a pattern is how they were made
        text.raw.pop("sliding_window_pattern", None)
        text.raw.pop("_sliding_window_pattern", None)
    kinds = kinds or default_types
    if len(kinds) != count or any(kind not in (SLIDING, FULL) for kind in kinds):
        raise ConfigError(f"{text.source}: 'layer_types' must name {count} layers as '{SLIDING}' or '{FULL}'")
    if kinds[-1] != FULL:
        raise ConfigError(f"{text.source}: the last of 'layer_types' must be '{FULL}'")
    head_dim = text.size("head_dim", 256)
    kv_heads = text.size("num_key_value_heads")
    full_dim = text.size("global_head_dim", 512)
    full_kv = text.size("num_global_key_value_heads", None)
    overrides = _parse_overrides(text, count)
    ropes = _parse_ropes(text)
    layers = []
    for i, kind in enumerate(kinds):
        dim, kv = (
            (full_dim, full_kv or kv_heads) if kind == FULL and overrides is None else (head_dim, kv_heads)
        )
        if overrides is not None and i in overrides:
            dim = overrides[i].get("head_dim", dim)
            kv = overrides[i].get("num_key_value_heads", kv)
        theta, partial, proportional = ropes[kind]
        # the exponent is divided by the whole head even where only a part of it rotates
        rotary = dim
        if proportional:
            rotary = 2 * int(partial * dim // 2)
        layers.append(LayerConfig(kind, dim, kv, theta, rotary, dim))
    return tuple(layers)


def _parse_overrides(text: Reader, count: int) -> dict[int, dict[str, int]] | None:
    raw = text.take("per_layer_config", dict, None)
    if raw is None:
        return None
    overrides: dict[int, dict[str, int]] = {}
    for key, value in raw.items():
        number = count
        if re.fullmatch("[0-9]{1,9}", key):
            number = int(key)
        if number >= count or number in overrides:
            raise ConfigError(
                f"{text.source}: per_layer_config[{shown(key)}] must name one of {count} layers, once"
            )
        layer = Reader(value, f"{text.source}: per_layer_config['{key}']")
        sizes = {name: layer.size(name, None) for name in ("head_dim", "num_key_value_heads")}
        layer.done(strict=True)
        overrides[number] = {name: size for name, size in sizes.items() if size is not None}
    return overrides


def _parse_ropes(text: Reader) -> dict[str, tuple[float, float, bool]]:
    raw = text.take("rope_parameters", dict, None) or _ROPE_DEFAULTS
    ropes = {}
    for kind in (SLIDING, FULL):
        if kind not in raw:
            raise ConfigError(f"{text.source}: rope_parameters has no '{kind}'")
        rope = Reader(raw[kind], f"{text.source}: rope_parameters.{kind}")
        if (style := rope.take("rope_type", str, "default")) not in ("default", "proportional"):
            raise ConfigError(f"{rope.source}: rope_type {shown(style)} is not known")
        theta = rope.number("rope_theta")
        partial = rope.number("partial_rotary_factor", 1.0)
        if theta <= 0 or not 0 <= partial <= 1:
            raise ConfigError(f"{rope.source}: rope_theta must be above 0, partial_rotary_factor from 0 to 1")
        if style == "default" and partial != 1:  # the oracle has no such rope: it fails on the shapes
            raise ConfigError(f"{rope.source}: partial_rotary_factor needs the rope_type 'proportional'")
        rope.done(strict=True)
        ropes[kind] = (theta, partial, style == "proportional")
    if extra := set(raw) - {SLIDING, FULL}:
        raise ConfigError(f"{text.source}: rope_parameters has an unknown entry {shown(sorted(extra)[0])}")
    return ropes


def _check_model(config: ModelConfig, source: str) -> None:
    if config.num_experts > _MOST_EXPERTS:
        raise ConfigError(
            f"{source}: 'num_experts' is {config.num_experts}; at most {_MOST_EXPERTS} are read"
        )
    if config.top_k_experts > config.num_experts:
        raise ConfigError(
            f"{source}: top_k_experts {config.top_k_experts} exceeds num_experts {config.num_experts}"
        )
    for i, layer in enumerate(config.layers):
        if config.num_attention_heads % layer.num_key_value_heads:
            raise ConfigError(
                f"{source}: layer {i} has {layer.num_key_value_heads} key-value heads, which do not divide "
                f"{config.num_attention_heads} attention heads"
            )
        if layer.head_dim % 2:
            raise ConfigError(f"{source}: layer {i} has an odd head_dim {layer.head_dim}")
    if (
        config.canvas_length >= config.max_position_embeddings
    ):  # no prompt, not even of one token, would fit beside it
        positions = config.max_position_embeddings
        sizes = f"{config.canvas_length} leaves no room in max_position_embeddings {positions}"
        raise ConfigError(f"{source}: canvas_length {sizes}")
    if config.final_logit_softcapping <= 0 or config.rms_norm_eps <= 0:
        raise ConfigError(f"{source}: final_logit_softcapping and rms_norm_eps must be above 0")


def _part_that_rotates(layer: LayerConfig) -> float:
    """The factor that reads back as the same number of dims: readers round down, so a quotient may fall
    short.
    """
    partial = layer.rotary_dims / layer.head_dim
    if 2 * int(partial * layer.head_dim // 2) == layer.rotary_dims:
        return partial
    return math.nextafter(partial, 1)


def _model_to_dict(config: ModelConfig) -> dict[str, Any]:
    sliding = next((layer for layer in config.layers if layer.is_sliding), config.layers[0])
    base = sliding.head_dim, sliding.num_key_value_heads
    overrides = {
        str(i): {"head_dim": layer.head_dim, "num_key_value_heads": layer.num_key_value_heads}
        for i, layer in enumerate(config.layers)
        if not layer.is_sliding or (layer.head_dim, layer.num_key_value_heads) != base
    }
    ropes = {}
    for layer in config.layers:
        ropes[layer.kind] = {"rope_type": "default", "rope_theta": layer.rope_theta}
        if layer.rotary_dims != layer.head_dim:
            ropes[layer.kind] |= {
                "rope_type": "proportional",
                "partial_rotary_factor": _part_that_rotates(layer),
            }
    for kind in (SLIDING, FULL):
        ropes.setdefault(kind, dict(_ROPE_DEFAULTS[kind]))
    text = {
        "model_type": "diffusion_gemma_text",
        "num_hidden_layers": len(config.layers),
        "layer_types": [layer.kind for layer in config.layers],
        "head_dim": sliding.head_dim,
        "num_key_value_heads": sliding.num_key_value_heads,
        "per_layer_config": overrides,
        "rope_parameters": ropes,
        "hidden_activation": "gelu_pytorch_tanh",
        "use_bidirectional_attention": "vision",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "eos_token_id": config.eos_token_ids[0],
    }
    copied = (
        "vocab_size hidden_size intermediate_size num_attention_heads num_experts top_k_experts "
        "moe_intermediate_size sliding_window max_position_embeddings rms_norm_eps "
        "final_logit_softcapping pad_token_id bos_token_id"
    )
    for name in copied.split():
        text[name] = getattr(config, name)
    raw = {
        "architectures": ["DiffusionGemmaForBlockDiffusion"],
        "model_type": "diffusion_gemma",
        "canvas_length": config.canvas_length,
        "eos_token_id": list(config.eos_token_ids),
        "tie_word_embeddings": True,
        "text_config": text,
    }
    if config.image_token_id is not None:
        raw["image_token_id"] = config.image_token_id
    return raw
