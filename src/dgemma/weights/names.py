"""The one table from the names in a checkpoint to the names in the model, with the shapes a config asks
for.

Knows no file and no tensor. Trap: `layer_scalar` is the only text tensor that is stored twice (once for
`denoise` under the decoder, once for `encode` under the encoder); any other text tensor found under the
encoder is a second copy of the decoder's, and an `lm_head` one of the embedding (`tied_to`): nobody reads
them, and they must say the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..config import LayerConfig, ModelConfig

DECODER = "model.decoder."
LAYER = "model.decoder.layers."
ENCODER = "model.encoder.language_model."
ENCODER_LAYER = f"{ENCODER}layers."
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")

GROUPS = ("experts", "attention", "embedding", "dense", "router", "self_conditioning", "norms")

# suffix: (group, shape). D hidden, I dense intermediate, E experts, M expert intermediate, V vocabulary,
# H head dim, Q query heads x head dim, K key-value heads x head dim.
_PER_LAYER = {
    "input_layernorm.weight": ("norms", "D"),
    "post_attention_layernorm.weight": ("norms", "D"),
    "pre_feedforward_layernorm.weight": ("norms", "D"),
    "post_feedforward_layernorm.weight": ("norms", "D"),
    "post_feedforward_layernorm_1.weight": ("norms", "D"),
    "post_feedforward_layernorm_2.weight": ("norms", "D"),
    "pre_feedforward_layernorm_2.weight": ("norms", "D"),
    "layer_scalar": ("norms", "1"),
    "self_attn.q_proj.weight": ("attention", "Q D"),
    "self_attn.k_proj.weight": ("attention", "K D"),
    "self_attn.v_proj.weight": (
        "attention",
        "K D",
    ),  # sliding layers only: full layers reuse the k projection
    "self_attn.o_proj.weight": ("attention", "D Q"),
    "self_attn.q_norm.weight": ("attention", "H"),
    "self_attn.k_norm.weight": ("attention", "H"),
    "mlp.gate_proj.weight": ("dense", "I D"),
    "mlp.up_proj.weight": ("dense", "I D"),
    "mlp.down_proj.weight": ("dense", "D I"),
    "router.proj.weight": ("router", "E D"),
    "router.scale": ("router", "D"),
    "router.per_expert_scale": ("router", "E"),
    "experts.gate_up_proj": ("experts", "E 2M D"),
    "experts.down_proj": ("experts", "E D M"),
}
# name under the decoder: (model name, group, shape)
_ONCE = {
    "embed_tokens.weight": ("embed.weight", "embedding", "V D"),
    "norm.weight": ("norm.weight", "norms", "D"),
    "self_conditioning.pre_norm.weight": ("self_conditioning.pre_norm.weight", "self_conditioning", "D"),
    "self_conditioning.gate_proj.weight": ("self_conditioning.gate_proj.weight", "self_conditioning", "I D"),
    "self_conditioning.up_proj.weight": ("self_conditioning.up_proj.weight", "self_conditioning", "I D"),
    "self_conditioning.down_proj.weight": ("self_conditioning.down_proj.weight", "self_conditioning", "D I"),
}
_HEADS = ("lm_head.", "model.lm_head.")
_LAYER_NAME = re.compile(r"model\.(decoder|encoder\.language_model)\.layers\.(0|[1-9][0-9]{0,5})\.(.+)")
_QUANTISED = re.compile(r".*\.(weight_\w+|input_(global_)?scale|qweight|qzeros|scales|g_idx)")
_CACHE = re.compile(r"model\.decoder\.layers\.(0|[1-9][0-9]{0,5})\.self_attn\.([kv]_proj\.)?[kv]_scale")


@dataclass(frozen=True)
class Target:
    """Where one checkpoint tensor goes: the model's name for it, its shape and the group it is counted in."""

    model_name: str
    shape: tuple[int, ...]
    group: str


def expected_tensors(config: ModelConfig) -> dict[str, Target]:
    """Every text tensor the checkpoint of `config` must hold: checkpoint name -> Target, in a fixed order."""
    sizes = {
        "1": 1,
        "V": config.vocab_size,
        "D": config.hidden_size,
        "I": config.intermediate_size,
        "E": config.num_experts,
        "M": config.moe_intermediate_size,
        "2M": 2 * config.moe_intermediate_size,
    }
    targets = {
        DECODER + name: Target(model_name, _shape(symbols, sizes), group)
        for name, (model_name, group, symbols) in _ONCE.items()
    }
    for number, layer in enumerate(config.layers):
        targets.update(_layer_targets(number, layer, config, sizes))
    return targets


def published_names(config: ModelConfig) -> dict[str, str]:
    """The other direction, for writing: model name -> checkpoint name."""
    return {target.model_name: name for name, target in expected_tensors(config).items()}


def modules(name: str, target: Target) -> list[tuple[str, tuple[int, int]]]:
    """The matrices [O, I] that a tensor is made of where each has fields of its own: their names, in the
    order of its rows.

    A vector has none. Published layouts in few bits keep every expert's gate, up and down apart.
    """
    if len(target.shape) < 2:
        return []
    if len(target.shape) == 2:
        return [(name.removesuffix(".weight"), target.shape)]
    experts, rows, inputs = target.shape
    stem, _, leaf = name.rpartition(".")
    kinds = [leaf]
    if leaf == "gate_up_proj":
        kinds = ["gate_proj", "up_proj"]
    return [
        (f"{stem}.{expert}.{kind}", (rows // len(kinds), inputs))
        for expert in range(experts)
        for kind in kinds
    ]


def classify(name: str) -> str:
    """'text' (read), 'vision' (recognised, not used yet), 'cache' (scales of a K/V cache in few bits, not
    used) or 'unknown'.

    A config may still not ask for a 'text' name. What stands under a matrix of a quantised layout is found
    by stored.py.
    """
    if name.startswith(VISION):
        return "vision"
    if _CACHE.fullmatch(name):
        return "cache"
    if name.startswith(DECODER) and name.removeprefix(DECODER) in _ONCE:
        return "text"
    if match := _LAYER_NAME.fullmatch(name):
        part, _, suffix = match.groups()
        if suffix in _PER_LAYER if part == "decoder" else suffix == "layer_scalar":
            return "text"
        return "unknown"
    return "unknown"


def tied_to(name: str) -> str | None:
    """The tensor that this one is a second copy of in a model whose weights are tied; None for what is tied
    to nothing.
    """
    if name.startswith(_HEADS):
        return f"{DECODER}embed_tokens.{name.rpartition('.')[2]}"
    if name.startswith(ENCODER) and not name.endswith(".layer_scalar"):
        return DECODER + name.removeprefix(ENCODER)
    return None


def why_unknown(name: str) -> str:
    """Half a sentence for the error: why a tensor of this name is refused instead of ignored."""
    if name.startswith(_HEADS):
        return "the output head is tied to model.decoder.embed_tokens.weight, so another would go unused"
    if _QUANTISED.fullmatch(name):
        return "it belongs to a quantised layout, which config.json does not describe (quantization_config)"
    if name.startswith(ENCODER):
        return "encoder and decoder share their text weights, which are read under model.decoder"
    if classify(name) == "text":
        return "config.json describes no such tensor (layer count, layer kind)"
    return "no part of this model is called so"


def _layer_targets(
    number: int, layer: LayerConfig, config: ModelConfig, sizes: dict[str, int]
) -> dict[str, Target]:
    heads = {
        "H": layer.head_dim,
        "Q": config.num_attention_heads * layer.head_dim,
        "K": layer.num_key_value_heads * layer.head_dim,
    }
    targets = {}
    for suffix, (group, symbols) in _PER_LAYER.items():
        if suffix == "self_attn.v_proj.weight" and not layer.is_sliding:
            continue
        shape = _shape(symbols, sizes | heads)
        targets[f"{LAYER}{number}.{suffix}"] = Target(f"layers.{number}.{suffix}", shape, group)
    encoder_scalar = Target(f"layers.{number}.encoder_layer_scalar", (1,), "norms")
    targets[f"{ENCODER_LAYER}{number}.layer_scalar"] = encoder_scalar
    return targets


def _shape(symbols: str, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[symbol] for symbol in symbols.split())
