"""GenerationParams: everything that one request may ask, each parameter stated once.

The command line's flags, the service's fields, its OpenAPI document and docs/parameters.md are derived from
these fields, so a new parameter is added here and read where it acts. A parameter that is None asks nothing:
the checkpoint's generation_config.json decides. Trap: `eos_token_id` alone gives None a meaning, "no end
token"; "default" asks nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from ..errors import UsageError
from .reader import is_whole, shown
from .settings import PRESETS, RANGES, DenoiseConfig, Range
from .token_rules import MOST_LOGPROBS, NO_RULES, Param, TokenRules, param_of, parameter

__all__ = [
    "GROUPS",
    "IN_TASK",
    "MOST_LOGPROBS",
    "NO_PARAMS",
    "NO_RULES",
    "PARAMS",
    "REFUSED",
    "GenerationParams",
    "GenerationSettings",
    "Param",
    "TokenRules",
    "names_in",
    "param_of",
]
NO_PARAMS = {  # settings of a checkpoint that are taken for parameters, and what to do instead
    "max_new_tokens": "max_tokens says how long an answer may be",
    "pad_token_id": "leave it out",
}


@dataclass(frozen=True, kw_only=True)
class GenerationParams(TokenRules):
    """What one request asks. Everything has a default, and what is None is the checkpoint's own.

    Raises UsageError, naming the parameter, for a value out of its range; what only a checkpoint can tell (a
    canvas that is too wide, an id beyond its vocabulary) is refused when the request is made.
    """

    max_tokens: int | None = parameter(
        None,
        "answer",
        "Most tokens to generate. An answer of at most half a canvas gets a canvas of its own width, a "
        "multiple of 16.",
        aliases=("-n",),
        range=Range(int, 1, text="a whole number, at least 1"),
    )
    seed: int = parameter(
        0,
        "answer",
        "The same request with the same seed gives the same text.",
        range=Range(int, 0, text="a whole number from 0 to 2^63 - 1"),
    )
    autoregressive: bool = parameter(
        False,
        "answer",
        "Write token by token with the same weights, to compare. The causal pass writes, without canvases "
        "and drafts.",
        flag=False,
        field=False,
        values="true or false",
    )
    preset: str | None = parameter(
        None,
        "schedule",
        f"One of {', '.join(PRESETS)}; the other settings go before it. All but exact cost quality.",
        values="a name",
    )
    max_denoising_steps: int | None = parameter(
        None,
        "schedule",
        "Most steps one canvas may take; fewer steps also cool faster.",
        aliases=("--steps",),
        range=RANGES["max_denoising_steps"],
    )
    t_min: float | None = parameter(
        None, "schedule", "Temperature that the steps of a canvas cool down to.", range=RANGES["t_min"]
    )
    t_max: float | None = parameter(
        None, "schedule", "Temperature that they start from.", range=RANGES["t_max"]
    )
    temperature: float | None = parameter(
        None,
        "schedule",
        "Multiplies t_min and t_max; 0 takes the likeliest token wherever one is accepted. Entropy, "
        "acceptance and self-conditioning stay the schedule's then. What is not accepted is noise still, so "
        "the seed matters.",
        range=RANGES["temperature"],
    )
    entropy_bound: float | None = parameter(
        None, "schedule", "Nats of entropy that one step may accept.", range=RANGES["entropy_bound"]
    )
    stability_threshold: int | None = parameter(
        None,
        "schedule",
        "Steps that must repeat the draft before a canvas stands.",
        range=RANGES["stability_threshold"],
    )
    confidence_threshold: float | None = parameter(
        None,
        "schedule",
        "Mean entropy, in nats, below which a canvas may stand.",
        range=RANGES["confidence_threshold"],
    )
    eos_token_id: int | Sequence[int] | Literal["default"] | None = parameter(
        "default",
        "schedule",
        "Token ids that end the answer, separated by commas, or 'none'.",
        field=False,
        values="one id, a list of ids, or None",
    )
    canvas_width: int | None = parameter(
        None, "schedule", "Tokens per canvas, at most the checkpoint's own.", range=RANGES["canvas_width"]
    )
    ignore_after_end: bool | None = parameter(
        None,
        "schedule",
        "Let a canvas stand whatever still moves behind its end token.",
        values="true or false",
    )
    stop: str | Sequence[str] = parameter(
        (),
        "text",
        "End the answer before this text; may be repeated. Up to 16 texts, found across canvases too; no "
        "part of one is ever told, and the request ends with it. In a chat they are looked for in the "
        "content alone.",
        repeated=True,
        json=str | list[str],
        values="a text, or a list of at most 16",
    )
    bad_words: Sequence[str] = parameter(
        (),
        "text",
        "A text that must not occur; may be repeated. It may be cut into tokens in any way: at each step the "
        "draft is read from left to right, and where a token would complete the text, the best other token "
        "stands.",
        repeated=True,
        json=list[str],
        values="a list of texts",
    )
    json_schema: dict[str, Any] | bool | str | None = parameter(
        None,
        "form",
        "Answer in JSON of this schema.",
        flag=False,
        values="an object, true, or a text of JSON",
    )
    regex: str | None = parameter(
        None,
        "form",
        "Answer in a text that this regular expression matches whole.",
        flag=False,
        values="a text",
    )
    grammar: str | None = parameter(
        None,
        "form",
        "Answer in a text of this grammar, in Lark's notation or GBNF.",
        flag=False,
        values="a text",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.eos_token_id, int) and not isinstance(self.eos_token_id, bool):
            object.__setattr__(self, "eos_token_id", (self.eos_token_id,))
        if isinstance(self.eos_token_id, list | set | range):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        self._check_schedule()

    def replace(self, **settings: Any) -> GenerationParams:
        """A copy with some parameters changed by name.

        None leaves a parameter as it is (but for `eos_token_id`).

        Raises UsageError for a name that does not exist.
        """
        for name in settings:
            if name in NO_PARAMS:
                raise UsageError(f"{name} changes nothing in this request; {NO_PARAMS[name]}")
            if name not in PARAMS:
                raise UsageError(f"unknown parameter '{name}'; known: {', '.join(PARAMS)}")
        given = {
            name: value for name, value in settings.items() if value is not None or name == "eos_token_id"
        }
        return dataclasses.replace(self, **given)

    def schedule(self, checkpoint: DenoiseConfig) -> DenoiseConfig:
        """How the canvases are decided: the checkpoint's settings with those of this request over them."""
        settings = {name: getattr(self, name) for name in names_in("schedule")}
        changes = {name: value for name, value in settings.items() if value is not None}
        changes.pop("eos_token_id", None)
        if self.eos_token_id != "default":
            changes["eos_token_id"] = self.eos_token_id
        return checkpoint.replace(**changes)

    @property
    def token_rules(self) -> TokenRules:
        """The part that the engine keeps."""
        return TokenRules(**{one.name: getattr(self, one.name) for one in dataclasses.fields(TokenRules)})

    @property
    def given(self) -> dict[str, Any]:
        """What differs from the defaults, by name."""
        values = {one.name: (getattr(self, one.name), one.default) for one in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def check_for(self, task: str) -> None:
        """Raise UsageError for a parameter that has no effect in a task ("ids", "fill", "edit")."""
        for name in self.given:
            if name in REFUSED[task]:
                raise UsageError(f"{name} has no meaning for {IN_TASK[task]}; leave it out")

    def _check_schedule(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise UsageError(f"preset is {shown(self.preset)}; presets: {', '.join(PRESETS)}")
        ids = self.eos_token_id
        is_list = isinstance(ids, tuple) and all(is_whole(token, 0) for token in ids)
        if not is_list and ids not in (None, "default"):
            raise UsageError(f"eos_token_id is {shown(ids)}; it must be token ids, or None")
        for name in ("ignore_after_end", "autoregressive"):
            if not isinstance(getattr(self, name), bool | None):
                raise UsageError(f"{name} is {shown(getattr(self, name))}; it must be true or false")


class GenerationSettings(TypedDict, total=False):
    """The fields of GenerationParams as keywords, for editors and type checkers.

    A test holds the two equal.
    """

    top_k: int | None
    top_p: float | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: tuple[tuple[int, float], ...] | Mapping[int, float] | None
    banned_tokens: Sequence[int] | None
    min_tokens: int | None
    logprobs: bool | None
    top_logprobs: int | None
    max_tokens: int | None
    seed: int | None
    autoregressive: bool | None
    preset: str | None
    max_denoising_steps: int | None
    t_min: float | None
    t_max: float | None
    temperature: float | None
    entropy_bound: float | None
    stability_threshold: int | None
    confidence_threshold: float | None
    eos_token_id: int | Sequence[int] | Literal["default"] | None
    canvas_width: int | None
    ignore_after_end: bool | None
    stop: str | Sequence[str] | None
    bad_words: Sequence[str] | None
    json_schema: dict[str, Any] | bool | str | None
    regex: str | None
    grammar: str | None


GROUPS = ("answer", "schedule", "tokens", "text", "form")  # in the order in which they are shown
PARAMS: dict[str, Param] = {
    one.name: param_of(one)
    for group in GROUPS
    for one in dataclasses.fields(GenerationParams)
    if param_of(one).group == group
}


def names_in(*groups: str) -> tuple[str, ...]:
    """The names of the parameters of some groups, in their order."""
    return tuple(name for name, param in PARAMS.items() if param.group in groups)


# What has no meaning in a task, and is refused there.
REFUSED: dict[str, tuple[str, ...]] = {
    "ids": ("autoregressive", *names_in("text", "form")),
    "fill": (
        "max_tokens",
        "autoregressive",
        "eos_token_id",
        "ignore_after_end",
        "min_tokens",
        "logprobs",
        "top_logprobs",
        *names_in("text", "form"),
    ),
}
REFUSED["edit"] = (*REFUSED["fill"], *names_in("tokens"))
IN_TASK = {"ids": "a prompt of ids", "fill": "a gap", "edit": "an edit"}
