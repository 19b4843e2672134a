"""benchmarks/world_prompts.py: what is asked is what chat asks, and a perfect model would be found right."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

import dgemma
from dgemma.text.tokenizer import Tokenizer
from dgemma.train.world import World

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def world_prompts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import world_prompts

    return world_prompts


@pytest.fixture(scope="module")
def model() -> dgemma.Model:
    return dgemma.load()


@pytest.mark.parametrize("side", ["train", "test"])
def test_the_worlds_own_answers_are_right_and_exact(
    world_prompts: ModuleType, model: dgemma.Model, side: str
) -> None:
    tokenizer: Tokenizer = model.tokenizer
    cases = world_prompts.prompts(World(3, side), tokenizer, 3)
    answers = world_prompts.judged(
        world_prompts.Answer(
            case.example, world_prompts.reply_text(case.answer_ids, tokenizer), list(case.answer_ids), [1]
        )
        for case in cases
    )
    assert {case.example.family for case in cases} == {*World(3).families} - {"gap", "text_gap"}
    assert world_prompts.summary(answers)["right"] == 1.0
    plain = [answer for answer in answers if not answer.example.tools]
    assert all(answer.exact for answer in plain)
    assert sum(map(len, world_prompts.by_family(answers).values())) == len(cases)


def test_a_call_beside_other_text_is_not_the_call(world_prompts: ModuleType, model: dgemma.Model) -> None:
    [case] = world_prompts.prompts(World(3), model.tokenizer, 1, ["tool_call"])
    spoken = [*model.tokenizer.encode("Sure."), *case.answer_ids]
    [answer] = world_prompts.judged(
        [world_prompts.Answer(case.example, world_prompts.reply_text(spoken, model.tokenizer), spoken, [1])]
    )
    assert not answer.right


def test_both_loops_answer_what_they_are_asked(world_prompts: ModuleType, model: dgemma.Model) -> None:
    cases = world_prompts.prompts(World(3, "test"), model.tokenizer, 1, ["facts", "decide"])
    config = model.denoise.replace(max_denoising_steps=2)
    tokens = world_prompts.token_by_token(model, cases)
    for answer, case in zip(tokens, cases, strict=True):
        greedy = model.chat(case.example.prompt, len(answer.token_ids), autoregressive=True, temperature=0.0)
        assert greedy.generation.token_ids == answer.token_ids and set(answer.steps) == {1}
    canvases = world_prompts.by_canvas(model, cases, config, batch=1)
    asked = world_prompts.requests(model, cases, config)
    for seed, (answer, case, request) in enumerate(zip(canvases, cases, asked, strict=True)):
        reply = model.chat(
            case.example.prompt,
            request.max_tokens,
            seed=seed,
            max_denoising_steps=2,
            canvas_width=model.config.canvas_length,
        )
        assert reply.generation.token_ids == answer.token_ids and reply.generation.steps == answer.steps
    together = world_prompts.by_canvas(model, cases, config, batch=3)
    assert [answer.example for answer in together] == [case.example for case in cases]


def test_gaps_are_filled_at_every_width(world_prompts: ModuleType, model: dgemma.Model) -> None:
    examples = world_prompts.gaps(World(3, "test"), 1)
    assert {example.family for example in examples} == {"gap", "text_gap"}
    answers = world_prompts.fill(model, examples[:1], widths=[4, 8])
    assert len(answers[0].steps) == 2 and answers[0].example is examples[0]
