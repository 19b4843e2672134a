"""The plain loop on tiny models in float64, where neither row counts nor paddings can flip a choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgemma.sampling.step
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine.denoise import read_prompts, run
from dgemma.engine.requests import CommitRecord, Request, Result, StepRecord, results
from dgemma.errors import UsageError
from dgemma.kernels.ops.vocab import soft_capped_logits
from dgemma.model.dgemma import DiffusionGemma
from dgemma.model.stack import Stack
from tests.helpers import lively_model, tiny_config

CONFIG = tiny_config("SSF")
MODEL = lively_model(CONFIG, seed=7, dtype="float64", sharpness=4.0)
WIDTH, VOCABULARY = CONFIG.canvas_length, CONFIG.vocab_size
BASE = DenoiseConfig(
    max_denoising_steps=4,
    t_min=0.3,
    t_max=0.9,
    entropy_bound=1.0,
    confidence_threshold=1.0,
    eos_token_id=None,
)
Record = StepRecord | CommitRecord


def request(
    prompt: Sequence[int] = (3, 1, 4), max_tokens: int = 2 * WIDTH, seed: int = 0, **changes
) -> Request:
    outer = {name: changes.pop(name) for name in ("canvas_ids", "pins", "resume_points") if name in changes}
    return Request(tuple(prompt), max_tokens, seed, dataclasses.replace(BASE, **changes), **outer)


def by_row(records: Sequence[Record], rows: int) -> list[list[tuple]]:
    """What each request saw, without its place in the batch; numbers rounded where row counts move the last bits."""
    seen: list[list[tuple]] = [[] for _ in range(rows)]
    for record in records:
        fields = dataclasses.asdict(record)
        if "entropy" in fields:
            fields["entropy"] = [round(number, 7) + 0.0 for number in fields["entropy"]]
        for told in fields.get("logprobs", ()):
            told["log_prob"] = round(told["log_prob"], 7) + 0.0
            told["top_log_probs"] = [round(number, 7) + 0.0 for number in told["top_log_probs"]]
        seen[fields.pop("request")].append((type(record).__name__, fields))
    return seen


def steps(records: Sequence[Record]) -> list[StepRecord]:
    return [record for record in records if isinstance(record, StepRecord)]


def commits(records: Sequence[Record]) -> list[CommitRecord]:
    return [record for record in records if isinstance(record, CommitRecord)]


def generated(requests: Sequence[Request]) -> list[Result]:
    return results(run(MODEL, requests), len(requests))


tokens = st.integers(0, VOCABULARY - 1)


@st.composite
def any_request(draw: st.DrawFn) -> Request:
    pins = draw(st.none() | st.lists(st.just(-1) | tokens, min_size=WIDTH, max_size=WIDTH).map(tuple))
    t_min = draw(st.floats(0.05, 1.0))
    config = DenoiseConfig(
        max_denoising_steps=draw(st.integers(1, 4)), t_min=t_min, t_max=t_min + draw(st.floats(0, 1)),
        entropy_bound=draw(st.sampled_from((0.0, 0.1, 3.0, 1e3))), stability_threshold=draw(st.integers(0, 2)),
        confidence_threshold=draw(st.sampled_from((0.3, 1.0, 2.0))),
        eos_token_id=draw(st.none() | st.lists(tokens, min_size=1, max_size=3).map(tuple)), ignore_after_end=draw(st.booleans()),
    )  # fmt: skip
    length = draw(st.integers(1, 2 * WIDTH + 1))
    one = st.lists(tokens, min_size=WIDTH, max_size=WIDTH).map(tuple)
    canvas = draw(st.lists(one, max_size=min(2, -(-length // WIDTH))).map(tuple))
    return Request(
        tuple(draw(st.lists(tokens, min_size=1, max_size=14))), length,
        draw(st.integers(0, 2**63 - 1)), config, canvas, pins,
    )  # fmt: skip


@settings(max_examples=20)
@given(st.lists(any_request(), min_size=2, max_size=4), st.integers(1, 9))
def test_alone_equals_beside_others(requests: list[Request], chunk: int) -> None:
    together = by_row(list(run(MODEL, requests, EngineConfig(prefill_chunk=chunk))), len(requests))
    for row, one in enumerate(requests):
        assert by_row(list(run(MODEL, [one])), 1)[0] == together[row]


def test_alone_equals_beside_others_over_all_48_steps() -> None:
    """Self-conditioning is turned down to a tenth: at full strength a random model amplifies rounding 30 times per step."""
    calm = lively_model(CONFIG, seed=7, dtype="float64", sharpness=4.0)
    calm.self_conditioning.down_proj.weight.mul_(0.1)
    released = DenoiseConfig(eos_token_id=None)
    requests = [
        Request(tuple(range(1, length + 1)), 2 * WIDTH, seed, released)
        for seed, length in enumerate((2, 13, 7))
    ]
    together = by_row(list(run(calm, requests)), len(requests))
    assert max(len(seen) for seen in together) > 90, "canvases must take most of their 48 steps"
    for row, one in enumerate(requests):
        assert by_row(list(run(calm, [one])), 1)[0] == together[row]


def leaking(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Stack.run
    monkeypatch.setattr(
        Stack, "run", lambda self, x, *rest: right(self, x + 0.1 * x.mean(1, keepdim=True), *rest)
    )


def noise_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    make = dgemma.sampling.step.noise
    monkeypatch.setattr(
        dgemma.sampling.step, "noise", lambda seed, *rest: make(seed + torch.arange(len(seed)), *rest)
    )


@pytest.mark.parametrize("break_it", [leaking, noise_by_row], ids=lambda twin: twin.__name__)
def test_a_twin_that_looks_at_its_neighbours_is_rejected(break_it, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    requests = [request((1, 2, 3, 4, 5, 6, 7)), request((8, 9))]
    assert by_row(list(run(MODEL, requests)), 2)[1] != by_row(list(run(MODEL, requests[1:])), 1)[0]


@settings(max_examples=25)
@given(any_request())
def test_records_tell_every_step_once_and_in_order(one: Request) -> None:
    records = list(run(MODEL, [one]))
    told: list[tuple[int, int]] = []
    for record in records:
        if isinstance(record, StepRecord):
            told.append((record.canvas, record.step))
            last = record
            assert len(record.argmax) == len(record.accepted) == len(record.entropy) == WIDTH
        else:
            assert told == [(record.canvas, step) for step in range(1, record.steps + 1)] and last.done
            assert record.canvas_ids == last.argmax
            assert record.steps <= one.config.max_denoising_steps
            told = []
    assert not told and [record.canvas for record in commits(records)] == list(range(len(commits(records))))
    assert sum(record.done for record in steps(records)) == len(commits(records))


@settings(max_examples=25)
@given(any_request())
def test_the_answer_is_cut_never_overshot(one: Request) -> None:
    made = commits(list(run(MODEL, [one])))
    answer, whole = (
        sum((record.token_ids for record in made), []),
        sum((record.canvas_ids for record in made), []),
    )
    ends = one.config.eos_token_id or ()
    first = next((place for place, token in enumerate(whole) if token in ends), None)
    want = whole[: one.max_tokens] if first is None or first >= one.max_tokens else whole[: first + 1]
    assert answer == want
    assert made[-1].finish_reason == ("stop" if answer[-1] in ends else "length")
    assert all(record.finish_reason is None for record in made[:-1])


def test_the_same_request_twice_gives_the_same_records() -> None:
    one = request(seed=5)
    assert list(run(MODEL, [one])) == list(run(MODEL, [one]))


def test_the_seed_decides() -> None:
    answers = {
        tuple(generated([request(seed=seed)])[0].token_ids) for seed in (0, 1, 2**32, 2**32 + 1, 2**62)
    }
    assert len(answers) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"max_denoising_steps": 3}, {"t_min": 0.8}, {"t_max": 2.0}, {"entropy_bound": 0.0},
        {"stability_threshold": 1}, {"confidence_threshold": 1e-9}, {"canvas_width": 4},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_no_setting_is_ignored(change: dict) -> None:
    usual = {"stability_threshold": 0}
    before = [by_row(list(run(MODEL, [request(seed=seed, **usual)])), 1) for seed in range(3)]
    assert before != [
        by_row(list(run(MODEL, [request(seed=seed, **usual | change)])), 1) for seed in range(3)
    ]


def test_an_end_token_is_kept_and_what_follows_is_dropped() -> None:
    free = commits(list(run(MODEL, [request()])))
    end = free[0].canvas_ids[2]
    first = free[0].canvas_ids.index(end)
    result = generated([request(eos_token_id=(VOCABULARY - 1, end))])[0]
    assert result.token_ids == free[0].canvas_ids[: first + 1]
    assert result.finish_reason == "stop" and result.canvases == [free[0].canvas_ids]
    exact = generated([request(eos_token_id=(end,), max_tokens=first + 1)])[0]
    assert exact.finish_reason == "stop" and exact.token_ids == result.token_ids
    if first:
        cut = generated([request(eos_token_id=(end,), max_tokens=first)])[0]
        assert cut.finish_reason == "length" and cut.token_ids == result.token_ids[:first]


def test_a_canvas_may_stand_before_what_follows_its_end_does() -> None:
    ends = tuple(range(0, VOCABULARY, 3))
    usual, early = (
        [
            generated(
                [request(seed=seed, eos_token_id=ends, max_denoising_steps=12, ignore_after_end=ignore)]
            )[0]
            for seed in range(12)
        ]
        for ignore in (False, True)
    )
    steps_of = [(a.steps[0], b.steps[0]) for a, b in zip(usual, early, strict=True)]
    assert all(b <= a for a, b in steps_of) and any(b < a for a, b in steps_of)
    assert all(a == b for a, b in zip(usual, early, strict=True) if a.steps == b.steps)


def test_starting_canvases_are_what_the_first_passes_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ids = tuple(
        tuple((place * 7 + number) % VOCABULARY for place in range(WIDTH)) for number in range(2)
    )
    read = watch_canvases(monkeypatch)
    list(run(MODEL, [request(canvas_ids=given_ids, max_tokens=3 * WIDTH, max_denoising_steps=2)]))
    starts = [canvas for canvas, prev_probs in read if prev_probs is None]
    assert [canvas[0].tolist() for canvas in starts[:2]] == [list(row) for row in given_ids]
    assert len(starts) == 3 and starts[2][0].tolist() not in [list(row) for row in given_ids]


def test_a_first_step_is_one_encode_and_one_denoise() -> None:
    prompt, start = [5, 6, 7, 8, 9, 10, 11], torch.arange(2 * WIDTH).view(2, WIDTH)
    canvas_ids = tuple(tuple(row) for row in start.tolist())
    records = list(run(MODEL, [request(prompt, canvas_ids=canvas_ids)]))
    ids = list(prompt)
    for number, commit in enumerate(commits(records)):
        with torch.no_grad():
            hidden = MODEL.denoise(start[number : number + 1], read_prompts(MODEL, [ids], 100))
            logits = soft_capped_logits(hidden, MODEL.embed.weight, CONFIG.final_logit_softcapping)[0]
        first = next(record for record in steps(records) if record.canvas == number and record.step == 1)
        assert first.argmax == logits.argmax(-1).tolist()
        entropy = torch.distributions.Categorical(logits=logits / BASE.t_max).entropy()
        assert torch.allclose(torch.tensor(first.entropy, dtype=torch.float64), entropy, atol=1e-6)
        ids += commit.canvas_ids


def watch_canvases(monkeypatch: pytest.MonkeyPatch) -> list:
    """Every (canvas, previous) that `denoise` is given."""
    seen, denoise = [], DiffusionGemma.denoise

    def watched(self, canvas, kv, prev_probs=None, pins=None):
        seen.append((canvas.clone(), prev_probs))
        return denoise(self, canvas, kv, prev_probs, pins)

    monkeypatch.setattr(DiffusionGemma, "denoise", watched)
    return seen


def test_pins_stand_before_every_pass_and_in_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    read = watch_canvases(monkeypatch)
    pins = (40, -1, -1, 41, -1, 42)
    records = list(run(MODEL, [request(pins=pins, canvas_ids=((9,) * WIDTH,), confidence_threshold=1e-9)]))
    first = [record for record in steps(records) if record.canvas == 0]
    assert len(first) == BASE.max_denoising_steps
    for (canvas, _), record in zip(read, first, strict=False):
        for place, pin in enumerate(pins):
            if pin >= 0:
                assert canvas[0, place] == record.argmax[place] == pin and not record.accepted[place]
    assert [commits(records)[0].canvas_ids[place] for place in (0, 3, 5)] == [40, 41, 42]
    assert read[0][0][0].tolist() == [40, 9, 9, 41, 9, 42]
    # pins belong to the first canvas alone
    assert any(record.accepted[0] for record in steps(records) if record.canvas == 1)


def test_a_pinned_cell_is_conditioned_on_its_own_token() -> None:
    canvas, pins = torch.arange(WIDTH)[None], torch.full((1, WIDTH), -1)
    pins[0, 2] = 33
    chances = torch.rand(
        1, WIDTH, VOCABULARY, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    sure = chances.clone()
    sure[0, 2] = 0
    sure[0, 2, 33] = 1
    kv = read_prompts(MODEL, [[1, 2, 3]], 9)
    with torch.no_grad():
        pinned = MODEL.denoise(canvas, kv, (chances, chances.sum(-1)), pins)
        certain = MODEL.denoise(canvas, kv, (sure, sure.sum(-1)))
        ignored = MODEL.denoise(canvas, kv, (chances, chances.sum(-1)))
    assert torch.allclose(pinned, certain, atol=1e-10) and not torch.allclose(pinned, ignored, atol=1e-3)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("when", [0, 1])
def test_one_row_that_is_not_finite_ends_alone(monkeypatch, poison: float, when: int) -> None:
    requests = [request((1, 2), seed=1), request((3,) * 9, seed=2), request((4, 5, 6), seed=3)]
    healthy = commits(list(run(MODEL, requests)))
    layers, passes = Stack.run, []

    def poisoned(self, x, positions, context):
        x = layers(self, x, positions, context)
        if not context.encoding:
            if len(passes) == when:
                x[0, WIDTH + 3, 0] = poison  # the rows of a pass lie flat
            passes.append(1)
        return x

    monkeypatch.setattr(Stack, "run", poisoned)
    hurt = commits(list(run(MODEL, requests)))
    bad = [record for record in hurt if record.request == 1]
    assert [(record.finish_reason, record.token_ids, record.steps) for record in bad] == [
        ("error", [], when + 1)
    ]
    assert by_row([r for r in hurt if r.request != 1], 3) == by_row([r for r in healthy if r.request != 1], 3)
    passes.clear()
    assert [result.finish_reason for result in generated(requests)] == ["length", "error", "length"]


def test_a_narrower_canvas_is_that_of_a_narrower_checkpoint() -> None:
    narrow = lively_model(tiny_config("SSF", canvas_length=4), seed=7, dtype="float64", sharpness=4.0)
    want = list(run(narrow, [request(max_tokens=9)]))
    got = list(run(MODEL, [request(max_tokens=9, canvas_width=4)]))
    assert by_row(got, 1) == by_row(want, 1) and {len(record.canvas_ids) for record in commits(got)} == {4}
    by_canvas = list(run(MODEL, [request(max_tokens=9, canvas_ids=((1, 2, 3, 4),))]))
    assert {len(record.argmax) for record in steps(by_canvas)} == {4}


def test_a_result_adds_up() -> None:
    result = generated([request(max_tokens=WIDTH + 2)])[0]
    assert len(result.token_ids) == WIDTH + 2
    assert len(result.steps) == len(result.canvases) == 2
    assert result.tokens_per_forward == (WIDTH + 2) / sum(result.steps) and result.finish_reason == "length"


def test_one_batch_has_one_width_and_may_be_empty() -> None:
    assert generated([]) == []
    with pytest.raises(UsageError, match="canvas width"):
        generated([request(), request(canvas_width=3)])


def test_a_bad_request_stops_the_batch_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionGemma, "encode", lambda *arguments: pytest.fail("the model ran"))
    with pytest.raises(UsageError, match="max_tokens"):
        generated([request(), request(max_tokens=0)])
