"""What is minimised: flat cross-entropy of every canvas position + next-token cross-entropy of the causal pass.

One sequence serves both: the causal pass over the clean tokens gives the next-token loss and the K and V
that the canvases read; every block of the sequence is one canvas, corrupted with its own t and denoised
in parallel. A canvas sees the clean tokens strictly before it and itself, exactly as at generation.
Corruption keeps a token with probability 1 - t and otherwise draws a uniform id from the vocabulary.

With self-conditioning, passes without gradient are followed by the sampler's own step each (step-unrolled,
arXiv:2112.06749), and the last pass is trained on the canvas and the beliefs that these steps left behind. The trap
it avoids: conditioned on the very canvas it reads, a model learns to trust its own first guess. Sampling at T < 1
sharpens that guess, and a canvas then settles on noise it is sure of (docs/log.md, 2026-11-24).

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
from ..kernels.vocab import head, soft_embedding
from ..model.dgemma import DiffusionGemma
from ..model.layers import Router
from ..sampling.accept import accept

BALANCE_WEIGHT = 0.01  # of the experts' load balance; the Switch Transformer's value
# What the unrolled step draws from, so that no single sampler setting is learned: the released model's T is 0.8 to 0.4
# and its entropy bound 0.1 nat.
TEMPERATURES = 0.3, 1.0
ENTROPY_BOUNDS = 0.0, 0.4
MOST_STEPS = 3
FROM_NOISE = 0.5  # share of canvases that start as the sampler's do


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
    """clean [B, T]; targets, noisy, pinned [B, n C]: what each canvas should become, starts as, and holds fixed."""

    clean: Tensor  # int64
    starts: list[int]  # where each of the n canvases begins in the clean sequence
    targets: Tensor  # int64
    noisy: Tensor  # int64
    pinned: Tensor  # bool

    def to(self, device: torch.device) -> Batch:
        return Batch(self.clean.to(device), self.starts, *(t.to(device) for t in (self.targets, self.noisy, self.pinned)))


@dataclass(frozen=True)
class Losses:
    total: Tensor
    next_token: Tensor  # nats per token
    canvas: Tensor  # nats per canvas position


def losses(
    model: DiffusionGemma, batch: Batch, unroll: torch.Generator | None = None, balance: BalanceLoss | None = None
) -> Losses:
    """The objective on one batch; with `unroll`, on canvases after a few steps of the sampler, drawn from it."""
    config = model.config
    clean = CleanContext(config, batch.clean.shape[1])
    positions = torch.arange(batch.clean.shape[1], device=batch.clean.device)[None]
    hidden = model.encode_with(batch.clean, positions, clean)
    next_token = cross_entropy(model, hidden[:, :-1], batch.clean[:, 1:])

    width = batch.targets.shape[1] // len(batch.starts)
    offsets = torch.arange(width, device=positions.device)
    rows = (torch.tensor(batch.starts, device=positions.device)[:, None] + offsets).flatten()[None]
    context = BlockContext(clean, batch.starts, width)
    canvas, soft = batch.noisy, None
    if unroll is not None:
        canvas, soft = unrolled(model, batch, rows, context, unroll)
    hidden = model.denoise_with(canvas, soft, rows, context)
    canvas_loss = cross_entropy(model, hidden, batch.targets)
    total = canvas_loss + next_token
    if balance is not None:
        total = total + BALANCE_WEIGHT * balance.collect()
    return Losses(total, next_token.detach(), canvas_loss.detach())


@torch.no_grad()
def unrolled(
    model: DiffusionGemma, batch: Batch, rows: Tensor, context: BlockContext, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One to MOST_STEPS steps of the sampler, from noise alone in half of the canvases, else from the noisy ones.

    Each canvas has a temperature and an entropy bound of its own. -> the canvases [B, n C] that the last step left and
    its self-conditioning embedding [B, n C, D]; pinned cells keep their token in both.
    """
    config, blocks, shape = model.config, len(batch.starts), batch.targets.shape
    count, width = shape[0] * blocks, shape[1] // blocks

    def draw(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator).to(model.device)

    def noise() -> Tensor:
        return torch.randint(config.vocab_size, shape, generator=generator).to(model.device)

    def pin(canvas: Tensor) -> Tensor:
        return torch.where(batch.pinned, batch.targets, canvas)

    from_noise = (draw(0.0, 1.0, count) < FROM_NOISE).repeat_interleave(width).view(shape)
    canvas, soft = pin(torch.where(from_noise, noise(), batch.noisy)), None
    heat, bound = 1.0 / draw(*TEMPERATURES, count), draw(*ENTROPY_BOUNDS, count)
    for _ in range(int(torch.randint(1, MOST_STEPS + 1, (), generator=generator))):
        hidden = model.denoise_with(canvas, soft, rows, context).reshape(count, width, -1)
        uniforms = draw(0.0, 1.0, count, width, 2)
        stats = head(hidden, model.embed.weight, config.final_logit_softcapping, heat, uniforms)
        accepted = accept(stats.entropy, bound, ~batch.pinned.view(count, width))
        canvas = pin(torch.where(accepted.view(shape), stats.sample.view(shape), noise()))
        soft = soft_embedding(stats.p, stats.row_sum, model.embed.weight, config.embedding_scale)
        soft = torch.where(batch.pinned[..., None], model.embedded(batch.targets), soft.view(*shape, -1))
    return canvas, soft


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
