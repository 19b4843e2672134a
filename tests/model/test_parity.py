"""Logits against the oracle: random tiny models, ragged batches, two canvases, with and without self-conditioning.

Each row of our batch is compared with the oracle run on that row alone. The twins break one thing at a time in our
model and must be rejected by the same check.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from dgemma.kernels.select import CHOICE
from tests import oracle
from tests.helpers import assert_close, closeness, is_close
from tests.model import worlds
from tests.model.twins import TWINS
from tests.model.worlds import COUNT, World

TEMPERATURE = 0.7


@functools.cache
def reference(number: int, attention: str = "sdpa") -> tuple[World, list[Tensor]]:
    world = worlds.world(number)
    return world, answers_of(world, attention)


def answers_of(world: World, attention: str = "sdpa") -> list[Tensor]:
    """The oracle's answers: first canvas, the same with self-conditioning, and both for the second."""
    model = oracle.model_of(world.model, world.raw, attention)
    rows = []
    for row, prompt in enumerate(world.prompts):
        cache = oracle.encode(model, prompt, oracle.new_cache(model))
        answers = []
        for canvas in world.canvases:
            first = oracle.logits(model, cache, canvas[row])
            answers += [first, oracle.logits(model, cache, canvas[row], first / TEMPERATURE)]
            oracle.encode(model, canvas[row].tolist(), cache)
        rows.append(answers)
    return [torch.stack(answers) for answers in zip(*rows, strict=True)]


def ours(world: World, conditions: list[Tensor]) -> list[Tensor]:
    """The same four answers from our model, in one batch; `conditions`: the processed logits to condition on."""
    kv, answers = worlds.read(world), []
    for canvas, processed in zip(world.canvases, conditions, strict=True):
        answers.append(worlds.logits(world, kv, canvas))
        answers.append(worlds.logits(world, kv, canvas, worlds.conditioned(world, processed)))
        with torch.no_grad():
            world.model.encode(canvas, kv)
    return answers


def both(number: int) -> tuple[list[Tensor], list[Tensor]]:
    world, want = reference(number)
    return ours(world, [want[0] / TEMPERATURE, want[2] / TEMPERATURE]), want


@oracle.needed
@pytest.mark.parametrize("number", range(COUNT))
def test_logits_equal_the_oracles(number: int) -> None:
    got, want = both(number)
    for mine, theirs in zip(got, want, strict=True):
        if not is_close(mine, theirs):  # only then pay for a second oracle, to learn its own noise
            _, eager = reference(number, "eager")
            spread = max(closeness(a, b)[0] for a, b in zip(want, eager, strict=True))
            assert_close(mine, theirs, spread=spread)


@oracle.needed
def test_bf16_strays_no_further_than_the_oracles_own() -> None:
    """The same rounded weights in bf16, ours and the oracle's, against the oracle in float32.

    Added up over worlds: a rounding that turns one expert's choice over is chance, and decides a single answer (0.1 to 1.7 times theirs).
    """
    strayed = [_strayed(number) for number in (0, 4, 7)]
    mine, theirs = (sum(map(sum, parts)) for parts in zip(*strayed, strict=True))
    assert mine < theirs


def _strayed(number: int) -> tuple[list[float], list[float]]:
    """RMS errors of our answers and of the oracle's."""
    narrow = worlds.world(number, "bfloat16")
    weights = {name: tensor.float() for name, tensor in narrow.model.state_dict().items()}
    wide = worlds.world(number)
    wide.model.load_state_dict(weights)
    truth, theirs = answers_of(wide), answers_of(narrow)
    mine = ours(narrow, [truth[0] / TEMPERATURE, truth[2] / TEMPERATURE])
    return tuple(
        [closeness(got, want)[1] for got, want in zip(answers, truth, strict=True)]
        for answers in (mine, theirs)
    )


def test_the_drawn_worlds_cover_what_matters() -> None:
    drawn = [worlds.world(number) for number in range(COUNT)]
    texts = [world.raw["text_config"] for world in drawn]
    assert sum("per_layer_config" in text for text in texts) >= 4
    assert sum("global_head_dim" in text for text in texts) >= 4
    assert sum(world.config.layers[-1].head_dim == 512 for world in drawn) >= 4
    assert any("layer_types" not in text for text in texts)
    assert any(text["num_key_value_heads"] < text["num_attention_heads"] for text in texts)
    ends = [(world.config.layers[0], world.config.layers[-1]) for world in drawn]
    assert any(first.num_key_value_heads != last.num_key_value_heads for first, last in ends)
    assert sum(len(world.prompts[2]) > world.config.sliding_window + world.width for world in drawn) >= 3
    for number, world in enumerate(drawn):
        _, want = reference(number)
        entropies = [torch.distributions.Categorical(logits=answer).entropy().mean() for answer in want]
        assert max(entropies) < 0.75 * math.log(world.config.vocab_size), (
            "outputs are too near to uniform to mean much"
        )
        assert closeness(want[0], want[1])[0] > 0.01, "self-conditioning must matter"
        for layer in world.model.layers:
            assert not torch.equal(layer.layer_scalar, layer.encoder_layer_scalar)


@oracle.needed
@pytest.mark.parametrize("break_it", TWINS, ids=lambda twin: twin.__name__)
@pytest.mark.parametrize("number", [1, 3])
def test_a_broken_twin_is_rejected(number: int, break_it, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "torch")  # the C kernels take operations together that twins break apart
    break_it(monkeypatch)
    got, want = both(number)
    assert not all(is_close(mine, theirs) for mine, theirs in zip(got, want, strict=True))
