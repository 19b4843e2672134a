"""The reference model, from Transformers where that is installed: read from a folder, or made of our own
tensors.

The one file of this package that imports it, and only when it is asked for: nothing but `dgemma verify` and
benchmarks do. Its attention is sdpa, its experts the plain loop and its cache the dynamic one, which is the
one that is right behind a window.
Trap: a model made on the meta device has no rotary tables and no embedding factor, for no checkpoint holds
them; they are made anew.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, UsageError
from ..model.dgemma import DiffusionGemma
from ..weights.names import published_names

# without this it builds a tower of half a billion parameters for a model that has none
SMALL_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "global_head_dim": 8,
    "position_embedding_size": 16,
    "patch_size": 2,
    "pooling_kernel_size": 1,
    "default_output_length": 4,
}


def why_not() -> str | None:
    """Why there is no reference here; None where there is one."""
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return "transformers is not installed"
    try:
        from transformers import DiffusionGemmaForBlockDiffusion  # noqa: F401
    except ImportError as error:
        return f"transformers {version} has no such architecture ({str(error).splitlines()[0]})"
    return None


def read(folder: Path, dtype: torch.dtype, device: torch.device, vision: bool) -> Any:
    """The reference as its users load it. vision: whether the folder holds a vision tower.

    Raises CheckpointError for strays.
    """
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = DiffusionGemmaConfig(**raw | ({} if vision else {"vision_config": SMALL_VISION}))
    with _quiet():
        loaded: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(  # its type leaves `info` out
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            experts_implementation="eager",
            output_loading_info=True,
        )
    model, info = loaded
    strays = [
        str(name) for name in (*info["missing_keys"], *info["unexpected_keys"]) if "vision" not in str(name)
    ]
    if strays:
        raise CheckpointError(
            f"transformers reads it with {len(strays)} missing or unknown tensors, the first is {strays[0]}"
        )
    return model.eval().to(device)


def borrow(model: DiffusionGemma, experts: str | None = "eager") -> Any:
    """The reference with our model's own tensors: no second copy of them. experts: its implementation; None:
    its choice.

    Raises UsageError for a model whose weights are packed, which can only be multiplied with.
    """
    if model.packed is not None:
        raise UsageError(
            "packed weights cannot be lent to another model; set DGEMMA_KERNELS=triton, "
            "which keeps them plain"
        )
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    config = DiffusionGemmaConfig(**model.config.to_dict() | {"vision_config": SMALL_VISION})
    config._attn_implementation = "sdpa"
    if experts:
        config._experts_implementation = experts
    with torch.device("meta"):
        oracle = DiffusionGemmaForBlockDiffusion(config).eval()
    oracle.to(model.dtype)
    for name, module in [*oracle.named_modules()]:
        transient = module._non_persistent_buffers_set
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(
                module.scalar_embed_scale, dtype=model.dtype, device=model.device
            )
        elif any(buffer.endswith("inv_freq") for buffer in transient):
            oracle.set_submodule(name, type(module)(module.config).to(model.device))
    names = published_names(model.config)
    given = {
        names[name]: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    loaded = oracle.load_state_dict(given, strict=False, assign=True)
    oracle.tie_weights()
    left = [name for name, tensor in [*oracle.named_parameters(), *oracle.named_buffers()] if tensor.is_meta]
    strays = [*loaded.unexpected_keys, *(name for name in left if "vision" not in name)]
    if strays:
        raise CheckpointError(f"transformers knows other tensors than this model, the first is {strays[0]}")
    for module in oracle.modules():
        if any(
            tensor.is_meta for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        ):
            module.to_empty(device=model.device, recurse=False)
    return oracle.requires_grad_(False)


@torch.no_grad()
def answers(
    oracle: Any, ids: Sequence[int], canvas: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [C, V] of the last C prompt tokens, of a first step over canvas [C], and of a second one that
    believes the first.
    """
    from transformers import DynamicCache

    device = canvas.device
    width = len(canvas)
    cache = DynamicCache(config=oracle.config.get_text_config(decoder=True))
    encoder = oracle.model.encoder
    read = encoder(
        input_ids=torch.tensor([[*ids]], device=device),
        position_ids=torch.arange(len(ids), device=device)[None],
        **_kept(encoder, cache),
    )
    cap = oracle.final_logit_softcapping
    encoded = cap * torch.tanh(oracle.lm_head(read.last_hidden_state[0, -width:]).float() / cap)
    first = oracle(decoder_input_ids=canvas[None], **_kept(oracle, cache)).logits[0]
    believed = (first / temperature)[None]
    second = oracle(
        decoder_input_ids=canvas[None], self_conditioning_logits=believed, **_kept(oracle, cache)
    ).logits[0]
    return encoded, first, second


def _kept(module: Any, cache: Any) -> dict[str, Any]:
    """The cache under the name that `module.forward` gives it: `past_key_values` before Transformers 5.24,
    then `cache`.
    """
    return {"cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values": cache}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its notes and its progress bar belong to nobody's report."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
