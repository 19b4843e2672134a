"""Token by token equals the causal pass over the whole text, read anew for every token."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from dgemma.config import DenoiseConfig, EngineConfig, TokenRules
from dgemma.engine.autoregressive import run
from dgemma.engine.engine import Engine
from dgemma.engine.requests import CommitRecord, Request
from dgemma.errors import UsageError
from dgemma.kernels.ops.vocab import soft_capped_logits
from dgemma.model.build import build_random
from dgemma.model.dgemma import DiffusionGemma
from tests.helpers import tiny_config

CONFIG = tiny_config()
GREEDY = DenoiseConfig(temperature=0, eos_token_id=None)


@pytest.fixture(scope="module")
def model() -> DiffusionGemma:
    return build_random(CONFIG, seed=1, dtype=torch.float64)


def answer(model: DiffusionGemma, request: Request, **config: Any) -> list[CommitRecord]:
    return list(run(Engine(model, EngineConfig(**config)), request))


def ids_of(records: list[CommitRecord]) -> list[int]:
    return [token for record in records for token in record.token_ids]


def greedy_ids(model: DiffusionGemma, prompt: tuple[int, ...], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        hidden = model.encode(torch.tensor([ids]), [model.new_cache()])
        logits = soft_capped_logits(hidden[:, -1], model.embed.weight, CONFIG.final_logit_softcapping)
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("length", [1, 2, 40])
@pytest.mark.parametrize("chunk", [3, 512])
def test_greedy_equals_reading_the_whole_text_anew(model: DiffusionGemma, length: int, chunk: int) -> None:
    prompt = tuple(
        torch.randint(CONFIG.vocab_size, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    )
    records = answer(model, Request(prompt, 12, config=GREEDY), prefill_chunk=chunk)
    assert ids_of(records) == greedy_ids(model, prompt, 12)
    assert [record.steps for record in records] == [1] * 12 and records[-1].finish_reason == "length"


def test_samples_follow_the_temperature_and_the_seed(model: DiffusionGemma) -> None:
    def draw(seed: int, temperature: float) -> list[int]:
        config = DenoiseConfig(temperature=temperature, eos_token_id=None)
        return ids_of(answer(model, Request((5, 6), 16, seed, config)))

    assert draw(3, 1.0) == draw(3, 1.0) != draw(4, 1.0)
    assert draw(3, 1e-3) == ids_of(answer(model, Request((5, 6), 16, config=GREEDY)))


def test_samples_are_drawn_from_the_models_distribution(model: DiffusionGemma) -> None:
    hidden = model.encode(torch.tensor([[5, 6]]), [model.new_cache()])
    logits = soft_capped_logits(hidden[0, -1], model.embed.weight, CONFIG.final_logit_softcapping)
    config = DenoiseConfig(temperature=2.0, eos_token_id=None)
    engine = Engine(model)
    drawn = [ids_of(list(run(engine, Request((5, 6), 1, seed, config))))[0] for seed in range(200)]
    share = torch.bincount(torch.tensor(drawn), minlength=CONFIG.vocab_size) / len(drawn)
    assert (share - (logits / 2.0).softmax(-1)).abs().max() < 0.11


def test_an_end_token_ends_it(model: DiffusionGemma) -> None:
    ids = greedy_ids(model, (5, 6), 12)
    config = GREEDY.replace(eos_token_id=(ids[4],))
    records = answer(model, Request((5, 6), 12, config=config))
    first = ids.index(ids[4])
    assert ids_of(records) == ids[: first + 1] and records[-1].finish_reason == "stop"


def test_logits_that_are_not_finite_end_it_without_a_token(model: DiffusionGemma) -> None:
    broken = build_random(CONFIG, seed=1, dtype=torch.float64)
    broken.norm.weight.fill_(float("nan"))
    (record,) = answer(broken, Request((5, 6), 12, config=GREEDY))
    assert record.token_ids == [] and record.finish_reason == "error"


@pytest.mark.parametrize(
    "changes",
    [
        {"pins": (-1,) * CONFIG.canvas_length},
        {"canvas_ids": ((0,) * CONFIG.canvas_length,)},
        {"rules": TokenRules(banned_tokens=(3,))},
    ],
)
def test_what_only_a_canvas_can_do_is_refused(model: DiffusionGemma, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="token by token"):
        answer(model, dataclasses.replace(Request((5, 6), 12, config=GREEDY), **changes))
