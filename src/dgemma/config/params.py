"""GenerationParams: everything that one request may ask, each parameter stated once.

The command line's flags, the service's fields, its OpenAPI document and docs/parameters.md are derived from
these fields, so a new parameter is added here and read where it acts. A parameter that is None asks nothing:
the checkpoint's generation_config.json decides. Trap: `eos_token_id` alone gives None a meaning, "no end
token"; "default" asks nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from ..errors import UsageError
from .reader import is_whole, shown
from .settings import PRESETS, RANGES, DenoiseConfig, Range

MOST_LOGPROBS = 20  # alternatives that are told beside a token
NO_PARAMS = {  # settings of a checkpoint that are taken for parameters, and what to do instead
    "max_new_tokens": "max_tokens says how long an answer may be",
    "pad_token_id": "leave it out",
}


@dataclass(frozen=True)
class Param:
    """What is known of a parameter beside its type and its default."""

    group: str  # "answer", "schedule", "tokens", "text" or "form"
    help: str  # the first sentence is the flag's help, all of it the page's and OpenAPI's
    flag: bool = True  # whether the command line has a flag of its name
    aliases: tuple[str, ...] = ()  # further names of that flag
    repeated: bool = False  # whether it may be given several times
    field: bool = True  # whether a request to the service may name it
    json: Any = None  # its type there, where JSON has another one
    range: Range | None = None
    values: str = ""  # what it may be, where that is no range

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        if self.range is None:
            return self.values
        return self.range.text

    @property
    def summary(self) -> str:
        """The first sentence."""
        return self.help.partition(". ")[0].rstrip(".") + "."


def _param(default: Any, group: str, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"param": Param(group, text, **more)})


def param_of(one: dataclasses.Field[Any]) -> Param:
    """What is known of a parameter, by its field."""
    param = one.metadata["param"]
    assert isinstance(param, Param)
    return param


@dataclass(frozen=True, kw_only=True)
class TokenRules:
    """What a request asks of its answer's tokens, over ids: the part of it that the engine keeps.

    Trap: a request with any rule leaves the fused vocabulary head, so the defaults must ask nothing.
    """

    top_k: int = _param(
        0,
        "tokens",
        "Only the k likeliest tokens of each position. Equals at the edge stay, here and in the next two; "
        "entropy, acceptance and self-conditioning are those of what is left.",
        range=Range(int, 0, text="a whole number, at least 0 (0: all tokens)"),
    )
    top_p: float = _param(
        1.0,
        "tokens",
        "Only the likeliest tokens of each position that have this mass. It is taken of what `top_k` leaves, "
        "after the temperature.",
        range=Range(float, math.ulp(0.0), 1, text="a number above 0, at most 1"),
    )
    min_p: float = _param(
        0.0,
        "tokens",
        "Only tokens at least this times as likely as the likeliest. It is taken of what `top_p` leaves.",
        range=Range(float, 0, 1, text="a number from 0 to 1"),
    )
    presence_penalty: float = _param(
        0.0,
        "tokens",
        "Off the logit of what stands in the answer before. What stands behind a position does not count: "
        "two equal tokens would drive each other out and both come back. End tokens and padding neither "
        "count nor pay.",
        range=Range(float, -2, 2, text="a number from -2 to 2"),
    )
    frequency_penalty: float = _param(
        0.0,
        "tokens",
        "The same, as often as it stands there.",
        range=Range(float, -2, 2, text="a number from -2 to 2"),
    )
    repetition_penalty: float = _param(
        1.0,
        "tokens",
        "Factor against what stands in prompt or answer before. It divides a positive logit and multiplies a "
        "negative one.",
        # one that divides by less takes logits out of float32 together with the coldest temperature
        range=Range(float, 0.01, 100, text="a number from 0.01 to 100"),
    )
    logit_bias: tuple[tuple[int, float], ...] | Mapping[int, float] = _param(
        (),
        "tokens",
        "Numbers that are added to the logits of token ids, from -100 to 100. They are added before the "
        "temperature.",
        flag=False,
        json=dict[str, float],
        values="an object of token ids and numbers",
    )
    banned_tokens: Sequence[int] = _param(
        (),
        "tokens",
        "Ids that no position may hold, at no step.",
        flag=False,
        field=False,
        values="a list of token ids",
    )
    min_tokens: int = _param(
        0,
        "tokens",
        "No end token before so many.",
        range=Range(int, 0, text="a whole number, at least 0"),
    )
    logprobs: bool = _param(
        False,
        "tokens",
        "The log-probability of every token of the answer. In nats of the raw logits, at temperature 1 and "
        "before any rule, in the last step of its canvas, whose draft became text. The dialects of the "
        "service have fields of their own for it.",
        flag=False,
        field=False,
        values="true or false",
    )
    top_logprobs: int = _param(
        0,
        "tokens",
        "And those of so many alternatives.",
        flag=False,
        field=False,
        range=Range(int, 0, MOST_LOGPROBS, text=f"a whole number, at most {MOST_LOGPROBS}"),
    )

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):  # null asks nothing, as clients send it
            if getattr(self, one.name) is None and one.name != "eos_token_id":
                object.__setattr__(self, one.name, one.default)
        if isinstance(self.logit_bias, Mapping):
            object.__setattr__(self, "logit_bias", _pairs(self.logit_bias))
        if isinstance(self.banned_tokens, list | set | range):
            object.__setattr__(self, "banned_tokens", tuple(self.banned_tokens))
        self._check_ranges()
        self._check_ids()

    def check(self, vocab_size: int) -> None:
        """Raise UsageError for an id that a model of so many tokens does not have."""
        ids = {"banned_tokens": self.banned_tokens, "logit_bias": [token for token, _ in self.biases]}
        for name, tokens in ids.items():
            for token in tokens:
                if token >= vocab_size:
                    raise UsageError(f"{name} holds {token}, which is no token id below {vocab_size}")
        if len({*self.banned_tokens}) >= vocab_size:
            raise UsageError("banned_tokens leaves no token of this model's vocabulary")

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` as pairs, which it is from the start."""
        if isinstance(self.logit_bias, tuple):
            return self.logit_bias
        return _pairs(self.logit_bias)

    def _check_ranges(self) -> None:
        for one in dataclasses.fields(self):
            allowed = param_of(one).range
            value = getattr(self, one.name)
            if allowed is not None and value is not None and not allowed.holds(value):
                raise UsageError(f"{one.name} is {shown(value)}; it must be {allowed.text}")

    def _check_ids(self) -> None:
        banned = self.banned_tokens
        pairs = self.logit_bias
        if not isinstance(banned, tuple) or not all(is_whole(token, 0) for token in banned):
            raise UsageError(f"banned_tokens is {shown(banned)}; it must be a list of token ids")
        if not isinstance(pairs, tuple) or not all(_is_bias(pair) for pair in pairs):
            raise UsageError(
                f"logit_bias is {shown(pairs)}; it must be a mapping of token ids to numbers from -100 to 100"
            )
        if not isinstance(self.logprobs, bool):
            raise UsageError(f"logprobs is {shown(self.logprobs)}; it must be true or false")
        if self.top_logprobs and not self.logprobs:
            raise UsageError(f"top_logprobs is {self.top_logprobs}; it must be 0 where logprobs is not true")


NO_RULES = TokenRules()


@dataclass(frozen=True, kw_only=True)
class GenerationParams(TokenRules):
    """What one request asks. Everything has a default, and what is None is the checkpoint's own.

    Raises UsageError, naming the parameter, for a value out of its range; what only a checkpoint can tell (a
    canvas that is too wide, an id beyond its vocabulary) is refused when the request is made.
    """

    max_tokens: int | None = _param(
        None,
        "answer",
        "Most tokens to generate. An answer of at most half a canvas gets a canvas of its own width, a "
        "multiple of 16.",
        aliases=("-n",),
        range=Range(int, 1, text="a whole number, at least 1"),
    )
    seed: int = _param(
        0,
        "answer",
        "The same request with the same seed gives the same text.",
        range=Range(int, 0, text="a whole number from 0 to 2^63 - 1"),
    )
    autoregressive: bool = _param(
        False,
        "answer",
        "Write token by token with the same weights, to compare. The causal pass writes, without canvases "
        "and drafts.",
        flag=False,
        field=False,
        values="true or false",
    )
    preset: str | None = _param(
        None,
        "schedule",
        f"One of {', '.join(PRESETS)}; the other settings go before it. All but exact cost quality.",
        values="a name",
    )
    max_denoising_steps: int | None = _param(
        None,
        "schedule",
        "Most steps one canvas may take; fewer steps also cool faster.",
        aliases=("--steps",),
        range=RANGES["max_denoising_steps"],
    )
    t_min: float | None = _param(
        None, "schedule", "Temperature that the steps of a canvas cool down to.", range=RANGES["t_min"]
    )
    t_max: float | None = _param(None, "schedule", "Temperature that they start from.", range=RANGES["t_max"])
    temperature: float | None = _param(
        None,
        "schedule",
        "Multiplies t_min and t_max; 0 takes the likeliest token wherever one is accepted. Entropy, "
        "acceptance and self-conditioning stay the schedule's then. What is not accepted is noise still, so "
        "the seed matters.",
        range=RANGES["temperature"],
    )
    entropy_bound: float | None = _param(
        None, "schedule", "Nats of entropy that one step may accept.", range=RANGES["entropy_bound"]
    )
    stability_threshold: int | None = _param(
        None,
        "schedule",
        "Steps that must repeat the draft before a canvas stands.",
        range=RANGES["stability_threshold"],
    )
    confidence_threshold: float | None = _param(
        None,
        "schedule",
        "Mean entropy, in nats, below which a canvas may stand.",
        range=RANGES["confidence_threshold"],
    )
    eos_token_id: int | Sequence[int] | Literal["default"] | None = _param(
        "default",
        "schedule",
        "Token ids that end the answer, separated by commas, or 'none'.",
        field=False,
        values="one id, a list of ids, or None",
    )
    canvas_width: int | None = _param(
        None, "schedule", "Tokens per canvas, at most the checkpoint's own.", range=RANGES["canvas_width"]
    )
    ignore_after_end: bool | None = _param(
        None,
        "schedule",
        "Let a canvas stand whatever still moves behind its end token.",
        values="true or false",
    )
    stop: str | Sequence[str] = _param(
        (),
        "text",
        "End the answer before this text; may be repeated. Up to 16 texts, found across canvases too; no "
        "part of one is ever told, and the request ends with it. In a chat they are looked for in the "
        "content alone.",
        repeated=True,
        json=str | list[str],
        values="a text, or a list of at most 16",
    )
    bad_words: Sequence[str] = _param(
        (),
        "text",
        "A text that must not occur; may be repeated. It may be cut into tokens in any way: at each step the "
        "draft is read from left to right, and where a token would complete the text, the best other token "
        "stands.",
        repeated=True,
        json=list[str],
        values="a list of texts",
    )
    json_schema: dict[str, Any] | bool | str | None = _param(
        None,
        "form",
        "Answer in JSON of this schema.",
        flag=False,
        values="an object, true, or a text of JSON",
    )
    regex: str | None = _param(
        None,
        "form",
        "Answer in a text that this regular expression matches whole.",
        flag=False,
        values="a text",
    )
    grammar: str | None = _param(
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


def _pairs(bias: Mapping[Any, Any]) -> tuple[tuple[Any, Any], ...]:
    """A mapping's pairs; JSON spells its ids as strings."""
    return tuple(
        (int(token) if isinstance(token, str) and token.isdecimal() else token, value)
        for token, value in bias.items()
    )


def _is_bias(pair: Any) -> bool:
    """Whether it is an id with a number from -100 to 100."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        return False
    token, number = pair
    return is_whole(token, 0) and Range(float, -100, 100, text="").holds(number)
