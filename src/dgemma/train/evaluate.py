"""Scoring text: exact next-token bits per byte of the causal pass, and an upper bound from the diffusion.

The bound is the continuous-time ELBO of uniform discrete diffusion (Schiff et al., arXiv:2412.10193) for the
schedule alpha(t) = 1 - t. Its trap: the denoiser sees the token it is asked about, kept with probability a,
so its raw prediction is not the p of the formula. The leave-one-out prediction is: subtract ln(1 + V a / (1 -
a)) from the observed token's logit. With the raw prediction the "bound" is smaller and wrong;
tests/train/test_evaluate.py holds the one-token model that shows it.

A denoiser that is not told t keeps a doubt about every token it sees, however little noise there is, and near
t = 0 the integrand turns that doubt into doubt / t: the integral has no end (5 nats per canvas for every
further tenth of t, from 0.001 down). So it runs from START to 1, and what is left, the tokens given their
canvas at START, is charged to the raw denoiser, as in any diffusion model's last step: together still a bound
on -ln p(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from ..kernels.ops.vocab import soft_capped_logits
from ..model.dgemma import DiffusionGemma
from .objective import CanvasContext, CleanContext
from .world import World

START = 0.01  # noise level; between 0.003 and 0.03 the sum of both parts moved by 2 %


@dataclass(frozen=True)
class Score:
    """Sums over a text; nats. `bits_per_byte` and its error are per byte of the text scored."""

    text_bytes: int
    tokens: int
    next_token_nats: float
    bound_nats: float
    bound_error_nats: float  # one standard error of bound_nats

    @property
    def next_token(self) -> float:
        return self.next_token_nats / math.log(2) / self.text_bytes

    @property
    def bound(self) -> float:
        return self.bound_nats / math.log(2) / self.text_bytes

    @property
    def bound_error(self) -> float:
        return self.bound_error_nats / math.log(2) / self.text_bytes

    def __add__(self, other: Score) -> Score:
        return Score(
            self.text_bytes + other.text_bytes,
            self.tokens + other.tokens,
            self.next_token_nats + other.next_token_nats,
            self.bound_nats + other.bound_nats,
            math.hypot(self.bound_error_nats, other.bound_error_nats),
        )


@dataclass(frozen=True)
class Special:
    """The ids that scoring adds to a text: it opens with bos, ends with eos, and its last canvas is
    padded.
    """

    bos: int
    eos: int
    pad: int


def held_out_texts(count: int) -> dict[str, list[str]]:
    """The first `count` held-out texts of each family of the small world that is no conversation, by family.

    They are always the same ones.
    """
    world = World(0, "test")
    families = [name for name in world.families if world.example(name, 0).text]
    return {name: [world.example(name, index).text for index in range(count)] for name in families}


def score(
    model: DiffusionGemma,
    ids: Sequence[int],
    text_bytes: int,
    special: Special,
    *,
    samples: int = 4,
    context_canvases: int = 3,
    new_canvases: int = 4,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """Score one text of `text_bytes` bytes given as `ids` (without bos and eos; the eos is scored too).

    It is read in windows of bos, `context_canvases` canvases of context and `new_canvases` scored ones, so
    each token is predicted from at least that much context where there is as much. `samples`: noise levels
    per canvas; `progress` is called with the number of tokens that each window scored.
    """
    if not ids:
        raise UsageError("there is nothing to score: the text is empty")
    if samples < 2:
        raise UsageError(f"samples is {samples}; at least 2 are needed to know the error")
    width = model.config.canvas_length
    generator = torch.Generator().manual_seed(seed)
    nats = 0.0
    bound = 0.0
    variance = 0.0
    for clean, first, count in _windows([*ids, special.eos], special, width, context_canvases, new_canvases):
        clean = clean.to(model.device)
        context, next_nats = _read(model, clean, first, count)
        nats += next_nats
        starts = list(range(first, clean.shape[1], width))
        for draws in _bounds(
            model, context, starts, clean[:, first:], samples, generator
        ):  # [draws, canvases]
            bound += draws.mean(0).sum().item()
            variance += (draws.var(0) / len(draws)).sum().item()
        if progress is not None:
            progress(count)
    return Score(text_bytes, len(ids), nats, bound, math.sqrt(variance))


def _windows(
    body: list[int], special: Special, width: int, context: int, new: int
) -> Iterator[tuple[Tensor, int, int]]:
    """(clean [1, T], where the scored part begins, how many of its tokens are text) for each window of a
    text.
    """
    for start in range(0, len(body), new * width):
        before = body[max(0, start - context * width) : start]
        scored = body[start : start + new * width]
        padding = [special.pad] * (-len(scored) % width)
        yield torch.tensor([[special.bos, *before, *scored, *padding]]), 1 + len(before), len(scored)


@torch.inference_mode()
def _read(model: DiffusionGemma, clean: Tensor, first: int, count: int) -> tuple[CleanContext, float]:
    """The causal pass: its K and V, and the nats of tokens first .. first + count."""
    context = CleanContext(model.config, clean.shape[1])
    hidden = model.encode_with(clean, torch.arange(clean.shape[1], device=clean.device)[None], context)
    rows = hidden[0, first - 1 : first - 1 + count]
    logits = soft_capped_logits(rows, model.table, model.config.final_logit_softcapping)
    return context, F.cross_entropy(logits, clean[0, first : first + count], reduction="sum").item()


def _bounds(
    model: DiffusionGemma,
    context: CleanContext,
    starts: list[int],
    targets: Tensor,
    samples: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Monte Carlo draws of the bound's two parts, summed over each canvas: [samples, canvases] and [2,
    canvases] nats.
    """
    draws = []
    for sample in range(samples):
        # one t per canvas, each stratum once per canvas: less variance than independent draws
        strata = (torch.arange(len(starts)) + sample) % samples
        uniform = (strata + torch.rand(len(starts), generator=generator, dtype=torch.float64)) / samples
        # at 1 the integrand has a finite limit, its formula has not
        t = (START + (1.0 - START) * uniform).clamp_max(1 - 1e-7)
        draws.append((1.0 - START) * _nats(model, context, starts, targets, t, generator, _integrand))
    level = torch.full((len(starts),), START, dtype=torch.float64)
    rest = [_nats(model, context, starts, targets, level, generator, _reconstruction) for _ in range(2)]
    return torch.stack(draws), torch.stack(rest)


@torch.inference_mode()
def _nats(
    model: DiffusionGemma,
    context: CleanContext,
    starts: list[int],
    targets: Tensor,
    t: Tensor,
    generator: torch.Generator,
    cost: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Corrupt each canvas at its own t [canvases], denoise all at once, and sum its tokens' cost: [canvases]
    nats.

    Noise is drawn on the CPU, so that every device scores the same canvases; costs are taken one canvas at a
    time, because they are float64 over the whole vocabulary.
    """
    width = model.config.canvas_length
    device = targets.device
    keep = (1.0 - t).repeat_interleave(width)[None]
    noise = torch.randint(model.config.vocab_size, targets.shape, generator=generator).to(device)
    kept = (torch.rand(targets.shape, generator=generator) < keep).to(device)
    noisy = torch.where(kept, targets, noise)
    keep = keep.to(device)
    rows = (torch.tensor(starts)[:, None] + torch.arange(width)).flatten()[None].to(device)
    own_context = CanvasContext(context, torch.tensor([starts], device=device), width)
    hidden = model.denoise_with(noisy, None, rows, own_context)
    nats = []
    for start in range(0, targets.shape[1], width):
        cells = slice(start, start + width)
        logits = soft_capped_logits(hidden[0, cells], model.table, model.config.final_logit_softcapping)
        nats.append(cost(logits, targets[0, cells], noisy[0, cells], keep[0, cells]).sum().cpu())
    return torch.stack(nats)


def _integrand(logits: Tensor, x: Tensor, z: Tensor, keep: Tensor) -> Tensor:
    return bound_nats(leave_one_out(logits, z, keep), x, z, keep)


def _reconstruction(logits: Tensor, x: Tensor, z: Tensor, keep: Tensor) -> Tensor:
    """-ln p(x | z) of the raw denoiser, [N] nats; z and keep are in its logits already."""
    return F.cross_entropy(logits.double(), x, reduction="none")


def leave_one_out(logits: Tensor, observed: Tensor, keep: Tensor) -> Tensor:
    """Log-probabilities [N, V] (float64) without the evidence of the observed token itself.

    logits [N, V] of the denoiser, observed [N] ids, keep [N]: the probability a that a token was kept.
    """
    vocab = logits.shape[-1]
    evidence = torch.log1p(vocab * keep.double() / (1.0 - keep.double()))
    logits = logits.double().scatter_add(-1, observed[:, None], -evidence[:, None])
    return logits.log_softmax(-1)


def bound_nats(log_p: Tensor, x: Tensor, z: Tensor, keep: Tensor) -> Tensor:
    """The integrand of the ELBO at noise level 1 - keep, [N] nats; its mean over t and z bounds -ln p(x).

    log_p [N, V] leave-one-out predictions, x [N] the clean tokens, z [N] the noisy ones, keep [N] the a of
    the level.
    """
    vocab = log_p.shape[-1]
    a = keep.double()
    mixed = vocab * a[:, None] * log_p.exp() + (1.0 - a)[:, None]  # xbar
    at_x = mixed.gather(-1, x[:, None])[:, 0]
    at_z = mixed.gather(-1, z[:, None])[:, 0]
    c_x = vocab * a + 1.0 - a
    c_z = torch.where(z == x, c_x, 1.0 - a)
    rest = torch.log1p(-a)
    entropy = ((vocab - 1) * (1.0 - a) * rest + c_x * c_x.log()) / vocab
    divergence = entropy - (1.0 - a) / vocab * mixed.log().sum(-1) - a * at_x.log()
    ratio = c_z / at_z
    return (divergence + ratio - ratio.log() - 1.0) / (a * c_z)
