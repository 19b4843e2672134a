"""Rules of a request on tiny models in float64: what each does to a canvas, alone and in company, and that company sees nothing of it."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgemma.engine.logits_processor
from dgemma.config import DenoiseConfig, EngineConfig, TokenRules
from dgemma.engine.denoise import run
from dgemma.engine.engine import Engine
from dgemma.engine.logits_processor import LogitsProcessor
from dgemma.engine.requests import Request
from dgemma.errors import UsageError
from dgemma.sampling.step import Settings, begin
from tests.engine.test_denoise import (
    MODEL,
    VOCABULARY,
    WIDTH,
    any_request,
    by_row,
    commits,
    generated,
    request,
    steps,
)
from tests.engine.test_engine import ROOMY, plainly
from tests.memory.test_plan import most_bytes

tokens = st.integers(0, VOCABULARY - 1)
any_rules = st.builds(
    TokenRules, banned_tokens=st.lists(tokens, max_size=9).map(tuple), logit_bias=st.dictionaries(tokens, st.floats(-9, 9), max_size=4),
    presence_penalty=st.sampled_from((0.0, 1.5, -1.0)), frequency_penalty=st.sampled_from((0.0, 0.7)),
    repetition_penalty=st.sampled_from((1.0, 1.4, 0.8)), top_k=st.sampled_from((0, 1, 5)), top_p=st.sampled_from((1.0, 0.5)),
    min_p=st.sampled_from((0.0, 0.2)), logprobs=st.booleans(),
)  # fmt: skip


def needs_logits(one: Request, **rules) -> Request:
    return dataclasses.replace(one, rules=TokenRules(**rules))


def test_a_cell_of_the_first_canvas_holds_what_it_may_alone() -> None:
    plain = request(max_tokens=2 * WIDTH)
    free = [record.argmax[2] for record in steps([*run(MODEL, [plain])]) if record.canvas == 0]
    only = tuple({*range(VOCABULARY)} - {*free})[:5]
    one = dataclasses.replace(plain, only=((2, only),))
    first, second = (
        [record.argmax[2] for record in steps([*run(MODEL, [one])]) if record.canvas == number]
        for number in (0, 1)
    )
    assert {*first} <= {*only} and not {*free} & {*only}
    assert second and not {*second} <= {*only}


def answer(one: Request) -> list[int]:
    return generated([one])[0].token_ids


@st.composite
def some_ruled(draw: st.DrawFn) -> Request:
    one = draw(any_request())
    only = (
        (
            draw(st.integers(0, one.width(MODEL.config) - 1)),
            tuple(draw(st.sets(tokens, min_size=1, max_size=4))),
        ),
    )
    asked = one.pins is None and draw(st.booleans())
    return dataclasses.replace(
        one, rules=draw(any_rules) if draw(st.booleans()) else TokenRules(), only=only if asked else ()
    )


@settings(max_examples=40)
@given(st.lists(some_ruled(), min_size=1, max_size=4), st.integers(1, 9))
def test_the_engine_equals_the_plain_loop_with_and_without_rules(requests: list[Request], chunk: int) -> None:
    engine = Engine(MODEL, EngineConfig(prefill_chunk=chunk, memory=2**40))
    assert by_row(list(engine.run(requests)), len(requests)) == plainly(requests)


@settings(max_examples=20)
@given(st.lists(some_ruled(), min_size=2, max_size=4))
def test_a_batch_of_the_plain_loop_is_each_request_alone(requests: list[Request]) -> None:
    got = by_row(list(run(MODEL, requests)), len(requests))
    assert got == plainly(requests)


@pytest.mark.parametrize(
    "rules", [{"logprobs": True}, {"top_k": VOCABULARY}, {"logit_bias": {3: 0.0}}, {"min_p": 1e-300}]
)
def test_a_rule_that_changes_nothing_changes_nothing(rules: dict) -> None:
    """The unfused path is the fused one's arithmetic."""
    one = request(max_tokens=3 * WIDTH, seed=4)
    assert answer(needs_logits(one, **rules)) == answer(one)


def test_banned_tokens_never_stand_nor_are_sampled() -> None:
    one = request(max_tokens=4 * WIDTH, seed=1)
    often = [token for token, _ in Counter(answer(one)).most_common(5)]
    banned = needs_logits(one, banned_tokens=often)
    assert not {*often} & {*answer(banned)}
    for record in steps(list(Engine(MODEL, ROOMY).run([banned]))):
        assert not {*often} & {*record.argmax}


def test_bias_brings_a_token_about_and_drives_it_away() -> None:
    one = request(max_tokens=4 * WIDTH, seed=1)
    assert {*answer(needs_logits(one, logit_bias={7: 100.0}))} == {7}
    often = Counter(answer(one)).most_common(1)[0][0]
    assert often not in answer(needs_logits(one, logit_bias={str(often): -100}))


def test_penalties_make_answers_repeat_less() -> None:
    def repeats(**rules) -> int:
        found = [answer(needs_logits(request(max_tokens=6 * WIDTH, seed=seed), **rules)) for seed in range(6)]
        return sum(len(ids) - len({*ids}) for ids in found)

    assert repeats(frequency_penalty=2.0, presence_penalty=2.0) < repeats() < repeats(frequency_penalty=-2.0)
    assert repeats(repetition_penalty=3.0) < repeats()


def naive_penalties(logits: torch.Tensor, rules: TokenRules, prompt, answer, draft, exempt) -> torch.Tensor:
    out = logits.clone()
    for place in range(len(draft)):
        before = Counter([*answer, *(token for token in draft[:place] if token >= 0)])
        for token in range(logits.shape[1]):
            if token in exempt:
                continue
            if before[token] or token in prompt:
                x = out[place, token]
                out[place, token] = x / rules.repetition_penalty if x > 0 else x * rules.repetition_penalty
            out[place, token] -= rules.frequency_penalty * before[token] + rules.presence_penalty * (
                before[token] > 0
            )
    return out


@given(st.integers(0, 2**32), st.booleans())
def test_penalties_are_those_written_out(seed: int, first_step: bool) -> None:
    draw = random.Random(seed)
    prompt, given_ = draw.choices(range(20), k=6), draw.choices(range(20), k=8)
    draft = [-1] * 9 if first_step else draw.choices(range(20), k=9)
    rules = TokenRules(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5)
    processor = LogitsProcessor(
        Request(tuple(prompt), 40, 0, DenoiseConfig(eos_token_id=(3,), pad_token_id=0), rules=rules)
    )
    processor.commit(given_)
    logits = torch.randn((9, 24), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    want = naive_penalties(logits, rules, prompt, given_, draft, {0, 3})
    processor._penalise(logits, torch.tensor(draft))
    assert torch.allclose(logits, want, atol=1e-12)


def test_penalties_of_a_long_answer_make_no_table_of_it() -> None:
    processor = LogitsProcessor(Request((1, 2, 3), 50_000, rules=TokenRules(presence_penalty=0.5)))
    processor.commit([place % 1000 for place in range(40_000)])
    logits, draft = torch.zeros((4, 1000)), torch.arange(4)
    assert (
        most_bytes(lambda: processor._penalise(logits, draft)) < 64 * 40_000
    )  # ids and places; a table of both has 1,000 columns


def restricted(logits: torch.Tensor, **rules) -> list[list[int]]:
    out = logits.clone()
    LogitsProcessor(Request((1,), 4, rules=TokenRules(**rules)))._restrict(out)
    return [[i for i, x in enumerate(row) if x > -1e30] for row in out.tolist()]


def test_restrictions_keep_what_they_say() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.26, 0.24]], dtype=torch.float64)
    assert restricted(p.log(), top_k=2) == [[0, 1], [0, 1, 2]]  # equals stay together
    assert restricted(p.log(), top_p=0.5) == [[0], [0, 1, 2]]
    assert restricted(p.log(), top_p=0.81) == [[0, 1, 2], [0, 1, 2, 3]]
    assert restricted(p.log(), min_p=0.3) == [[0, 1, 2], [0, 1, 2, 3]]
    assert restricted(p.log(), top_k=3, top_p=0.6, min_p=0.9) == [[0], [0, 1, 2]]


def test_a_restricted_canvas_has_its_own_entropy_and_samples() -> None:
    one = request(max_tokens=WIDTH, seed=3, t_min=2.0, t_max=2.0, max_denoising_steps=1)
    full, few = (
        steps(list(Engine(MODEL, ROOMY).run([asked])))[0] for asked in (one, needs_logits(one, top_k=2))
    )
    assert full.argmax == few.argmax
    assert all(a <= b for a, b in zip(few.entropy, full.entropy, strict=True)) and max(few.entropy) <= 0.6932


def test_log_probs_are_those_of_the_last_step_at_temperature_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = needs_logits(
        request(max_tokens=2 * WIDTH - 1, seed=5, t_max=0.5, t_min=0.3),
        logprobs=True,
        top_logprobs=3,
        banned_tokens=(4,),
    )
    seen = []
    right = dgemma.engine.logits_processor.soft_capped_logits

    def seeing(*arguments):
        logits = right(*arguments)
        seen.append(logits[0].log_softmax(-1))
        return logits

    monkeypatch.setattr(dgemma.engine.logits_processor, "soft_capped_logits", seeing)
    last = 0
    for commit in commits(list(Engine(MODEL, ROOMY).run([one]))):
        last += commit.steps
        assert len(commit.logprobs) == len(commit.token_ids)
        for place, (token, told) in enumerate(zip(commit.token_ids, commit.logprobs, strict=True)):
            row = seen[last - 1][place]
            assert told.log_prob == pytest.approx(float(row[token]))
            assert (
                told.top_ids == row.topk(3).indices.tolist()
                and told.top_log_probs == sorted(told.top_log_probs)[::-1]
            )


def test_no_end_token_before_min_tokens() -> None:
    one = request(max_tokens=5 * WIDTH, seed=1)
    ends = tuple({*answer(one)[:4]})
    one = request(max_tokens=5 * WIDTH, seed=1, eos_token_id=ends)
    assert len(answer(one)) < WIDTH + 3
    longer = answer(needs_logits(one, min_tokens=WIDTH + 3))
    assert len(longer) > WIDTH + 3 and not {*ends} & {*longer[: WIDTH + 3]}


def test_temperature_scales_the_schedule_and_zero_takes_the_likeliest() -> None:
    twice = request(seed=2, temperature=2.0, t_min=0.3, t_max=0.9)
    assert answer(twice) == answer(request(seed=2, t_min=0.6, t_max=1.8))
    chosen = begin(
        Settings.of([DenoiseConfig(temperature=0), DenoiseConfig()], [1, 1], torch.device("cpu")),
        torch.zeros(2, dtype=torch.int64), torch.zeros((2, 3), dtype=torch.int64),
    )  # fmt: skip
    from dgemma.kernels.ops.vocab import stats_of
    from dgemma.sampling.step import step

    flat = torch.zeros((2, 3, 50), dtype=torch.float64)
    flat[..., 7] = 0.01
    stats = stats_of(flat, torch.full((2, 3, 2), 0.9, dtype=torch.float64), torch.float64)
    state = chosen._replace(
        settings=chosen.settings._replace(entropy_bound=torch.full((2,), 1e3, dtype=torch.float64))
    )
    after = step(stats, state, 50)
    assert after.canvas[0].tolist() == [7, 7, 7] and 7 not in after.canvas[1].tolist()
    assert after.entropy[0].tolist() == after.entropy[1].tolist()


def test_rows_without_rules_take_the_head_that_they_always_took(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    head_stats = dgemma.engine.canvases.head_stats

    def counting(model, hidden, *rest):
        rows.append(len(hidden))
        return head_stats(model, hidden, *rest)

    monkeypatch.setattr(dgemma.engine.canvases, "head_stats", counting)
    free, bound = request(max_tokens=WIDTH, seed=1), needs_logits(request(max_tokens=WIDTH, seed=2), top_k=3)
    list(Engine(MODEL, ROOMY).run([free, free, bound]))
    assert rows and set(rows) == {2}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"top_p": 0}, "top_p is 0"), ({"top_k": -1}, "top_k"), ({"min_p": 1.5}, "min_p"), ({"logit_bias": {1: 101}}, "logit_bias"),
        ({"presence_penalty": 3}, "presence_penalty"), ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"banned_tokens": [1.5]}, "banned_tokens"), ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"min_tokens": -1}, "min_tokens"), ({"logit_bias": [1]}, "logit_bias"),
    ],
)  # fmt: skip
def test_a_rule_out_of_its_range_is_named(rules: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TokenRules(**rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"banned_tokens": (VOCABULARY,)}, "no token id"), ({"logit_bias": {VOCABULARY: 1}}, "no token id"),
        ({"banned_tokens": tuple(range(VOCABULARY))}, "leaves no token"), ({"min_tokens": 99}, "exceeds max_tokens"),
        ({"min_tokens": 2}, "end token"),
    ],
)  # fmt: skip
def test_a_rule_that_does_not_fit_the_model_is_named(rules: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        needs_logits(request(), **rules).check(MODEL.config)
