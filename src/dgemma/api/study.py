"""For those who study the model: one denoising pass and its logits, without the loop around it.

Trap: self-conditioning is of the *processed* logits, those divided by the step's temperature; raw ones
condition on a guess that the model never made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.denoise import read_prompts
from ..errors import UsageError
from ..kernels.ops.vocab import soft_capped_logits, weigh
from ..model.dgemma import DiffusionGemma
from ..tasks.limits import rows, token_ids


@torch.no_grad()
def denoise_logits(
    net: DiffusionGemma,
    prompt_ids: Sequence[Sequence[int]],
    canvas_ids: Tensor | Sequence[Sequence[int]],
    self_conditioning: Tensor | None,
    prefill_chunk: int,
) -> Tensor:
    """`Model.denoise_logits` of a network. prefill_chunk: prompt tokens that are encoded at once."""
    prompts = [token_ids("prompt_ids", row) for row in rows("prompt_ids", prompt_ids)]
    canvases = [token_ids("canvas_ids", row) for row in rows("canvas_ids", canvas_ids)]
    _check(net, prompts, canvases)
    canvas = torch.tensor(canvases, device=net.device)
    prev_probs = None
    if self_conditioning is not None:
        prev_probs = _previous_step(net, self_conditioning, canvas)
    kv = read_prompts(net, prompts, prefill_chunk, extra=canvas.shape[1])
    hidden = net.denoise(canvas, kv, prev_probs)
    return soft_capped_logits(hidden, net.table, net.config.final_logit_softcapping)


def _check(net: DiffusionGemma, prompts: list[tuple[int, ...]], canvases: list[tuple[int, ...]]) -> None:
    """Raise UsageError for anything that is no batch of one pass."""
    config = net.config
    widths = {len(row) for row in canvases}
    is_batch = len(canvases) == len(prompts) and len(widths) == 1
    if not is_batch or not 1 <= max(widths) <= config.canvas_length:
        raise UsageError(
            f"canvas_ids has {len(canvases)} rows of {sorted(widths)} tokens; {len(prompts)} equal rows (one "
            f"per prompt) of 1 to {config.canvas_length} were expected"
        )
    longest = max(map(len, prompts))
    limit = config.max_position_embeddings - max(widths)
    if longest > limit:
        raise UsageError(f"a prompt has {longest} tokens; this canvas leaves {limit} positions")
    for row in (*prompts, *canvases):
        for token in row:
            if not 0 <= token < config.vocab_size:
                raise UsageError(f"{token} is no token id; they are from 0 to {config.vocab_size - 1}")


def _previous_step(net: DiffusionGemma, processed: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """The last step's (p, row_sum) of its processed logits, rounded to the weight dtype as the reference
    does.
    """
    logits = torch.as_tensor(processed, device=net.device)
    expected = (*canvas.shape, net.config.vocab_size)
    if tuple(logits.shape) != expected or not logits.is_floating_point():
        raise UsageError(
            f"self_conditioning is {logits.dtype} {list(logits.shape)}; floats {list(expected)} were expected"
        )
    if logits.isnan().any():
        raise UsageError("self_conditioning holds NaN")
    if net.dtype == torch.float64:
        wide = torch.float64
    else:
        wide = torch.float32
    logits = logits.to(net.dtype).to(wide)
    return weigh(logits - logits.amax(-1, keepdim=True), net.dtype)
