"""What is minimised: flat cross-entropy of every canvas position + next-token cross-entropy of the causal
pass.

One sequence serves both: the causal pass over the clean tokens gives the next-token loss and the K and V that
the canvases read; every block of the sequence is one canvas, corrupted with its own t and denoised in
parallel. A canvas sees the clean tokens strictly before it and itself, exactly as at generation. Corruption
keeps a token with probability 1 - t and otherwise draws a uniform id from the vocabulary.

With self-conditioning, a first pass without gradient reads a noisier version of the same canvas, as the
sampler's step before did, and the trained pass is conditioned on its guess at a temperature as the sampler
has it. The trap it avoids: conditioned on a guess about the very canvas it reads, a model learns to trust
what it has said itself, and a canvas settles on noise it is sure of (docs/log.md, 2026-11-24).

Refuses to know where batches come from (data.py) and how steps are taken (loop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..config import ModelConfig
from ..kernels.ops.attention import attention
from ..kernels.ops.moe import router_probabilities
from ..kernels.ops.vocab import soft_capped_logits, soft_embedding, weigh
from ..model.dgemma import DiffusionGemma
from ..model.layers import Router
from .batches import Batch

BALANCE_WEIGHT = 0.01  # of the experts' load balance; the Switch Transformer's value
TEMPERATURES = 0.4, 1.0  # of the first guess; the released model's sampler goes from 0.8 to 0.4


class CleanContext:
    """Causal attention over whole clean sequences, keeping every layer's K and V (with their gradients)."""

    encoding = True

    def __init__(self, config: ModelConfig, width: int):
        self.config = config
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  # by layer
        self.block = 128  # sliding layers run in bands, so that the work is T x window and not T x T
        self.width = width

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.kept[layer] = (k, v)
        window = self.config.sliding_window
        if not self.config.layers[layer].is_sliding or window >= self.width:
            return attention(q, k, v, causal=True)
        bands = []
        for start in range(0, self.width, self.block):
            stop = min(start + self.block, self.width)
            first = max(0, start - window + 1)
            query = torch.arange(start, stop, device=q.device)[:, None]
            key = torch.arange(first, stop, device=q.device)
            near = (key <= query) & (key > query - window)
            bands.append(attention(q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], near))
        return torch.cat(bands, dim=2)


class CanvasContext:
    """Canvases side by side over the clean sequences they continue: each sees the clean tokens before it, and
    itself.

    starts [B, n]: clean tokens before each canvas. Rows of a pass are [B, n C].
    """

    encoding = False

    def __init__(self, clean: CleanContext, starts: Tensor, width: int):
        self.clean = clean
        self.count = starts.shape[1]
        self.width = width
        self.full = self._visible(starts, None)
        self.near = self._visible(starts, clean.config.sliding_window)

    def _visible(self, starts: Tensor, window: int | None) -> Tensor:
        """What each canvas may see, [B, n, 1, 1, T + C] bool."""
        key = torch.arange(self.clean.width, device=starts.device)
        visible = key < starts[..., None]
        if window is not None:
            visible = visible & (key > starts[..., None] - window)
        cells = visible.new_ones((*starts.shape, self.width))
        return torch.cat((visible, cells), dim=-1)[:, :, None, None, :]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        clean_k, clean_v = self.clean.kept[layer]
        if self.clean.config.layers[layer].is_sliding:
            visible = self.near
        else:
            visible = self.full
        mixed = []
        for n in range(self.count):
            cells = slice(n * self.width, (n + 1) * self.width)
            keys = torch.cat((clean_k, k[:, :, cells]), dim=2)
            values = torch.cat((clean_v, v[:, :, cells]), dim=2)
            mixed.append(attention(q[:, :, cells], keys, values, visible[:, n]))
        return torch.cat(mixed, dim=2)


@dataclass(frozen=True)
class Losses:
    total: Tensor
    next_token: Tensor  # nats per token, by weight
    canvas: Tensor  # nats per canvas cell, by weight


def losses(
    model: DiffusionGemma,
    batch: Batch,
    guess: torch.Generator | None = None,
    balance: BalanceLoss | None = None,
) -> Losses:
    """The objective on one batch.

    With `guess`, conditioned on a first guess at temperatures drawn from it.
    """
    clean = CleanContext(model.config, batch.clean.shape[1])
    positions = torch.arange(batch.clean.shape[1], device=batch.clean.device)[None]
    hidden = model.encode_with(batch.clean, positions, clean)
    next_token = cross_entropy(model, hidden[:, :-1], batch.clean[:, 1:], batch.next_weight)
    causal = batch.starts.shape[1] == 0
    if causal:
        canvas = torch.zeros(())
    else:
        canvas = canvas_loss(model, batch, clean, guess)
    total = canvas + next_token
    if balance is not None:
        total = total + BALANCE_WEIGHT * balance.collect()
    return Losses(total, next_token.detach(), canvas.detach())


def canvas_loss(
    model: DiffusionGemma, batch: Batch, clean: CleanContext, guess: torch.Generator | None
) -> Tensor:
    """Weighted nats per cell of the denoiser, every canvas over the clean tokens before it."""
    count, width = batch.targets.shape[1:]
    offsets = torch.arange(width, device=batch.starts.device)
    rows = (batch.starts[..., None] + offsets).flatten(1)
    context = CanvasContext(clean, batch.starts, width)
    soft = None
    if guess is not None:
        soft = first_guess(model, batch, rows, context, guess)
    hidden = model.denoise_with(batch.noisy.flatten(1), soft, rows, context)
    return cross_entropy(model, hidden, batch.targets.flatten(1), batch.cell_weight.flatten(1))


@torch.no_grad()
def first_guess(
    model: DiffusionGemma, batch: Batch, rows: Tensor, context: CanvasContext, generator: torch.Generator
) -> Tensor:
    """The self-conditioning embedding [B, n C, D] of the noisier canvases.

    Pinned cells get their own token.
    """
    hidden = model.denoise_with(batch.noisier.flatten(1), None, rows, context)
    logits = soft_capped_logits(hidden, model.embed.weight, model.config.final_logit_softcapping)
    low, high = TEMPERATURES
    heat = low + (high - low) * torch.rand(batch.starts.shape, generator=generator)
    heat = heat[..., None].expand(batch.targets.shape).flatten(1)
    logits /= heat[..., None].to(model.device)
    p, row_sum = weigh(logits - logits.amax(-1, keepdim=True), model.dtype)
    soft = soft_embedding(p, row_sum, model.embed.weight.T, model.config.embedding_scale)
    return torch.where(batch.pinned.flatten(1)[..., None], model.embedded(batch.targets.flatten(1)), soft)


def cross_entropy(model: DiffusionGemma, hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Mean nats of targets [B, T] under the soft-capped head, by weight [B, T].

    What weighs nothing is not computed.
    """
    weight = weight.flatten()
    counted = weight.nonzero()[:, 0]
    scale = weight[counted] / weight.sum()
    rows = hidden.flatten(0, 1)[counted]
    softcap = model.config.final_logit_softcapping
    apply: Callable[..., Tensor] = HeadLoss.apply  # torch leaves it without a type
    return apply(rows, model.embed.weight, targets.flatten()[counted], scale, softcap)


class HeadLoss(torch.autograd.Function):
    """Soft-capped cross-entropy in slices of rows, its gradient made on the way forward.

    The [rows, vocabulary] logits are the largest tensor of training by far; a slice of 512 rows stays in
    the cache and is dropped at once, where autograd would keep several copies of the whole.
    """

    ROWS = 512

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, embedding: Tensor, targets: Tensor, scale: Tensor, softcap: float
    ) -> Tensor:
        total = hidden.new_zeros(())
        grad_hidden = torch.empty_like(hidden)
        grad_embedding = torch.zeros_like(embedding)
        for start in range(0, hidden.shape[0], HeadLoss.ROWS):
            rows = slice(start, start + HeadLoss.ROWS)
            share = scale[rows, None]
            squashed = (F.linear(hidden[rows], embedding) / softcap).tanh_()
            log_p = F.log_softmax(squashed * softcap, dim=-1)
            total -= (log_p.gather(-1, targets[rows, None]) * share).sum()
            grad = log_p.exp_()
            grad.scatter_add_(-1, targets[rows, None], grad.new_full((grad.shape[0], 1), -1.0))
            grad.mul_(squashed.square_().neg_().add_(1.0)).mul_(share)
            torch.matmul(grad, embedding, out=grad_hidden[rows])
            grad_embedding.addmm_(grad.T, hidden[rows])
        ctx.save_for_backward(grad_hidden, grad_embedding)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_embedding = ctx.saved_tensors
        return grad_hidden * upstream, grad_embedding * upstream, None, None, None


class BalanceLoss:
    """Load balance of the experts (Switch Transformer, arXiv:2101.03961): E * sum_e share_e * mean
    probability_e.

    1 when even. Listens to every router's input, so that the model itself stays as it is at inference.
    """

    def __init__(self, model: DiffusionGemma):
        self.terms: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, Router):
                module.register_forward_hook(self._hear)

    def _hear(self, router: Router, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        if not torch.is_grad_enabled():
            return
        probabilities = router_probabilities(inputs[0], router.proj.weight, router.scale, router.eps)
        experts = probabilities.shape[-1]
        share = torch.bincount(output[1].flatten(), minlength=experts) / output[1].numel()
        self.terms.append(experts * (share * probabilities.mean(0)).sum())

    def collect(self) -> Tensor:
        mean = torch.stack(self.terms).mean()
        self.terms = []
        return mean
