"""What a request may say of sampling: our own settings by their names, and those that other servers know.

The one table, ELSEWHERE, says which of the latter api.Model takes, and under which name. What it does not take and what would change
the answer is refused by name; a value that changes nothing is let through. Knows no dialect.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from ..jobs import Refusal

OWN = (
    "preset", "max_denoising_steps", "t_min", "t_max", "entropy_bound", "stability_threshold", "confidence_threshold",
    "canvas_width", "ignore_after_end",
)  # fmt: skip

# field: (its name in api.Model, or None where it is not served; the values that change nothing)
ELSEWHERE: dict[str, tuple[str | None, tuple[Any, ...]]] = {
    "temperature": (None, (1,)),
    "top_p": (None, (1,)),
    "top_k": (None, (0, -1)),
    "min_p": (None, (0,)),
    "presence_penalty": (None, (0,)),
    "frequency_penalty": (None, (0,)),
    "repetition_penalty": (None, (1,)),
    "logit_bias": (None, ({},)),
    "stop": (None, ([], "")),
    "logprobs": (None, (False,)),
    "top_logprobs": (None, (0,)),
    "parallel_tool_calls": (None, (True,)),
    "modalities": (None, (["text"],)),
    "verbosity": (None, ("medium",)),
    "json_schema": (None, ()),
    "regex": (None, ()),
    "grammar": (None, ()),
}


class Sampling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields that all dialects of the OpenAI family share."""

    seed: int | None = None
    preset: str | None = None
    max_denoising_steps: int | None = None
    t_min: float | None = None
    t_max: float | None = None
    entropy_bound: float | None = None
    stability_threshold: int | None = None
    confidence_threshold: float | None = None
    canvas_width: int | None = None
    ignore_after_end: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None


def settings(body: Any) -> dict[str, Any]:
    """The keyword arguments that a body's sampling fields are for api.Model. Raises Refusal that names one that is not served."""
    found = {name: value for name in OWN if (value := getattr(body, name, None)) is not None}
    for name, (own, neutral) in ELSEWHERE.items():
        value = getattr(body, name, None)
        if value is None or value in neutral:
            continue
        if own is None:
            raise unserved(name)
        found[own] = value
    return found


def unserved(name: str) -> Refusal:
    return Refusal(400, f"'{name}' is not supported yet; leave it out", parameter=name)


def seeds(seed: int | None, count: int) -> list[int]:
    """One for each of `count` answers; without a seed they are drawn, and told with the answer."""
    first = secrets.randbits(62) if seed is None else seed
    return [first + place for place in range(count)]
