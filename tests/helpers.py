"""What several rooms' tests share. Import inside the functions what only some of them need (torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def byte_tokenizer_json(merges: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The JSON of a byte-level BPE tokenizer: all control tokens (ids 0-17), the 256 bytes (18-273), the merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    from dgemma.text.vocabulary import CONTROL_TEXTS

    control = list(CONTROL_TEXTS.values())
    tokens = [*control, *sorted(ByteLevel.alphabet()), *(a + b for a, b in merges)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {token: n for n, token in enumerate(tokens)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": text, **flags} for n, text in enumerate(control)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]},
    }


def byte_tokenizer(merges: Sequence[tuple[str, str]] = ()):
    """A `dgemma.text.tokenizer.Tokenizer` in which every byte is a token, and every pair in `merges` one more."""
    from dgemma.text.tokenizer import Tokenizer

    return Tokenizer.from_json(byte_tokenizer_json(merges))


def tiny_raw(layers: str = "SSF", **text: Any) -> dict[str, Any]:
    """A `config.json` of a few thousand parameters; `layers` spells the kinds (S sliding, F full)."""
    kinds = {"S": "sliding_attention", "F": "full_attention"}
    canvas = text.pop("canvas_length", 6)
    sizes = {
        "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": len(layers),
        "layer_types": [kinds[letter] for letter in layers], "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "num_experts": 4, "top_k_experts": 2,
        "moe_intermediate_size": 6, "sliding_window": 5, "max_position_embeddings": 512,
    }  # fmt: skip
    return {"model_type": "diffusion_gemma", "canvas_length": canvas, "text_config": sizes | text}


def tiny_config(layers: str = "SSF", **text: Any):
    """The `ModelConfig` of `tiny_raw`."""
    from dgemma.config import ModelConfig

    return ModelConfig.from_dict(tiny_raw(layers, **text))


def lively_model(config, seed: int = 0, dtype: str = "float32", sharpness: float = 6.0):
    """A random model with an opinion: logits of standard deviation `sharpness`, decided routing, scalars that differ.

    Weights come from numpy's frozen RandomState stream, so golden files mean the same on every machine.
    """
    import numpy as np
    import torch

    from dgemma.model.build import build

    random = np.random.RandomState(seed)
    model = build(config, "cpu", torch.float32)
    for name, tensor in sorted(list(model.named_parameters()) + list(model.named_buffers())):
        draw = torch.from_numpy(random.standard_normal(tuple(tensor.shape))).float()
        if tensor.dim() >= 2:
            draw = draw * tensor.shape[-1] ** -0.5
        elif name.endswith("router.scale"):
            draw = 2.0 * config.embedding_scale * (1.0 + 0.2 * draw)  # expert scores of deviation 2: no near-ties
        elif name.endswith(("layer_scalar", "per_expert_scale")):
            draw = 1.0 + 0.3 * draw.clamp(-2, 2)  # encoder and decoder draw their own
        else:
            draw = 1.0 + 0.2 * draw
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            draw = draw * (9.0 / tensor.shape[0]) ** 0.25  # attention scores of deviation 3 whatever the head dim
        tensor.copy_(draw * sharpness if name == "norm.weight" else draw)
    return model.to(getattr(torch, dtype))


def closeness(got, want) -> tuple[float, float]:
    """(largest relative error, RMS relative error); elements smaller than the RMS are measured against the RMS."""
    got, want = got.double(), want.double()
    assert got.shape == want.shape, f"shapes {tuple(got.shape)} and {tuple(want.shape)}"
    error, rms = (got - want).abs(), want.square().mean().sqrt()
    return float((error / want.abs().clamp_min(rms)).max()), float(error.square().mean().sqrt() / rms)


LARGEST = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 0.15, "float16": 0.02}  # RMS limits: a quarter of these


def is_close(got, want, dtype: str = "float32", spread: float = 0.0) -> bool:
    """Whether both errors stay within the fixed limits of `dtype` (or a `spread` measured on the reference itself)."""
    largest, rms = closeness(got, want)
    limit = max(LARGEST[dtype], spread)
    return largest <= limit and rms <= limit / 4


def assert_close(got, want, dtype: str = "float32", spread: float = 0.0) -> None:
    largest, rms = closeness(got, want)
    assert is_close(got, want, dtype, spread), f"largest relative error {largest:.2e}, RMS {rms:.2e} ({dtype})"
