"""generation_config.json and the settings of a request: published values, every fault by name, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.config.remarks import remarks
from dgemma.errors import ConfigError, UsageError
from tests import oracle

PUBLISHED = Path(__file__).parents[1] / "data" / "published" / "generation_config.json"


def test_the_published_settings_are_the_defaults() -> None:
    assert DenoiseConfig.from_file(PUBLISHED) == DenoiseConfig() == DenoiseConfig.from_dict({})


def test_other_settings_are_read() -> None:
    raw = {
        "t_min": 0, "t_max": 1, "sampler_config": {"entropy_bound": 2}, "eos_token_id": 7, "max_new_tokens": 9,
        "pad_token_id": None, "transformers_version": "5.23.0", "bos_token_id": 2, "cache_implementation": "static",
    }  # fmt: skip
    assert DenoiseConfig.from_dict(raw) == DenoiseConfig(
        t_min=0.0, t_max=1.0, entropy_bound=2.0, eos_token_id=(7,), max_new_tokens=9
    )
    assert DenoiseConfig.from_dict({"eos_token_id": None}).eos_token_id is None
    assert DenoiseConfig.from_dict({"eos_token_id": []}).eos_token_id is None


BAD: list[tuple[str, Any]] = [
    ("max_denoising_steps", 0), ("max_denoising_steps", -1), ("max_denoising_steps", 2.0),
    ("max_denoising_steps", True), ("max_denoising_steps", "4"), ("max_denoising_steps", None),
    ("max_denoising_steps", 2**63), ("stability_threshold", -1), ("stability_threshold", 0.5), ("max_new_tokens", 0),
    ("t_min", -0.1), ("t_min", float("nan")), ("t_min", float("inf")), ("t_min", "0.4"), ("t_min", True),
    ("t_min", 10**400), ("t_max", 0), ("t_max", 0.3), ("t_max", float("nan")), ("t_max", float("inf")),
    ("t_max", None), ("entropy_bound", -1), ("entropy_bound", float("nan")), ("entropy_bound", None),
    ("confidence_threshold", 0), ("confidence_threshold", -1.0), ("confidence_threshold", float("nan")),
    ("canvas_width", 0), ("canvas_width", 2.0), ("canvas_width", False), ("eos_token_id", (1, "2")),
    ("eos_token_id", (-1,)), ("eos_token_id", (True,)), ("eos_token_id", 5.0), ("eos_token_id", "106"),
    ("eos_token_id", -1), ("pad_token_id", -1), ("pad_token_id", "0"),
    ("ignore_after_end", 1), ("ignore_after_end", None), ("ignore_after_end", "yes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=range(len(BAD)))
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        DenoiseConfig().replace(**{name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefill_chunk", 0),
        ("prefill_chunk", None),
        ("prefill_chunk", 1.5),
        ("max_prompt_tokens", 0),
        ("max_prompt_tokens", True),
    ],  # fmt: skip
)
def test_a_process_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        EngineConfig(**{name: value})
    assert EngineConfig(prefill_chunk=1).max_prompt_tokens is None


def test_few_ends_can_be_looked_for() -> None:
    assert len(DenoiseConfig(eos_token_id=tuple(range(16)), ignore_after_end=True).eos_token_id) == 16
    with pytest.raises(UsageError, match="at most 16 ids with ignore_after_end"):
        DenoiseConfig(eos_token_id=tuple(range(17)), ignore_after_end=True)
    assert "ignore_after_end" not in DenoiseConfig(ignore_after_end=True).to_dict()


def test_settings_at_the_end_of_their_range_are_taken() -> None:
    DenoiseConfig(t_min=0, t_max=1e-30)
    DenoiseConfig(t_min=0.5, t_max=0.5, entropy_bound=0, stability_threshold=0)
    DenoiseConfig(entropy_bound=float("inf"), confidence_threshold=float("inf"))


def test_replace_knows_every_name_and_no_other() -> None:
    changed = DenoiseConfig().replace(eos_token_id=5, canvas_width=8)
    assert changed.eos_token_id == (5,) and changed.canvas_width == 8
    assert DenoiseConfig().replace(eos_token_id=[1, 2]).eos_token_id == (1, 2)
    assert DenoiseConfig().replace(eos_token_id=None).eos_token_id is None
    with pytest.raises(UsageError, match="unknown sampler setting 'heat'.*t_min"):
        DenoiseConfig().replace(heat=1.0)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("unknown key 'block_length'", {"block_length": 32}),
        ("unknown key 'mask_token_id'", {"mask_token_id": 4}),
        ("t_min", {"t_min": "0.4"}),
        ("t_min", {"t_min": 10**400}),
        ("t_max", {"t_max": 0.1}),
        ("max_denoising_steps", {"max_denoising_steps": 0}),
        ("max_denoising_steps", {"max_denoising_steps": 48.0}),
        ("eos_token_id", {"eos_token_id": [1, None]}),
        ("eos_token_id", {"eos_token_id": "106"}),
        ("sampler_config", {"sampler_config": 0.1}),
        ("RandomSampler", {"sampler_config": {"_cls_name": "RandomSampler", "entropy_bound": 0.1}}),
        ("entropy_bound", {"sampler_config": {"_cls_name": "EntropyBoundSamplerConfig"}}),
        ("unknown key 'steps'", {"sampler_config": {"entropy_bound": 0.1, "steps": 2}}),
    ],
)
def test_a_fault_in_the_file_is_refused_by_name(name: str, raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        DenoiseConfig.from_dict(raw, "some/generation_config.json")
    assert str(caught.value).startswith("some/generation_config.json")


def test_settings_of_other_samplers_are_not_used() -> None:
    raw = {
        "do_sample": True,
        "top_k": 64,
        "top_p": 0.95,
        "temperature": 1.0,
        "transformers_version": "5.24.0",
        "num_beams": 1,
    }
    assert DenoiseConfig.from_dict(raw | {"bos_token_id": 2, "assistant_early_exit": None}) == DenoiseConfig()
    assert remarks(raw) == ["do_sample", "top_k", "top_p", "temperature", "num_beams"]


@pytest.mark.parametrize(
    "config",
    [
        DenoiseConfig(),
        DenoiseConfig(7, 0.1, 3, 2, 0, 1, None, None, None, 12),
        DenoiseConfig(eos_token_id=(9,)),
    ],
)
def test_what_is_written_reads_the_same(config: DenoiseConfig) -> None:
    assert DenoiseConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config.replace(pad_token_id=0)


@oracle.needed
def test_the_oracle_reads_ours() -> None:
    theirs = oracle.generation_config_of(DenoiseConfig(7, 0, 3, 2, 0, 1, (4, 5), 0, None, 12).to_dict())
    assert (theirs.max_denoising_steps, theirs.t_min, theirs.t_max, theirs.max_new_tokens) == (
        7,
        0.0,
        3.0,
        12,
    )
    assert (theirs.stability_threshold, theirs.confidence_threshold) == (0, 1.0)
    assert theirs.sampler_config.entropy_bound == 2.0
    assert theirs.eos_token_id == [4, 5] and theirs.pad_token_id == 0


def test_a_preset_stands_for_several_settings_and_gives_way_to_those_that_are_named() -> None:
    own = DenoiseConfig(entropy_bound=0.2)
    cool = own.replace(preset="cool")
    assert (cool.t_max, cool.t_min, cool.max_denoising_steps, cool.entropy_bound) == (0.3, 0.05, 20, 0.2)
    assert own.replace(preset="cool", max_denoising_steps=7).max_denoising_steps == 7
    assert own.replace(preset="exact") == own
    assert own.replace(preset="early") == DenoiseConfig(entropy_bound=0.2, ignore_after_end=True)
    for wrong in ("fast", 3, None):
        with pytest.raises(UsageError, match="presets: exact, early, cool, bold"):
            own.replace(preset=wrong)
