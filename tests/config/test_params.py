"""GenerationParams: every parameter stated once, what is not given asks nothing, and every fault is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.config import NO_RULES, DenoiseConfig, GenerationParams, GenerationSettings, TokenRules
from dgemma.config.params import GROUPS, PARAMS, REFUSED, names_in
from dgemma.errors import UsageError

FIELDS = {field.name: field for field in dataclasses.fields(GenerationParams)}


def test_the_keywords_that_editors_complete_are_the_fields() -> None:
    keywords, fields = get_type_hints(GenerationSettings), get_type_hints(GenerationParams)
    assert keywords.keys() == fields.keys()
    for name, kind in fields.items():
        assert keywords[name] == kind | None, name


def test_the_groups_hold_every_parameter_once() -> None:
    assert sorted(names_in(*GROUPS)) == sorted(FIELDS)
    assert {param.group for param in PARAMS.values()} == set(GROUPS)


def test_the_schedules_parameters_are_the_checkpoints_settings() -> None:
    settings = {field.name for field in dataclasses.fields(DenoiseConfig)}
    own = {"max_new_tokens", "pad_token_id"}
    assert set(names_in("schedule")) - {"preset"} == settings - own


def test_each_help_begins_with_a_sentence_for_the_flag() -> None:
    for name, param in PARAMS.items():
        assert param.summary.endswith(".") and len(param.summary) <= 100, name
        assert param.help.startswith(param.summary.rstrip(".")), name


def test_nothing_given_asks_nothing() -> None:
    assert GenerationParams().given == {}
    assert GenerationParams().token_rules == NO_RULES
    assert GenerationParams().schedule(DenoiseConfig(t_max=1.5)) == DenoiseConfig(t_max=1.5)


@given(st.dictionaries(st.sampled_from(sorted(set(FIELDS) - {"eos_token_id"})), st.none()))
def test_null_asks_nothing(settings: dict[str, None]) -> None:
    assert GenerationParams(**settings) == GenerationParams()
    asked = GenerationParams(top_p=0.5, t_max=0.7)
    assert asked.replace(**settings) == asked


def test_what_was_given_is_told_and_what_is_given_later_wins() -> None:
    asked = GenerationParams(max_tokens=7, logit_bias={"5": 1.5}, stop="x")
    assert asked.given == {"max_tokens": 7, "logit_bias": ((5, 1.5),), "stop": "x"}
    assert asked.replace(max_tokens=9).given == asked.given | {"max_tokens": 9}
    assert asked == GenerationParams(max_tokens=7, logit_bias={"5": 1.5}, stop="x"), "replace() copies"


def test_end_tokens_are_the_checkpoints_or_given_or_none() -> None:
    checkpoint = DenoiseConfig(eos_token_id=(1, 2))
    assert GenerationParams().schedule(checkpoint).eos_token_id == (1, 2)
    assert GenerationParams(eos_token_id=None).schedule(checkpoint).eos_token_id is None
    for ids in (5, (5,), [5]):
        assert GenerationParams(eos_token_id=ids).schedule(checkpoint).eos_token_id == (5,)
    assert GenerationParams(eos_token_id=5).replace(eos_token_id=None).eos_token_id is None


def test_a_preset_goes_before_its_settings() -> None:
    config = GenerationParams(preset="cool", t_max=0.5).schedule(DenoiseConfig())
    assert (config.t_max, config.t_min, config.max_denoising_steps) == (0.5, 0.05, 20)


BAD: list[tuple[str, Any]] = [
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1.0), ("max_tokens", True), ("max_tokens", "9"),
    ("seed", -1), ("seed", 2**63), ("seed", 0.5), ("seed", "1"), ("autoregressive", 1), ("preset", "fast"), ("preset", 3),
    ("max_denoising_steps", 0), ("t_min", -0.1), ("t_max", 0), ("t_max", float("nan")), ("temperature", -1),
    ("entropy_bound", float("nan")), ("stability_threshold", 0.5), ("confidence_threshold", 0), ("canvas_width", 0),
    ("eos_token_id", "106"), ("eos_token_id", (1, "2")), ("eos_token_id", -1), ("eos_token_id", True), ("eos_token_id", 5.0),
    ("ignore_after_end", 1), ("top_k", -1), ("top_k", 0.5), ("top_p", 0), ("top_p", 1.1), ("top_p", True), ("min_p", 1.1),
    ("presence_penalty", 2.1), ("frequency_penalty", float("inf")), ("repetition_penalty", 0), ("min_tokens", -1),
    ("logit_bias", {5: 101}), ("logit_bias", {"x": 1}), ("logit_bias", 3), ("banned_tokens", (1, "2")), ("banned_tokens", 3),
    ("logprobs", 1), ("top_logprobs", 1), ("top_logprobs", 21),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=range(len(BAD)))
def test_a_parameter_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    for ask in (
        lambda: GenerationParams(**{name: value}),
        lambda: GenerationParams().replace(**{name: value}),
    ):
        with pytest.raises(UsageError, match=f"^{name} is ") as caught:
            ask()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_what_is_no_parameter_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="unknown parameter 'heat'; known: max_tokens, seed"):
        GenerationParams().replace(heat=1)
    with pytest.raises(UsageError, match="max_new_tokens changes nothing in this request; max_tokens says"):
        GenerationParams().replace(max_new_tokens=3)


@pytest.mark.parametrize("task", sorted(REFUSED))
def test_a_task_refuses_what_has_no_meaning_in_it_and_nothing_else(task: str) -> None:
    values: dict[str, Any] = {
        "logit_bias": {1: 2.0}, "banned_tokens": (1,), "autoregressive": True, "preset": "cool", "eos_token_id": 3,
        "ignore_after_end": True, "stop": "x", "bad_words": ["x"], "json_schema": {}, "regex": "a", "grammar": "start: A",
        "logprobs": True, "top_p": 0.5, "min_p": 0.5,
    }  # fmt: skip
    for name in FIELDS:
        more = {"logprobs": True} if name == "top_logprobs" else {}
        asked = GenerationParams(**{name: values.get(name, 2)}, **more)
        if name in REFUSED[task]:
            with pytest.raises(UsageError, match="has no meaning for"):
                asked.check_for(task)
        elif not more:
            asked.check_for(task)


def test_the_engine_keeps_what_is_asked_of_tokens() -> None:
    asked = GenerationParams(top_k=3, stop="x", t_max=0.5, logprobs=True)
    assert asked.token_rules == TokenRules(top_k=3, logprobs=True)
