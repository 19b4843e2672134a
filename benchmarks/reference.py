"""The oracle's own `generate`, watched: the time of every draft.

Knows a DenoiseConfig and nothing of our engine; the tensors are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dgemma.config import DenoiseConfig

Moment = TypeVar("Moment")


def generate(
    model: Any,
    prompt: torch.Tensor,
    tokens: int,
    config: DenoiseConfig,
    now: Callable[[], Moment],
    **more: Any,
) -> tuple[Any, list[Moment]]:
    """What it returns for prompts [B, T], and `now()` at each draft, which is on the host by then. End tokens are ignored."""
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

    drafts: list[Moment] = []

    class Clock:
        def put(self, value: torch.Tensor) -> None:
            pass

        def put_draft(self, value: torch.Tensor) -> None:
            drafts.append(now())

        def end(self) -> None:
            pass

    output = model.generate(
        prompt, max_new_tokens=tokens, streamer=Clock(), eos_token_id=None, max_denoising_steps=config.max_denoising_steps,
        t_min=config.t_min, t_max=config.t_max, stability_threshold=1, confidence_threshold=config.confidence_threshold,
        sampler_config=EntropyBoundSamplerConfig(entropy_bound=config.entropy_bound), **more,
    )  # fmt: skip
    return output, drafts
