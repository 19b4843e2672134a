"""Settings as frozen dataclasses: ModelConfig (a checkpoint), DenoiseConfig (a request), EngineConfig (a process).

A checkpoint's JSON is parsed against an allow-list: a key this file does not know is an error, because
it may change the mathematics without changing a single tensor shape. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, UsageError

SLIDING, FULL = "sliding_attention", "full_attention"
MAX_PROMPT_CHARACTERS = 800_000  # refused before it is tokenised: 262,144 positions hold about as much

# Keys that may stand in a config.json without any effect on what the model computes.
_HARMLESS = {
    "architectures", "dtype", "torch_dtype", "transformers_version", "initializer_range", "use_cache", "_name_or_path",
    "return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder",
    "id2label", "label2id", "problem_type", "_attn_implementation", "attn_implementation", "_commit_hash",
    "name_or_path", "is_decoder",
}  # fmt: skip
# Keys that do change the mathematics, and the only values this build computes.
_FIXED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "attention_dropout": (0, 0.0, None),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": ("vision", None),
    "tie_word_embeddings": (True,),
    "attention_k_eq_v": (True,),
    "enable_moe_block": (True,),
}
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


@dataclass(frozen=True)
class DenoiseConfig:
    """How one request's canvases are decided. Names and defaults are those of `generation_config.json`.

    Temperatures divide the logits; entropies and bounds are in nats. See docs/glossary.md.
    """

    max_denoising_steps: int = 48
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    eos_token_id: tuple[int, ...] | None = (1, 106, 50)
    pad_token_id: int | None = 0
    canvas_width: int | None = None  # None: the checkpoint's canvas_length
    max_new_tokens: int = 256  # the checkpoint's default length; a request's max_tokens wins

    def __post_init__(self) -> None:
        _check_denoise(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any], source: str = "generation_config.json") -> DenoiseConfig:
        """Parse a published `generation_config.json`. Raises ConfigError for unknown keys or values."""
        return _parse_denoise(raw, source)

    @classmethod
    def from_file(cls, path: Path) -> DenoiseConfig:
        return cls.from_dict(read_json(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        raw = dataclasses.asdict(self)
        raw.pop("canvas_width")
        raw["sampler_config"] = {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": raw.pop("entropy_bound")}
        raw["eos_token_id"] = list(self.eos_token_id or ())
        return raw

    def replace(self, **changes: Any) -> DenoiseConfig:
        """A copy with some settings changed by a request. Raises UsageError for a name that does not exist."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise UsageError(f"unknown sampler setting '{name}'; known: {', '.join(names)}")
        if isinstance(changes.get("eos_token_id"), int):
            changes["eos_token_id"] = (changes["eos_token_id"],)
        elif changes.get("eos_token_id") is not None:
            changes["eos_token_id"] = tuple(changes["eos_token_id"])
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class EngineConfig:
    """What one process does with its machine."""

    prefill_chunk: int = 512  # prompt tokens encoded per pass: bounds the activations, never changes the result
    max_prompt_tokens: int | None = None  # None: what the checkpoint's positions leave beside one canvas


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, duplicate keys refused. Raises ConfigError that names the file."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                raise ConfigError(f"{path}: the key '{key}' stands there twice")
            seen[key] = value
        return seen

    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=pairs)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; a checkpoint folder needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a JSON object was expected")
    return raw


class _Reader:
    """Takes known keys out of one JSON object; what is left at the end is an error."""

    def __init__(self, raw: dict[str, Any], source: str):
        self.raw, self.source = dict(raw), source

    def take(self, key: str, kind: type | tuple[type, ...], *default: Any) -> Any:
        if key not in self.raw:
            if default:
                return default[0]
            raise ConfigError(f"{self.source}: the key '{key}' is missing")
        value = self.raw.pop(key)
        if default and value is None and default[0] is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{self.source}: '{key}' is {value!r}, which is not of the expected type")
        return value

    def size(self, key: str, *default: int | None) -> Any:
        value = self.take(key, int, *default)
        if value is not None and value < 1:
            raise ConfigError(f"{self.source}: '{key}' is {value}; it must be at least 1")
        return value

    def done(self) -> None:
        for key, value in self.raw.items():
            if key in _HARMLESS:
                continue
            if key not in _FIXED:
                raise ConfigError(f"{self.source}: unknown key '{key}'; it may change the model, so it is not ignored")
            if value not in _FIXED[key]:
                raise ConfigError(f"{self.source}: '{key}' is {value!r}; this build computes only {_FIXED[key][0]!r}")


def _parse_model(raw: dict[str, Any], source: str) -> ModelConfig:
    top = _Reader(raw, source)
    if "quantization_config" in top.raw:
        raise ConfigError(f"{source}: the weights are quantised (quantization_config); this build reads 16 and 32 bit")
    if (found := top.take("model_type", str)) != "diffusion_gemma":
        raise ConfigError(f"{source}: model_type is '{found}', not 'diffusion_gemma'")
    text = _Reader(top.take("text_config", dict), f"{source}: text_config")
    vision = top.take("vision_config", dict, None)
    for key in ("boi_token_id", "eoi_token_id", "vision_soft_tokens_per_image", "pad_token_id", "bos_token_id"):
        top.take(key, int, None)
    eos_top = top.take("eos_token_id", (int, list), None)
    if (found := text.take("model_type", str, "diffusion_gemma_text")) != "diffusion_gemma_text":
        raise ConfigError(f"{text.source}: model_type is '{found}', not 'diffusion_gemma_text'")
    eos_text = text.take("eos_token_id", (int, list), 1)
    eos = eos_top if eos_top is not None else eos_text
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
        rms_norm_eps=float(text.take("rms_norm_eps", (int, float), 1e-6)),
        final_logit_softcapping=float(text.take("final_logit_softcapping", (int, float), 30.0)),
        pad_token_id=text.take("pad_token_id", int, 0),
        bos_token_id=text.take("bos_token_id", int, 2),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        image_token_id=top.take("image_token_id", int, None),
        has_vision=vision is not None,
    )
    text.done()
    top.done()
    _check_model(config, text.source)
    return config


def _parse_layers(text: _Reader) -> tuple[LayerConfig, ...]:
    count = text.size("num_hidden_layers")
    default_types = [FULL if (i + 1) % 6 == 0 or i == count - 1 else SLIDING for i in range(count)]
    kinds = text.take("layer_types", list, None) or default_types
    if len(kinds) != count or any(kind not in (SLIDING, FULL) for kind in kinds):
        raise ConfigError(f"{text.source}: 'layer_types' must name {count} layers as '{SLIDING}' or '{FULL}'")
    if kinds[-1] != FULL:
        raise ConfigError(f"{text.source}: the last of 'layer_types' must be '{FULL}'")
    head_dim, kv_heads = text.size("head_dim", 256), text.size("num_key_value_heads")
    full_dim, full_kv = text.size("global_head_dim", 512), text.size("num_global_key_value_heads", None)
    overrides = _parse_overrides(text, count)
    ropes = _parse_ropes(text)
    layers = []
    for i, kind in enumerate(kinds):
        dim, kv = (full_dim, full_kv or kv_heads) if kind == FULL and overrides is None else (head_dim, kv_heads)
        if overrides is not None and i in overrides:
            dim, kv = overrides[i].get("head_dim", dim), overrides[i].get("num_key_value_heads", kv)
        theta, partial, proportional = ropes[kind]
        # "proportional" divides the exponent by the whole head; the default form by the part that rotates
        rotary = 2 * int(partial * dim // 2) if proportional else int(dim * partial)
        layers.append(LayerConfig(kind, dim, kv, theta, rotary, dim if proportional else rotary))
    return tuple(layers)


def _parse_overrides(text: _Reader, count: int) -> dict[int, dict[str, int]] | None:
    raw = text.take("per_layer_config", dict, None)
    if raw is None:
        return None
    overrides: dict[int, dict[str, int]] = {}
    for key, value in raw.items():
        if not key.isdigit() or int(key) >= count or int(key) in overrides or not isinstance(value, dict):
            raise ConfigError(f"{text.source}: per_layer_config['{key}'] does not name one of {count} layers")
        layer = _Reader(value, f"{text.source}: per_layer_config['{key}']")
        sizes = {name: layer.size(name, None) for name in ("head_dim", "num_key_value_heads")}
        layer.done()
        overrides[int(key)] = {name: size for name, size in sizes.items() if size is not None}
    return overrides


def _parse_ropes(text: _Reader) -> dict[str, tuple[float, float, bool]]:
    raw = text.take("rope_parameters", dict, None) or _ROPE_DEFAULTS
    ropes = {}
    for kind in (SLIDING, FULL):
        if kind not in raw:
            raise ConfigError(f"{text.source}: rope_parameters has no '{kind}'")
        rope = _Reader(raw[kind], f"{text.source}: rope_parameters.{kind}")
        if (style := rope.take("rope_type", str, "default")) not in ("default", "proportional"):
            raise ConfigError(f"{rope.source}: rope_type '{style}' is not known")
        theta = float(rope.take("rope_theta", (int, float)))
        partial = float(rope.take("partial_rotary_factor", (int, float), 1.0))
        rope.done()
        ropes[kind] = (theta, partial, style == "proportional")
    if extra := set(raw) - {SLIDING, FULL}:
        raise ConfigError(f"{text.source}: rope_parameters has an unknown entry '{sorted(extra)[0]}'")
    return ropes


def _check_model(config: ModelConfig, source: str) -> None:
    if config.top_k_experts > config.num_experts:
        raise ConfigError(f"{source}: top_k_experts {config.top_k_experts} exceeds num_experts {config.num_experts}")
    for i, layer in enumerate(config.layers):
        if config.num_attention_heads % layer.num_key_value_heads:
            raise ConfigError(
                f"{source}: layer {i} has {layer.num_key_value_heads} key-value heads, which do not divide "
                f"{config.num_attention_heads} attention heads"
            )
        if layer.head_dim % 2:
            raise ConfigError(f"{source}: layer {i} has an odd head_dim {layer.head_dim}")
    if config.final_logit_softcapping <= 0 or config.rms_norm_eps <= 0:
        raise ConfigError(f"{source}: final_logit_softcapping and rms_norm_eps must be above 0")


def _model_to_dict(config: ModelConfig) -> dict[str, Any]:
    sliding = next((layer for layer in config.layers if layer.is_sliding), config.layers[0])
    overrides = {
        str(i): {"head_dim": layer.head_dim, "num_key_value_heads": layer.num_key_value_heads}
        for i, layer in enumerate(config.layers)
        if not layer.is_sliding
    }
    ropes = {}
    for layer in config.layers:
        ropes[layer.kind] = {"rope_type": "default", "rope_theta": layer.rope_theta}
        if layer.rotary_dims != layer.head_dim:
            partial = layer.rotary_dims / layer.head_dim
            style = "proportional" if layer.rope_divisor == layer.head_dim else "default"
            ropes[layer.kind] |= {"rope_type": style, "partial_rotary_factor": partial}
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
    for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_experts", "top_k_experts",
        "moe_intermediate_size", "sliding_window", "max_position_embeddings", "rms_norm_eps",
        "final_logit_softcapping", "pad_token_id", "bos_token_id",
    ):  # fmt: skip
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


def _parse_denoise(raw: dict[str, Any], source: str) -> DenoiseConfig:
    reader = _Reader(raw, source)
    settings: dict[str, Any] = {}
    sampler = reader.take("sampler_config", dict, None)
    if sampler is not None:
        inner = _Reader(sampler, f"{source}: sampler_config")
        if (name := inner.take("_cls_name", str, "EntropyBoundSamplerConfig")) != "EntropyBoundSamplerConfig":
            raise ConfigError(f"{inner.source}: sampler '{name}' is not known")
        settings["entropy_bound"] = float(inner.take("entropy_bound", (int, float)))
        inner.done()
    for name in ("max_denoising_steps", "stability_threshold", "max_new_tokens", "pad_token_id"):
        if (value := reader.take(name, int, None)) is not None:
            settings[name] = value
    for name in ("t_min", "t_max", "confidence_threshold"):
        if (value := reader.take(name, (int, float), None)) is not None:
            settings[name] = float(value)
    if "eos_token_id" in reader.raw:
        eos = reader.take("eos_token_id", (int, list), None)
        settings["eos_token_id"] = (eos,) if isinstance(eos, int) else tuple(eos) if eos else None
    for name in ("bos_token_id", "max_length", "cache_implementation", "_from_model_config", "return_dict_in_generate",
                 "disable_compile", "cache_config"):  # fmt: skip
        reader.raw.pop(name, None)
    reader.done()
    try:
        return DenoiseConfig(**settings)
    except UsageError as error:
        raise ConfigError(f"{source}: {error}") from None


def _check_denoise(config: DenoiseConfig) -> None:
    """Every setting in its range, or a UsageError that names it (the oracle's ranges, and no silent clamping)."""

    def need(ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise UsageError(f"{name} is {getattr(config, name)!r}; it must be {rule}")

    def number(name: str) -> bool:
        value = getattr(config, name)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    def integer(name: str, least: int) -> bool:
        value = getattr(config, name)
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    need(integer("max_denoising_steps", 1), "max_denoising_steps", "a whole number, at least 1")
    need(integer("stability_threshold", 0), "stability_threshold", "a whole number, at least 0")
    need(integer("max_new_tokens", 1), "max_new_tokens", "a whole number, at least 1")
    need(config.canvas_width is None or integer("canvas_width", 1), "canvas_width", "a whole number, at least 1")
    need(number("t_min") and config.t_min >= 0, "t_min", "a number, at least 0")
    need(number("t_max") and config.t_max > 0 and config.t_max >= config.t_min, "t_max", "above 0 and not below t_min")
    need(number("entropy_bound") and config.entropy_bound >= 0, "entropy_bound", "a number of nats, at least 0")
    need(number("confidence_threshold") and config.confidence_threshold > 0, "confidence_threshold", "above 0")
    eos = config.eos_token_id
    need(eos is None or all(isinstance(i, int) and i >= 0 for i in eos), "eos_token_id", "token ids, or None")
