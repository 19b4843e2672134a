"""What is minimised: flat cross-entropy of every canvas position + next-token cross-entropy of the causal pass.

One sequence serves both: the causal pass over the clean tokens gives the next-token loss and the K and V
that the canvases read; every block of the sequence is one canvas, corrupted with its own t and denoised
in parallel. A canvas sees the clean tokens strictly before it and itself, exactly as at generation.
Corruption keeps a token with probability 1 - t and otherwise draws a uniform id from the vocabulary.

With self-conditioning, a first pass without gradient reads a noisier version of the same canvas, as the sampler's step
before did, and the trained pass is conditioned on its guess at a temperature as the sampler has it. The trap it
avoids: conditioned on a guess about the very canvas it reads, a model learns to trust what it has said itself, and a
canvas settles on noise it is sure of (docs/log.md, 2026-11-24).

Refuses to know where batches come from (data.py) and how steps are taken (loop.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..kernels.attention import attention
from ..kernels.moe import router_probabilities
from ..kernels.vocab import soft_capped_logits, soft_embedding, weigh
from ..model.dgemma import DiffusionGemma
from ..model.layers import Router

BALANCE_WEIGHT = 0.01  # of the experts' load balance; the Switch Transformer's value
TEMPERATURES = 0.4, 1.0  # of the first guess; the released model's sampler goes from 0.8 to 0.4


class CleanContext:
    """Causal attention over whole clean sequences, keeping every layer's K and V (with their gradients)."""

    encoding = True

    def __init__(self, config: ModelConfig, width: int):
        self.config, self.kept = config, {}
        self.block = 128  # sliding layers run in bands, so that the work is T x window and not T x T
        self.width = width

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.kept[layer] = (k, v)
        window = self.config.sliding_window
        if not self.config.layers[layer].is_sliding or window >= self.width:
            return attention(q, k, v, causal=True)
        bands = []
        for start in range(0, self.width, self.block):
            stop, first = min(start + self.block, self.width), max(0, start - window + 1)
            query = torch.arange(start, stop, device=q.device)[:, None]
            key = torch.arange(first, stop, device=q.device)
            near = (key <= query) & (key > query - window)
            bands.append(attention(q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], near))
        return torch.cat(bands, dim=2)


class BlockContext:
    """Canvases side by side: canvas n covers rows [n C, (n+1) C) and continues the clean tokens before starts[n]."""

    encoding = False

    def __init__(self, clean: CleanContext, starts: list[int], canvas: int):
        self.clean, self.starts, self.canvas = clean, starts, canvas

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        config = self.clean.config
        clean_k, clean_v = self.clean.kept[layer]
        mixed = []
        for n, start in enumerate(self.starts):
            own = slice(n * self.canvas, (n + 1) * self.canvas)
            first = max(0, start - config.sliding_window + 1) if config.layers[layer].is_sliding else 0
            keys = torch.cat((clean_k[:, :, first:start], k[:, :, own]), dim=2)
            values = torch.cat((clean_v[:, :, first:start], v[:, :, own]), dim=2)
            mixed.append(attention(q[:, :, own], keys, values))
        return torch.cat(mixed, dim=2)


@dataclass(frozen=True)
class Batch:
    """clean [B, T]; targets, noisy, noisier, pinned [B, n C]: what each canvas should become, how it is seen, how it was
    seen by the step before, and what it holds fixed."""

    clean: Tensor  # int64
    starts: list[int]  # where each of the n canvases begins in the clean sequence
    targets: Tensor  # int64
    noisy: Tensor  # int64
    noisier: Tensor  # int64
    pinned: Tensor  # bool

    def to(self, device: torch.device) -> Batch:
        canvases = (t.to(device) for t in (self.targets, self.noisy, self.noisier, self.pinned))
        return Batch(self.clean.to(device), self.starts, *canvases)


@dataclass(frozen=True)
class Losses:
    total: Tensor
    next_token: Tensor  # nats per token
    canvas: Tensor  # nats per canvas position


def losses(
    model: DiffusionGemma, batch: Batch, guess: torch.Generator | None = None, balance: BalanceLoss | None = None
) -> Losses:
    """The objective on one batch; with `guess`, conditioned on a first guess at temperatures drawn from it."""
    config = model.config
    clean = CleanContext(config, batch.clean.shape[1])
    positions = torch.arange(batch.clean.shape[1], device=batch.clean.device)[None]
    hidden = model.encode_with(batch.clean, positions, clean)
    next_token = cross_entropy(model, hidden[:, :-1], batch.clean[:, 1:])

    width = batch.targets.shape[1] // len(batch.starts)
    offsets = torch.arange(width, device=positions.device)
    rows = (torch.tensor(batch.starts, device=positions.device)[:, None] + offsets).flatten()[None]
    context = BlockContext(clean, batch.starts, width)
    soft = None if guess is None else first_guess(model, batch, rows, context, guess)
    hidden = model.denoise_with(batch.noisy, soft, rows, context)
    canvas_loss = cross_entropy(model, hidden, batch.targets)
    total = canvas_loss + next_token
    if balance is not None:
        total = total + BALANCE_WEIGHT * balance.collect()
    return Losses(total, next_token.detach(), canvas_loss.detach())


@torch.no_grad()
def first_guess(
    model: DiffusionGemma, batch: Batch, rows: Tensor, context: BlockContext, generator: torch.Generator
) -> Tensor:
    """The self-conditioning embedding [B, n C, D] of the noisier canvases; pinned cells get their own token."""
    hidden = model.denoise_with(batch.noisier, None, rows, context)
    logits = soft_capped_logits(hidden, model.embed.weight, model.config.final_logit_softcapping)
    count, width = len(batch.starts), hidden.shape[1] // len(batch.starts)
    low, high = TEMPERATURES
    heat = low + (high - low) * torch.rand(hidden.shape[0], count, 1, generator=generator)
    logits /= heat.expand(-1, -1, width).flatten(1)[..., None].to(model.device)
    p, row_sum = weigh(logits - logits.amax(-1, keepdim=True), model.dtype)
    soft = soft_embedding(p, row_sum, model.embed.weight.T, model.config.embedding_scale)
    return torch.where(batch.pinned[..., None], model.embedded(batch.targets), soft)


def cross_entropy(model: DiffusionGemma, hidden: Tensor, targets: Tensor) -> Tensor:
    """Mean nats of targets [B, T] under the soft-capped head."""
    return HeadLoss.apply(
        hidden.flatten(0, 1), model.embed.weight, targets.flatten(), model.config.final_logit_softcapping
    )


class HeadLoss(torch.autograd.Function):
    """Soft-capped cross-entropy in slices of rows, its gradient made on the way forward.

    The [rows, vocabulary] logits are the largest tensor of training by far; a slice of 512 rows stays in
    the cache and is dropped at once, where autograd would keep several copies of the whole.
    """

    ROWS = 512

    @staticmethod
    def forward(ctx, hidden: Tensor, embedding: Tensor, targets: Tensor, softcap: float) -> Tensor:
        total = hidden.new_zeros(())
        grad_hidden, grad_embedding = torch.empty_like(hidden), torch.zeros_like(embedding)
        scale = 1.0 / hidden.shape[0]
        for start in range(0, hidden.shape[0], HeadLoss.ROWS):
            rows = slice(start, start + HeadLoss.ROWS)
            squashed = (F.linear(hidden[rows], embedding) / softcap).tanh_()
            log_p = F.log_softmax(squashed * softcap, dim=-1)
            total -= log_p.gather(-1, targets[rows, None]).sum()
            grad = log_p.exp_()
            grad.scatter_add_(-1, targets[rows, None], grad.new_full((grad.shape[0], 1), -1.0))
            grad.mul_(squashed.square_().neg_().add_(1.0)).mul_(scale)
            torch.matmul(grad, embedding, out=grad_hidden[rows])
            grad_embedding.addmm_(grad.T, hidden[rows])
        ctx.save_for_backward(grad_hidden, grad_embedding)
        return total * scale

    @staticmethod
    def backward(ctx, upstream: Tensor):
        grad_hidden, grad_embedding = ctx.saved_tensors
        return grad_hidden * upstream, grad_embedding * upstream, None, None


class BalanceLoss:
    """Load balance of the experts (Switch Transformer, arXiv:2101.03961): E * sum_e share_e * mean probability_e.

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
