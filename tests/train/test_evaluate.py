"""The bound is trusted because a model whose probabilities are known makes it exact."""

from __future__ import annotations

import math

import pytest
import torch

from dgemma.errors import UsageError
from dgemma.model.build import build_random
from dgemma.train.evaluate import START, Special, bound_nats, leave_one_out, score
from tests.helpers import tiny_config

PRIOR = torch.tensor([0.55, 0.25, 0.12, 0.05, 0.03], dtype=torch.float64)


def posterior(z: int, a: torch.Tensor) -> torch.Tensor:
    """ln p(x | z) at keep probabilities a [N], [N, V]: what a perfect denoiser's logits are."""
    likelihood = ((1.0 - a) / len(PRIOR))[:, None].repeat(1, len(PRIOR))
    likelihood[:, z] += a
    return (PRIOR * likelihood).log().log_softmax(-1)


def one_token_bound(x: int, leave_out: bool, start: float = START, levels: int = 4000) -> float:
    """The bound of one token with prior PRIOR: quadrature over t from `start` to 1, exact sums over z, and the rest."""
    a = (1.0 - start) * (1.0 - (torch.arange(levels, dtype=torch.float64) + 0.5) / levels)
    last = torch.tensor([1.0 - start], dtype=torch.float64)
    total, rest = torch.zeros(levels, dtype=torch.float64), 0.0
    for z in range(len(PRIOR)):
        chance, observed = a * (z == x) + (1.0 - a) / len(PRIOR), torch.full((levels,), z)
        log_p = leave_one_out(posterior(z, a), observed, a) if leave_out else posterior(z, a)
        total += chance * bound_nats(log_p, torch.full((levels,), x), observed, a)
        rest -= float((last * (z == x) + (1.0 - last) / len(PRIOR)) * posterior(z, last)[:, x])
    return (1.0 - start) * total.mean().item() + rest


@pytest.mark.parametrize("x", range(len(PRIOR)))
@pytest.mark.parametrize("start", [1e-7, START, 0.1])
def test_bound_equals_the_truth_where_the_truth_is_known(x: int, start: float) -> None:
    assert one_token_bound(x, True, start) == pytest.approx(-math.log(PRIOR[x]), rel=2e-3)


@pytest.mark.parametrize("x", range(len(PRIOR)))
def test_raw_denoiser_gives_another_number(x: int) -> None:
    assert one_token_bound(x, leave_out=False) != pytest.approx(-math.log(PRIOR[x]), rel=2e-2)


def test_score_covers_every_token_once() -> None:
    """A flat model (all embeddings equal) must cost ln V per token, whatever the windows."""
    config = tiny_config()
    model = build_random(config)
    model.embed.weight.fill_(0.01)
    special = Special(bos=2, eos=1, pad=0)
    ids = [5 + i % 7 for i in range(3 * config.canvas_length + 3)]
    found = score(model, ids, text_bytes=100, special=special, samples=2, context_canvases=1, new_canvases=2)
    assert found.tokens == len(ids)
    assert found.next_token_nats == pytest.approx((len(ids) + 1) * math.log(config.vocab_size), rel=1e-4)
    canvases = -(-(len(ids) + 1) // config.canvas_length)
    flat = canvases * config.canvas_length * math.log(config.vocab_size)
    assert abs(found.bound_nats - flat) < 5 * found.bound_error_nats + 0.25 * flat


def test_score_refuses_nothing() -> None:
    with pytest.raises(UsageError, match="empty"):
        score(build_random(tiny_config()), [], 1, Special(2, 1, 0))
    with pytest.raises(UsageError, match="samples is 1"):
        score(build_random(tiny_config()), [5], 1, Special(2, 1, 0), samples=1)
