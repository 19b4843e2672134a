"""The oracle: Transformers' DiffusionGemma, run row by row with its dynamic cache. The one file that imports it.

Knows nothing of our loop. Its trap: a starting canvas given to its `generate` serves the first canvas only, so
whole canvases are compared with one call per canvas.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dgemma.bench.oracle import SMALL_VISION
from dgemma.config import DenoiseConfig
from dgemma.model.dgemma import DiffusionGemma
from dgemma.weights.names import published_names


def installed() -> bool:
    try:
        major, minor = importlib.metadata.version("transformers").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= (5, 17)


needed = pytest.mark.skipif(not installed(), reason="the oracle, transformers >= 5.17, is not installed")


def config_of(raw: dict[str, Any]) -> Any:
    """The oracle's own config object of a `config.json`, with a vision tower small enough for a test."""
    from transformers import DiffusionGemmaConfig

    return DiffusionGemmaConfig(**raw | {"vision_config": SMALL_VISION})


def model_of(model: DiffusionGemma, raw: dict[str, Any] | None = None, attention: str = "sdpa") -> Any:
    """The oracle with our model's weights; its config is read from `raw`, or else from what we would write."""
    from transformers import DiffusionGemmaForBlockDiffusion

    config = config_of(raw or model.config.to_dict())
    config._attn_implementation = attention
    config._experts_implementation = "eager"  # its grouped form refuses rows that are no multiple of 16 bytes
    with torch.random.fork_rng():
        oracle = DiffusionGemmaForBlockDiffusion(config).eval().to(model.dtype)
    names = published_names(model.config)
    found = oracle.load_state_dict(
        {names[name]: tensor for name, tensor in model.state_dict().items()}, strict=False
    )
    assert not found.unexpected_keys, found.unexpected_keys
    oracle.tie_weights()
    return oracle


def reload(folder: str, attention: str = "sdpa") -> Any:
    """The oracle from a checkpoint folder, as its users load it; every text tensor must have been found."""
    from transformers import DiffusionGemmaForBlockDiffusion

    oracle, info = DiffusionGemmaForBlockDiffusion.from_pretrained(
        folder, attn_implementation=attention, experts_implementation="eager", output_loading_info=True
    )
    strays = [name for name in info["missing_keys"] if "vision" not in name] + list(info["unexpected_keys"])
    assert not strays and not info["mismatched_keys"], info
    return oracle.eval()


def new_cache(oracle: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=oracle.config.get_text_config(decoder=True))


def kept_in(module: Any, cache: Any) -> dict[str, Any]:
    """The cache under the name that `module.forward` gives it: `past_key_values` before Transformers 5.24, then `cache`."""
    return {"cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values": cache}


@torch.no_grad()
def encode(oracle: Any, ids: Sequence[int], cache: Any) -> Any:
    """Add clean tokens of one row to its cache."""
    start = cache.get_seq_length()
    positions = torch.arange(start, start + len(ids))[None]
    encoder = oracle.model.encoder
    encoder(input_ids=torch.tensor([list(ids)]), position_ids=positions, **kept_in(encoder, cache))
    return cache


@torch.no_grad()
def logits(oracle: Any, cache: Any, canvas: Tensor, prev_probs: Tensor | None = None) -> Tensor:
    """Soft-capped logits [C, V] of one row's canvas [C]; previous: the last step's processed logits [C, V]."""
    condition = None if prev_probs is None else prev_probs[None]
    kept = kept_in(oracle, cache)
    return oracle(decoder_input_ids=canvas[None], self_conditioning_logits=condition, **kept).logits[0]


class Watcher:
    """A streamer that keeps every step's draft; the oracle calls it."""

    def __init__(self) -> None:
        self.drafts: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        pass

    def put_draft(self, value: Tensor) -> None:
        self.drafts.append(value)

    def end(self) -> None:
        pass


def settings_of(config: DenoiseConfig) -> dict[str, Any]:
    """The keyword arguments of the oracle's `generate` for our request settings."""
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation

    return {
        "max_denoising_steps": config.max_denoising_steps, "t_min": config.t_min, "t_max": config.t_max,
        "sampler_config": generation.EntropyBoundSamplerConfig(entropy_bound=float(config.entropy_bound)),
        "stability_threshold": config.stability_threshold, "confidence_threshold": float(config.confidence_threshold),
    }  # fmt: skip


def _generate(oracle: Any, *arguments: Any, **settings: Any) -> Any:
    with (
        warnings.catch_warnings()
    ):  # its first step imports torch's inductor, which warns about torch's own jit
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*script_method.*")
        return oracle.generate(*arguments, **settings)


def canvas_of(
    oracle: Any, ids: Sequence[int], start: Sequence[int], config: DenoiseConfig
) -> list[list[int]]:
    """Decide one canvas that continues `ids` from the tokens `start`. -> the draft of each step, C ids each."""
    watcher = Watcher()
    _generate(
        oracle, torch.tensor([list(ids)]), decoder_input_ids=torch.tensor([list(start)]), max_new_tokens=len(start),
        streamer=watcher, **settings_of(config),
    )  # fmt: skip
    return [draft[0].tolist() for draft in watcher.drafts]


def sample(
    oracle: Any, ids: Sequence[int], rows: int, config: DenoiseConfig, seed: int
) -> tuple[Tensor, Tensor]:
    """One canvas for each of many rows of the same prompt. -> final tokens [rows, C], steps taken [rows]."""
    torch.manual_seed(seed)
    width = oracle.config.canvas_length
    prompts = torch.tensor([list(ids)]).expand(rows, -1).clone()
    output = _generate(oracle, prompts, max_new_tokens=width, **settings_of(config))
    return output.sequences[:, len(ids) :], (width / output.tokens_per_forward).round().long()


def generation_config_of(raw: dict[str, Any]) -> Any:
    """The oracle's own settings object of a `generation_config.json`."""
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation

    return generation.DiffusionGemmaGenerationConfig(**raw)
