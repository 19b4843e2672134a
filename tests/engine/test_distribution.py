"""The random loop against the oracle's: thousands of rows of one prompt on both sides, compared as counts.

Final tokens of each position, pairs of neighbours and the number of steps must come from one distribution. The twins
are off by little (a tenth of the temperature, an acceptance sum that counts a position against itself) and must fail.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import dgemma.engine.canvases
import dgemma.sampling.step
from dgemma.config import DenoiseConfig
from dgemma.engine.denoise import run
from dgemma.engine.requests import Request, results
from dgemma.kernels.ops.random import noise
from dgemma.sampling.accept import accept
from tests import oracle
from tests.helpers import chi_square_of_two, lively_model, tiny_config

ROWS = 4000
VOCABULARY, WIDTH, PROMPT = 8, 4, (3, 1, 4, 1, 5, 2)
CONFIG = tiny_config("SF", vocab_size=VOCABULARY, canvas_length=WIDTH, hidden_size=8, intermediate_size=8, head_dim=4,
                     global_head_dim=4, num_attention_heads=2, num_key_value_heads=1, num_experts=2, top_k_experts=1,
                     moe_intermediate_size=4)  # fmt: skip
# (model seed, sharpness, settings): one where the number of steps says most, one where the accepted positions do
CASES = [
    (12, 2.0, DenoiseConfig(
        max_denoising_steps=3, t_min=0.4, t_max=0.8, entropy_bound=1.5, stability_threshold=0,
        confidence_threshold=0.5, eos_token_id=None,
    )),
    (2, 6.0, DenoiseConfig(
        max_denoising_steps=3, t_min=0.4, t_max=1.0, entropy_bound=0.7, stability_threshold=1,
        confidence_threshold=0.9, eos_token_id=None,
    )),
]  # fmt: skip


@functools.cache
def theirs(case: int) -> tuple[Tensor, Tensor]:
    seed, sharpness, config = CASES[case]
    model = lively_model(CONFIG, seed, sharpness=sharpness)
    return oracle.sample(oracle.model_of(model), PROMPT, ROWS, config, seed=0)


def ours(case: int) -> tuple[Tensor, Tensor]:
    seed, sharpness, config = CASES[case]
    requests = [Request(PROMPT, WIDTH, row, config) for row in range(ROWS)]
    found = results(run(lively_model(CONFIG, seed, sharpness=sharpness), requests), len(requests))
    return torch.tensor([r.token_ids for r in found]), torch.tensor([r.steps[0] for r in found])


def chances(mine: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The chance of each table of counts under "one distribution"."""

    def counts(values: Tensor, bins: int) -> Tensor:
        return torch.bincount(values, minlength=bins)

    def compare(bins: int, mine: Tensor, other: Tensor) -> float:
        return chi_square_of_two(counts(mine, bins), counts(other, bins))

    (tokens, steps), (tokens_2, steps_2) = mine, other
    made = {f"token {i}": compare(VOCABULARY, tokens[:, i], tokens_2[:, i]) for i in range(WIDTH)}
    for i in range(WIDTH - 1):
        pairs = [t[:, i] * VOCABULARY + t[:, i + 1] for t in (tokens, tokens_2)]
        made[f"pair {i}"] = compare(VOCABULARY**2, *pairs)
    return made | {"steps": compare(4, steps, steps_2)}


@oracle.needed
@pytest.mark.parametrize("case", range(len(CASES)))
def test_canvases_and_steps_come_from_the_oracles_distribution(case: int) -> None:
    made = chances(ours(case), theirs(case))
    assert min(made.values()) > 1e-3, made


@oracle.needed
def test_there_is_something_to_tell_apart() -> None:
    for case in range(len(CASES)):
        tokens, _ = theirs(case)
        assert all(torch.bincount(tokens[:, i]).max() < 0.9 * ROWS for i in range(WIDTH))
    assert (torch.bincount(theirs(0)[1], minlength=4)[1:] > ROWS / 10).all()


def hotter(monkeypatch: pytest.MonkeyPatch) -> None:
    cool = dgemma.engine.canvases.inverse_temperature
    monkeypatch.setattr(dgemma.engine.canvases, "inverse_temperature", lambda state: cool(state) / 1.1)


def counts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(entropy: Tensor, bound: Tensor, free: Tensor) -> Tensor:
        ordered, order = entropy.sort(dim=-1)
        return torch.zeros_like(free).scatter(-1, order, ordered.cumsum(-1) <= bound[:, None])

    monkeypatch.setattr(dgemma.sampling.step, "accept", late)


def keeps_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted positions are frozen, as in other diffusion samplers."""
    held: list[Tensor] = []

    def sticky(entropy: Tensor, bound: Tensor, free: Tensor) -> Tensor:
        if not held or len(held) == 3:
            held.clear()
        held.append(accept(entropy, bound, free) | (held[-1] if held else torch.zeros_like(free)))
        return held[-1]

    monkeypatch.setattr(dgemma.sampling.step, "accept", sticky)


def noise_of_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hash word forgotten: every step renoises with the tokens of the first."""
    monkeypatch.setattr(
        dgemma.sampling.step,
        "noise",
        lambda seed, number, step, *sizes: noise(seed, number, step * 0, *sizes),
    )


@oracle.needed
@pytest.mark.parametrize(
    "break_it",
    [
        hotter,
        counts_itself,
        pytest.param(keeps_what_it_had, marks=pytest.mark.slow),
        pytest.param(noise_of_the_first_step, marks=pytest.mark.slow),
    ],
    ids=lambda twin: twin.__name__,
)
def test_a_biased_twin_is_rejected(break_it, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    assert min(min(chances(ours(case), theirs(case)).values()) for case in range(len(CASES))) < 1e-6
