"""The bound is trusted because a model whose probabilities are known makes it exact."""

from __future__ import annotations

import math

import pytest
import torch

from dgemma.errors import UsageError
from dgemma.model.build import build_random
from dgemma.train.evaluate import Special, bound_nats, leave_one_out, score
from tests.helpers import tiny_config

PRIOR = torch.tensor([0.55, 0.25, 0.12, 0.05, 0.03], dtype=torch.float64)


def one_token_bound(x: int, leave_out: bool, levels: int = 4000) -> float:
    """E_t E_z of the integrand for one token with prior PRIOR, by quadrature over t and exact sums over z."""
    vocab = len(PRIOR)
    a = 1.0 - (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    total = torch.zeros(levels, dtype=torch.float64)
    for z in range(vocab):
        chance = a * (z == x) + (1.0 - a) / vocab
        likelihood = torch.full((levels, vocab), 1.0, dtype=torch.float64) * ((1.0 - a) / vocab)[:, None]
        likelihood[:, z] += a
        denoiser = (PRIOR * likelihood).log()  # the exact posterior: what a perfect denoiser's logits are
        observed = torch.full((levels,), z)
        log_p = leave_one_out(denoiser, observed, a) if leave_out else denoiser.log_softmax(-1)
        total += chance * bound_nats(log_p, torch.full((levels,), x), observed, a)
    return total.mean().item()


@pytest.mark.parametrize("x", range(len(PRIOR)))
def test_bound_equals_the_truth_where_the_truth_is_known(x: int) -> None:
    assert one_token_bound(x, leave_out=True) == pytest.approx(-math.log(PRIOR[x]), rel=2e-3)


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
