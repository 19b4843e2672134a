"""What the matrices of a model are multiplied with on sampled text: the mean square of each input, per
expert where there are experts.

Windows of a text are read as prompts and their continuation is denoised at several noise levels, a first
step and a self-conditioned one, because a model meets all of these. Knows no number format; `dgemma
quantize --calibrate` chooses scales by it. Trap: an expert that few rows chose says little, so each is
mixed with the mean of its layer as if ROWS more rows had shown that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..config import DenoiseConfig
from ..engine.canvases import advance, begin_canvases
from ..engine.denoise import read_prompts
from ..engine.requests import Request
from ..errors import UsageError
from ..kernels.ops.matmul import gated
from ..kernels.ops.moe import gate_and_up
from ..model.dgemma import DiffusionGemma, SelfConditioning
from ..model.layers import Experts, GatedMLP, Linear

LEVELS = (0.95, 0.7, 0.4, 0.15)  # the share of a canvas's tokens that are noise
WINDOWS = 32  # of a text, evenly apart
PROMPT = 256  # tokens of each
CHUNK = 512
ROWS = 32.0

_Hook = Callable[[Any, tuple[Tensor, ...]], None]  # of a module, before its forward


@torch.inference_mode()
def observe(
    model: DiffusionGemma,
    ids: Sequence[int],
    bos: int,
    denoise: DenoiseConfig,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """model name -> [I] or [E, I] float32, of every matrix of attention, dense MLPs, experts and
    self-conditioning; at mean 1 each.

    ids: of a text, without bos. progress: windows read and all. Raises UsageError for a text of less than
    two canvases.
    """
    width = model.config.canvas_length
    starts = _starts(len(ids), width)
    draw = torch.Generator().manual_seed(0)
    with _watching(model) as seen:
        for number, start in enumerate(starts):
            if progress is not None:
                progress(number, len(starts))
            middle = min(start + PROMPT, len(ids) - width)
            clean = torch.tensor(ids[middle : middle + width])
            for level in LEVELS:
                kept = torch.rand(width, generator=draw) >= level
                noise = torch.randint(model.config.vocab_size, (width,), generator=draw)
                canvas = tuple(torch.where(kept, clean, noise).tolist())
                request = Request((bos, *ids[start:middle]), width, number, denoise, (canvas,))
                _two_steps(model, request)
    return {name: sums.mean() for name, sums in seen.items()}


def _starts(tokens: int, width: int) -> list[int]:
    """Where the windows of a text begin."""
    if tokens < 2 * width:
        raise UsageError(
            f"the text to calibrate with has {tokens} tokens; at least {2 * width} (two canvases) are needed"
        )
    last = max(0, tokens - width - PROMPT)
    count = max(1, min(WINDOWS, tokens // (width + PROMPT)))
    return [last * place // max(1, count - 1) for place in range(count)]


def _two_steps(model: DiffusionGemma, request: Request) -> None:
    """Read the prompt, denoise the canvas it starts with, and the one that comes of that."""
    kv = read_prompts(model, [request.prompt_ids], CHUNK, model.config.canvas_length)
    state = begin_canvases(model, [request], [0])
    previous = None
    for _ in range(2):
        hidden = model.denoise(state.canvas, kv, previous, state.pins)
        state, previous, _ = advance(model, hidden, state)


class Sums:
    """Of squares [E, I] and of what they count [E], in float64."""

    def __init__(self, experts: int | None, inputs: int):
        self.plain = experts is None
        self.squares = torch.zeros((experts or 1, inputs), dtype=torch.float64)
        self.rows = torch.zeros(experts or 1, dtype=torch.float64)

    def add(self, x: Tensor, expert: int = 0, weights: Tensor | None = None) -> None:
        """x [N, I]; weights [N]: by how much each row counts."""
        squares = x.float().square()
        if weights is not None:
            squares = squares * weights.float()[:, None]
        self.squares[expert] += squares.sum(0).double().cpu()
        self.rows[expert] += float(weights.sum()) if weights is not None else len(x)

    def mean(self) -> Tensor:
        """[E, I], or [I] of a plain matrix; 1 on average."""
        whole = self.squares.sum(0) / self.rows.sum().clamp_min(1e-30)
        importance = (self.squares + ROWS * whole) / (self.rows + ROWS)[:, None]
        importance = (importance / importance.mean(-1, keepdim=True).clamp_min(1e-30)).float()
        if self.plain:
            return importance[0]
        return importance


@contextmanager
def _watching(model: DiffusionGemma) -> Iterator[dict[str, Sums]]:
    """Sums by name, filled by whatever the model multiplies meanwhile."""
    seen: dict[str, Sums] = {}

    def add(
        names: Sequence[str],
        x: Tensor,
        experts: int | None = None,
        expert: int = 0,
        weights: Tensor | None = None,
    ) -> None:
        for name in names:
            seen.setdefault(name, Sums(experts, x.shape[-1])).add(x.flatten(0, -2), expert, weights)

    def linear(name: str) -> _Hook:
        def hook(_: Linear, given: tuple[Tensor, ...]) -> None:
            add([f"{name}.weight"], given[0])

        return hook

    def mlp(name: str) -> _Hook:
        def hook(module: GatedMLP, given: tuple[Tensor, ...]) -> None:
            if isinstance(module, SelfConditioning):
                x = module.pre_norm(given[0])
            else:
                x = given[0]
            add([f"{name}.gate_proj.weight", f"{name}.up_proj.weight"], x)
            add([f"{name}.down_proj.weight"], gated(x, module.gate_proj.weight, module.up_proj.weight))

        return hook

    def experts(name: str) -> _Hook:
        def hook(module: Experts, given: tuple[Tensor, ...]) -> None:
            x, weights, index = given
            for expert in range(len(module.gate_up_proj)):
                row, place = (index == expert).nonzero(as_tuple=True)
                if len(row):
                    # a row's error is multiplied by its weight, its square by the weight's
                    chosen = x[row]
                    squares = weights[row, place].square()
                    add([f"{name}.gate_up_proj"], chosen, len(module.gate_up_proj), expert, squares)
                    inner = gated(chosen, *gate_and_up(module.gate_up_proj, expert))
                    add([f"{name}.down_proj"], inner, len(module.gate_up_proj), expert, squares)

        return hook

    kinds = ((Experts, experts), (GatedMLP, mlp), (Linear, linear))
    hooks = []
    for name, module in model.named_modules():
        make_hook = next((make for kind, make in kinds if isinstance(module, kind)), None)
        if make_hook is not None:
            hooks.append(module.register_forward_pre_hook(make_hook(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
