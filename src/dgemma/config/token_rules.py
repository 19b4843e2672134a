"""TokenRules: what a request asks of its answer's tokens; and Param, what is known of a parameter.

GenerationParams (params.py) adds what is asked of the schedule, the text and its form. Trap: a request with
any rule leaves the fused vocabulary head, so the defaults must ask nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from .reader import is_whole, shown
from .settings import Range

MOST_LOGPROBS = 20  # alternatives that are told beside a token


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


def parameter(default: Any, group: str, text: str, **more: Any) -> Any:
    """A dataclass field that carries its Param."""
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

    top_k: int = parameter(
        0,
        "tokens",
        "Only the k likeliest tokens of each position. Equals at the edge stay, here and in the next two; "
        "entropy, acceptance and self-conditioning are those of what is left.",
        range=Range(int, 0, text="a whole number, at least 0 (0: all tokens)"),
    )
    top_p: float = parameter(
        1.0,
        "tokens",
        "Only the likeliest tokens of each position that have this mass. It is taken of what `top_k` leaves, "
        "after the temperature.",
        range=Range(float, math.ulp(0.0), 1, text="a number above 0, at most 1"),
    )
    min_p: float = parameter(
        0.0,
        "tokens",
        "Only tokens at least this times as likely as the likeliest. It is taken of what `top_p` leaves.",
        range=Range(float, 0, 1, text="a number from 0 to 1"),
    )
    presence_penalty: float = parameter(
        0.0,
        "tokens",
        "Off the logit of what stands in the answer before. What stands behind a position does not count: "
        "two equal tokens would drive each other out and both come back. End tokens and padding neither "
        "count nor pay.",
        range=Range(float, -2, 2, text="a number from -2 to 2"),
    )
    frequency_penalty: float = parameter(
        0.0,
        "tokens",
        "The same, as often as it stands there.",
        range=Range(float, -2, 2, text="a number from -2 to 2"),
    )
    repetition_penalty: float = parameter(
        1.0,
        "tokens",
        "Factor against what stands in prompt or answer before. It divides a positive logit and multiplies a "
        "negative one.",
        # one that divides by less takes logits out of float32 together with the coldest temperature
        range=Range(float, 0.01, 100, text="a number from 0.01 to 100"),
    )
    logit_bias: tuple[tuple[int, float], ...] | Mapping[int, float] = parameter(
        (),
        "tokens",
        "Numbers that are added to the logits of token ids, from -100 to 100. They are added before the "
        "temperature.",
        flag=False,
        json=dict[str, float],
        values="an object of token ids and numbers",
    )
    banned_tokens: Sequence[int] = parameter(
        (),
        "tokens",
        "Ids that no position may hold, at no step.",
        flag=False,
        field=False,
        values="a list of token ids",
    )
    min_tokens: int = parameter(
        0,
        "tokens",
        "No end token before so many.",
        range=Range(int, 0, text="a whole number, at least 0"),
    )
    logprobs: bool = parameter(
        False,
        "tokens",
        "The log-probability of every token of the answer. In nats of the raw logits, at temperature 1 and "
        "before any rule, in the last step of its canvas, whose draft became text. The dialects of the "
        "service have fields of their own for it.",
        flag=False,
        field=False,
        values="true or false",
    )
    top_logprobs: int = parameter(
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
