"""Rules of one request: what its tokens may be and what is told of them, beside how its canvases are decided.

Pure data, over token ids; engine/rules.py applies it and docs/sampling.md says what each means on a canvas. Every rule is in its
range or an error that names it. Trap: a request with any rule leaves the fused vocabulary head, so `Rules()` must stay free.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .reader import shown

MOST_LOGPROBS = 20  # alternatives that are told beside a token


@dataclass(frozen=True)
class Rules:
    """What one request asks of its tokens. Names are those of the OpenAI and vLLM parameters; the defaults ask nothing."""

    banned_tokens: tuple[int, ...] = ()  # ids that no position may hold
    logit_bias: tuple[tuple[int, float], ...] = ()  # (id, added to its logit); a mapping is taken as well
    presence_penalty: float = 0.0  # off a token's logit if it stands in the answer before a position
    frequency_penalty: float = 0.0  # the same, as often as it stands there
    repetition_penalty: float = (
        1.0  # divides a positive logit, multiplies a negative one: prompt and answer before a position
    )
    top_k: int = 0  # only the k likeliest tokens of each position; 0: all
    top_p: float = 1.0  # only the likeliest tokens that together have this mass
    min_p: float = 0.0  # only tokens at least this times as likely as the likeliest
    min_tokens: int = 0  # no end token before so many
    logprobs: bool = False  # tell the log-probability of every token of the answer
    top_logprobs: int = 0  # and of so many alternatives

    def __post_init__(self) -> None:
        if isinstance(self.logit_bias, Mapping):
            object.__setattr__(self, "logit_bias", _pairs(self.logit_bias))
        if isinstance(self.banned_tokens, list | set | range):
            object.__setattr__(self, "banned_tokens", tuple(self.banned_tokens))
        _check(self)

    def __bool__(self) -> bool:
        """Whether anything is asked."""
        return self != NO_RULES

    @classmethod
    def take(cls, settings: dict[str, Any]) -> Rules:
        """The rules among a request's settings by name, which are taken out. None, as clients send it, asks nothing."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in settings]
        given = {name: settings.pop(name) for name in names}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def check(self, vocab_size: int) -> None:
        """Raise UsageError for an id that a model of so many tokens does not have."""
        for name, ids in (
            ("banned_tokens", self.banned_tokens),
            ("logit_bias", [token for token, _ in self.logit_bias]),
        ):
            for token in ids:
                if token >= vocab_size:
                    raise UsageError(f"{name} holds {token}, which is no token id below {vocab_size}")
        if len({*self.banned_tokens}) >= vocab_size:
            raise UsageError("banned_tokens leaves no token of this model's vocabulary")


def _pairs(bias: Mapping[Any, Any]) -> tuple[tuple[Any, Any], ...]:
    """A mapping's pairs; JSON spells its ids as strings."""
    return tuple(
        (int(token) if isinstance(token, str) and token.isdecimal() else token, value)
        for token, value in bias.items()
    )


def _check(rules: Rules) -> None:
    def need(ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise UsageError(f"{name} is {shown(getattr(rules, name))}; it must be {rule}")

    need(
        isinstance(rules.banned_tokens, tuple) and all(map(_count, rules.banned_tokens)),
        "banned_tokens",
        "a list of token ids",
    )
    pairs = rules.logit_bias
    fits = isinstance(pairs, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and _count(pair[0]) and _number(pair[1], -100, 100)
        for pair in pairs
    )
    need(fits, "logit_bias", "a mapping of token ids to numbers from -100 to 100")
    for name in ("presence_penalty", "frequency_penalty"):
        need(_number(getattr(rules, name), -2, 2), name, "a number from -2 to 2")
    # one that divides by less takes logits out of float32 together with the coldest temperature
    need(_number(rules.repetition_penalty, 0.01, 100), "repetition_penalty", "a number from 0.01 to 100")
    need(_count(rules.top_k), "top_k", "a whole number, at least 0 (0: all tokens)")
    need(_number(rules.top_p, 0, 1) and rules.top_p > 0, "top_p", "a number above 0, at most 1")
    need(_number(rules.min_p, 0, 1), "min_p", "a number from 0 to 1")
    need(_count(rules.min_tokens), "min_tokens", "a whole number, at least 0")
    need(isinstance(rules.logprobs, bool), "logprobs", "true or false")
    need(
        _count(rules.top_logprobs) and rules.top_logprobs <= MOST_LOGPROBS,
        "top_logprobs",
        f"a whole number, at most {MOST_LOGPROBS}",
    )
    need(rules.logprobs or not rules.top_logprobs, "top_logprobs", "0 where logprobs is not true")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _number(value: Any, least: float, most: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and least <= value <= most
    )


NO_RULES = Rules()
