"""What may change without changing the model: DenoiseConfig (one request) and EngineConfig (one process).

Knows no tensor and no model; whether a value fits a checkpoint is asked in engine/requests.py. Every setting
is in its range or an error that names it: nothing is clamped, nothing dropped.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UsageError
from .reader import Reader, is_whole, read_json, shown

# Named settings that trade quality for steps; docs/numbers.md has what each costs. "exact" is the checkpoint
# as it is.
PRESETS: dict[str, dict[str, float]] = {
    "exact": {},
    "early": {"ignore_after_end": True},
    "cool": {"t_max": 0.3, "t_min": 0.05, "max_denoising_steps": 20},
    "bold": {"entropy_bound": 1.0},
}
MOST_END_IDS = 16  # that `ignore_after_end` can look for
MAX_PROMPT_CHARACTERS = 800_000  # refused before it is tokenised: 262,144 positions hold about as much


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have, and how that is said."""

    kind: type[int] | type[float]  # int: whole numbers below 2^63
    least: float
    most: float = math.inf
    text: str = ""

    def holds(self, value: object) -> bool:
        """Whether a value is one of them (NaN is in no range, and a bool is no number)."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.kind is int and not is_whole(value, 0):
            return False
        return self.least <= value <= self.most


RANGES = {  # of what a request may change
    "max_denoising_steps": Range(int, 1, text="a whole number, at least 1"),
    "stability_threshold": Range(int, 0, text="a whole number, at least 0"),
    "canvas_width": Range(int, 1, text="a whole number, at least 1"),
    "t_min": Range(float, 0, 1e30, text="a number from 0 to 1e30"),
    # below 1e-30 the inverse leaves float32, and logits that are not finite would be blamed on the model
    "t_max": Range(float, 1e-30, 1e30, text="a number from 1e-30 to 1e30"),
    "temperature": Range(float, 0, 1e30, text="a number, at least 0"),
    "entropy_bound": Range(float, 0, text="a number of nats, at least 0"),
    "confidence_threshold": Range(float, math.ulp(0.0), text="a number of nats above 0"),
}


@dataclass(frozen=True)
class DenoiseConfig:
    """How one request's canvases are decided. Names and defaults are those of `generation_config.json`.

    Temperatures divide the logits; entropies and bounds are in nats. See docs/glossary.md.
    """

    max_denoising_steps: int = 48
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    eos_token_id: tuple[int, ...] | None = (1, 106, 50)
    pad_token_id: int | None = 0
    canvas_width: int | None = None  # None: the checkpoint's canvas_length
    max_new_tokens: int = 256  # the checkpoint's default length; a request's max_tokens wins
    ignore_after_end: bool = (
        False  # a canvas may stand whatever still moves behind its end token; no published setting
    )
    # multiplies t_min and t_max; 0: the schedule as it is, and the likeliest token instead of a sample
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any], source: str = "generation_config.json") -> DenoiseConfig:
        """Parse a published `generation_config.json`. Raises ConfigError for unknown keys or values."""
        return _parse(raw, source)

    @classmethod
    def from_file(cls, path: Path) -> DenoiseConfig:
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def from_folder(cls, folder: Path, eos_token_id: tuple[int, ...]) -> DenoiseConfig:
        """A checkpoint's settings.

        `eos_token_id` (of its config.json) holds where they name no end tokens.
        """
        path = folder / "generation_config.json"
        if (
            not path.exists() and not path.is_symlink()
        ):  # a link to nothing is a fault, not a folder without settings
            return cls(eos_token_id=eos_token_id)
        raw = read_json(path)
        raw.setdefault("eos_token_id", list(eos_token_id))
        return cls.from_dict(raw, str(path))

    def to_dict(self) -> dict[str, Any]:
        """The `generation_config.json` that Transformers and this reader accept for the same settings."""
        raw = dataclasses.asdict(self)
        for name in ("canvas_width", "ignore_after_end", "temperature"):
            raw.pop(name)
        for name in ("t_min", "t_max", "confidence_threshold"):
            raw[name] = float(raw[name])
        bound = float(raw.pop("entropy_bound"))
        raw["sampler_config"] = {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": bound}
        raw["eos_token_id"] = list(self.eos_token_id or ())
        return raw

    def replace(self, **changes: Any) -> DenoiseConfig:
        """A copy with some settings changed by a request, of which `preset` stands for several and goes
        before the others.

        Raises UsageError for a name that does not exist.
        """
        if "preset" in changes:
            changes = _preset(changes.pop("preset")) | changes
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise UsageError(f"unknown sampler setting '{name}'; known: {', '.join(names)}")
        ids = changes.get("eos_token_id")
        if isinstance(ids, int):
            changes["eos_token_id"] = (ids,)
        elif isinstance(ids, list | set | range):
            changes["eos_token_id"] = tuple(ids)
        return dataclasses.replace(self, **changes)


def _preset(name: Any) -> dict[str, Any]:
    if not isinstance(name, str) or name not in PRESETS:
        raise UsageError(f"preset is {shown(name)}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True)
class EngineConfig:
    """What one process does with its machine."""

    prefill_chunk: int = (
        512  # prompt tokens encoded per pass: bounds the activations, never changes the result
    )
    max_prompt_tokens: int | None = None  # None: what the checkpoint's positions leave beside one canvas
    max_slots: int = 64  # requests at work at once; more wait
    memory: int | None = (
        None  # bytes for requests and cached prefixes; None: 90 % of what is free on the device
    )
    prefix_cache: int | None = (
        None  # of these, bytes that finished prompts may keep; None: an eighth, 0: none
    )

    def __post_init__(self) -> None:
        for name, least in (
            ("prefill_chunk", 1),
            ("max_prompt_tokens", 1),
            ("max_slots", 1),
            ("memory", 1),
            ("prefix_cache", 0),
        ):
            value = getattr(self, name)
            optional = name in ("max_prompt_tokens", "memory", "prefix_cache")
            if not is_whole(value, least) and not (optional and value is None):
                raise UsageError(f"{name} is {shown(value)}; it must be a whole number, at least {least}")


def _parse(raw: dict[str, Any], source: str) -> DenoiseConfig:
    reader = Reader(raw, source)
    settings: dict[str, Any] = {}
    sampler = reader.take("sampler_config", dict, None)
    if sampler is not None:
        inner = Reader(sampler, f"{source}: sampler_config")
        if (name := inner.take("_cls_name", str, "EntropyBoundSamplerConfig")) != "EntropyBoundSamplerConfig":
            raise ConfigError(f"{inner.source}: sampler {shown(name)} is not known")
        settings["entropy_bound"] = inner.number("entropy_bound")
        inner.done(strict=True)
    for name in ("max_denoising_steps", "stability_threshold", "max_new_tokens", "pad_token_id"):
        if (value := reader.take(name, int, None)) is not None:
            settings[name] = value
    for name in ("t_min", "t_max", "confidence_threshold"):
        if (value := reader.number(name, None)) is not None:
            settings[name] = value
    if "eos_token_id" in reader.raw:
        settings["eos_token_id"] = reader.tokens("eos_token_id")
    reader.raw.pop("bos_token_id", None)  # what a prompt begins with is the config's
    reader.done()
    try:
        return DenoiseConfig(**settings)
    except UsageError as error:
        raise ConfigError(f"{source}: {error}") from None


def _check(config: DenoiseConfig) -> None:
    """Every setting in its range, or a UsageError that names it (the oracle's ranges, and no silent
    clamping).
    """

    def need(ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise UsageError(f"{name} is {shown(getattr(config, name))}; it must be {rule}")

    need(is_whole(config.max_new_tokens, 1), "max_new_tokens", "a whole number, at least 1")
    for name, allowed in RANGES.items():
        value = getattr(config, name)
        need(allowed.holds(value) or (name == "canvas_width" and value is None), name, allowed.text)
    if config.t_max < config.t_min:  # either may be the one that was meant
        raise UsageError(
            f"t_min is {config.t_min} and t_max is {config.t_max}; t_min must not be above t_max"
        )
    heat = config.temperature
    need(
        heat == 0 or 1e-30 <= heat * config.t_max <= 1e30,
        "temperature",
        f"0, or a number whose product with t_max {config.t_max} is from 1e-30 to 1e30",
    )
    eos = config.eos_token_id
    pad = config.pad_token_id
    fits = eos is None or (isinstance(eos, tuple | list) and all(is_whole(token, 0) for token in eos))
    need(fits, "eos_token_id", "token ids, or None")
    need(pad is None or is_whole(pad, 0), "pad_token_id", "a token id, or None")
    need(isinstance(config.ignore_after_end, bool), "ignore_after_end", "true or false")
    few = not config.ignore_after_end or len(eos or ()) <= MOST_END_IDS
    need(few, "eos_token_id", f"at most {MOST_END_IDS} ids with ignore_after_end")
