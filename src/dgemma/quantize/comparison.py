"""What quantising did to a model's answers: its predictions on the same states, and the steps its canvases
take.

Both models walk along the first one's canvases: at every step the other is asked about the same canvas,
after the same prompt (which each reads itself), with what the first believed. KL is that of the step's
processed distributions, softmax(logits / T), in nats, over all cells of canvases at work; then each takes
its own way through the same requests and its steps are counted. Knows no file. Trap: a few canvases say
little about steps, so their spread is told with them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import DenoiseConfig
from ..engine.canvases import advance, begin_canvases
from ..engine.denoise import read_prompts, run
from ..engine.requests import Request, results
from ..kernels.ops.vocab import soft_capped_logits
from ..model.dgemma import DiffusionGemma
from ..sampling.step import inverse_temperature

CHUNK = 512
BLOCK = 1 << 24  # logits that are compared at a time
PROMPTS = (
    "def read_lines(path):\n",
    (
        'import json\n\n\nclass Cache:\n    """Values by key, '
        'the oldest dropped first."""\n\n    def __init__(self, size):\n'
    ),
    "def test_empty_list():\n    assert",
    "for name, value in sorted(os.environ.items()):\n",
    "The history of the lighthouse begins",
    "Dear Sir or Madam,\n\nI am writing to",
    "Question: why is the sky blue?\nAnswer:",
    "Bread needs four things: flour,",
)


@dataclass
class Comparison:
    """kl: nats per cell, of each step in order, its mean over cells.

    Lists of steps: one number per canvas.
    """

    kl: float
    kl_first: float  # of first steps, which no belief goes into
    kl_later: float
    agreement: float  # share of cells whose likeliest token is the same
    states: int  # steps that were compared
    steps_before: list[int] = field(default_factory=list)
    steps_after: list[int] = field(default_factory=list)

    @property
    def steps_change(self) -> float:
        """Of the mean steps per canvas; 0.05: five per cent more."""
        return statistics.mean(self.steps_after) / statistics.mean(self.steps_before) - 1

    @property
    def steps_error(self) -> float:
        """One standard error of `steps_change`, from the canvases' differences."""
        differences = [
            after - before for before, after in zip(self.steps_before, self.steps_after, strict=True)
        ]
        if len(differences) < 2:
            return math.nan
        return (
            statistics.stdev(differences) / math.sqrt(len(differences)) / statistics.mean(self.steps_before)
        )


@torch.inference_mode()
def compare(
    first: DiffusionGemma,
    second: DiffusionGemma,
    prompts: Sequence[Sequence[int]],
    denoise: DenoiseConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """One canvas after each prompt of ids.

    Both models have one vocabulary, device and dtype. progress: prompts done and all.
    """
    sums: dict[bool, Tensor] = {
        True: torch.zeros(3, dtype=torch.float64),
        False: torch.zeros(3, dtype=torch.float64),
    }
    comparison = Comparison(0.0, 0.0, 0.0, 0.0, 0)
    for number, ids in enumerate(prompts):
        if progress is not None:
            progress(number, len(prompts))
        request = Request(tuple(ids), first.config.canvas_length, number, denoise)
        comparison.steps_before.append(_walk(first, second, request, sums))
        comparison.steps_after.append(results(run(second, [request]), 1)[0].steps[0])
        comparison.states += comparison.steps_before[-1]
    if progress is not None:
        progress(len(prompts), len(prompts))
    every = sums[True] + sums[False]
    comparison.kl = float(every[0] / every[2])
    comparison.agreement = float(every[1] / every[2])
    comparison.kl_first, comparison.kl_later = (
        float(sums[which][0] / sums[which][2].clamp_min(1)) for which in (True, False)
    )
    return comparison


def _walk(first: DiffusionGemma, second: DiffusionGemma, request: Request, sums: dict[bool, Tensor]) -> int:
    """Along the first model's canvas; -> its steps. sums: KL, equal argmax and cells, of first steps and of
    later ones.
    """
    width = request.width(first.config)
    kv, other = (read_prompts(model, [request.prompt_ids], CHUNK, width) for model in (first, second))
    state = begin_canvases(first, [request], [0])
    previous = None
    while not state.done.all():
        heat = float(inverse_temperature(state)[0])
        hidden = first.denoise(state.canvas, kv, previous, state.pins)
        theirs = second.denoise(state.canvas, other, previous, state.pins)
        sums[previous is None] += _differences(first, second, hidden[0], theirs[0], heat)
        state, previous, _ = advance(first, hidden, state)
    return int(state.step[0])


def _differences(
    first: DiffusionGemma, second: DiffusionGemma, mine: Tensor, theirs: Tensor, heat: float
) -> Tensor:
    """Of hidden states [C, D]: sums of KL(first || second) and of equal argmax, and the cells."""
    rows = max(1, BLOCK // first.config.vocab_size)
    total = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(mine), rows):
        want, got = (
            soft_capped_logits(
                hidden[start : start + rows], model.table, model.config.final_logit_softcapping
            )
            for model, hidden in ((first, mine), (second, theirs))
        )
        equal = (want.argmax(-1) == got.argmax(-1)).sum()
        want = (want * heat).log_softmax(-1)
        got = (got * heat).log_softmax(-1)
        divergence = (want.exp() * (want - got)).sum(dtype=torch.float64)
        total += torch.tensor([float(divergence), float(equal), len(want)], dtype=torch.float64)
    return total
