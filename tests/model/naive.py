"""A second opinion on the whole model: one masked pass over prompt and canvas together, in numpy, without a cache.

Every token carries its own mode (encode or denoise), so that causal prompt and bidirectional canvas are one mask. It
shares nothing with the package but the names of the weights; loops stand where speed would hide the formula.
"""

from __future__ import annotations

import numpy as np

from dgemma.config import LayerConfig, ModelConfig

Array = np.ndarray


def may_see(config: ModelConfig, layer: LayerConfig, length: int, width: int) -> Array:
    """[L + C, L + C] bool: the prompt looks back (through a window on sliding layers), the canvas at both."""
    sees = np.zeros((length + width, length + width), dtype=bool)
    for row in range(length + width):
        for key in range(length + width):
            if row < length:
                sees[row, key] = key <= row and (not layer.is_sliding or row - key < config.sliding_window)
            else:
                sees[row, key] = not layer.is_sliding or key > length - config.sliding_window
    return sees


def run(
    config: ModelConfig,
    weights: dict[str, Array],
    prompt: list[int],
    canvas: list[int],
    chances: Array | None = None,
) -> Array:
    """Soft-capped logits of all tokens [L + C, V]; chances [C, V]: what the last step believed, or None."""
    embedding, scale = weights["embed.weight"], np.sqrt(config.hidden_size)
    length = len(prompt)
    x = embedding[prompt + canvas] * scale
    if chances is not None:
        soft = chances @ embedding * scale
        soft = norm(config, soft, weights["self_conditioning.pre_norm.weight"])
        x[length:] += gated(weights, "self_conditioning", soft)
    x[length:] = norm(config, x[length:])
    encoding = np.arange(len(x)) < length
    for number, layer in enumerate(config.layers):
        own = {
            name.removeprefix(f"layers.{number}."): w
            for name, w in weights.items()
            if f"layers.{number}." in name
        }
        x = block(config, layer, own, x, may_see(config, layer, length, len(canvas)), encoding)
    logits = norm(config, x, weights["norm.weight"]) @ embedding.T
    return config.final_logit_softcapping * np.tanh(logits / config.final_logit_softcapping)


def block(
    config: ModelConfig, layer: LayerConfig, own: dict[str, Array], x: Array, sees: Array, encoding: Array
) -> Array:
    def normed(y: Array, name: str) -> Array:
        return norm(config, y, own[name + ".weight"])

    a = attend(config, layer, own, normed(x, "input_layernorm"), sees)
    x = x + normed(a, "post_attention_layernorm")
    dense = normed(gated(own, "mlp", normed(x, "pre_feedforward_layernorm")), "post_feedforward_layernorm_1")
    mixed = experts(config, own, norm(config, x), normed(x, "pre_feedforward_layernorm_2"))
    both = normed(dense + normed(mixed, "post_feedforward_layernorm_2"), "post_feedforward_layernorm")
    return (x + both) * np.where(encoding, own["encoder_layer_scalar"], own["layer_scalar"])[:, None]


def attend(config: ModelConfig, layer: LayerConfig, own: dict[str, Array], x: Array, sees: Array) -> Array:
    count, dim = len(x), layer.head_dim
    q = (x @ own["self_attn.q_proj.weight"].T).reshape(count, -1, dim)
    k = (x @ own["self_attn.k_proj.weight"].T).reshape(count, -1, dim)
    v = (x @ own["self_attn.v_proj.weight"].T).reshape(count, -1, dim) if layer.is_sliding else k
    q = turn(layer, norm(config, q, own["self_attn.q_norm.weight"]))
    k, v = turn(layer, norm(config, k, own["self_attn.k_norm.weight"])), norm(config, v)
    mixed = np.zeros_like(q)
    for head in range(config.num_attention_heads):
        shared = head * layer.num_key_value_heads // config.num_attention_heads
        scores = np.where(sees, q[:, head] @ k[:, shared].T, -np.inf)
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        mixed[:, head] = odds / odds.sum(-1, keepdims=True) @ v[:, shared]
    return mixed.reshape(count, -1) @ own["self_attn.o_proj.weight"].T


def turn(layer: LayerConfig, x: Array) -> Array:
    """Rope; the angle is made in float32, as the checkpoint was trained."""
    half = layer.head_dim // 2
    pairs = np.arange(half, dtype=np.float32)
    frequency = np.float32(layer.rope_theta) ** (-2 * pairs / layer.rope_divisor) * (
        pairs < layer.rotary_dims // 2
    )
    angle = (np.arange(len(x), dtype=np.float32)[:, None] * frequency.astype(np.float32))[:, None]
    low, high = x[..., :half], x[..., half:]
    return np.concatenate(
        (low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)), -1
    )


def experts(config: ModelConfig, own: dict[str, Array], raw: Array, x: Array) -> Array:
    """raw: the residual, normalised without a weight, for the router; x: what the experts read."""
    scores = raw * own["router.scale"] / np.sqrt(config.hidden_size) @ own["router.proj.weight"].T
    out = np.zeros_like(x)
    for row, odds in enumerate(np.exp(scores)):
        best = np.argsort(-odds)[: config.top_k_experts]
        for expert in best:
            gate, up = np.split(own["experts.gate_up_proj"][expert] @ x[row], 2)
            share = odds[expert] / odds[best].sum() * own["router.per_expert_scale"][expert]
            out[row] += share * (own["experts.down_proj"][expert] @ (gelu(gate) * up))
    return out


def gated(own: dict[str, Array], name: str, x: Array) -> Array:
    gate, up = x @ own[f"{name}.gate_proj.weight"].T, x @ own[f"{name}.up_proj.weight"].T
    return gelu(gate) * up @ own[f"{name}.down_proj.weight"].T


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(config: ModelConfig, x: Array, weight: Array | None = None) -> Array:
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps)
    return y if weight is None else y * weight
