"""The world: examples without end, each a pure function of (seed, side, hold-out, index)."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator

from ...errors import UsageError
from .draw import HOLDOUTS, Draw
from .example import Example, Message
from .families import FAMILIES

SIDES = ("train", "test")
MOST_TRIES = 200


SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "Be brief.",
    "You are a coding assistant.",
    "You are a helpful AI assistant. Answer the question.",
    "Answer briefly and correctly.",
    "You are DGemma.",
)
SYSTEM_SHARE = 0.06


def with_system(messages: tuple[Message, ...], rng: random.Random) -> tuple[Message, ...]:
    """The messages, now and then behind a system message that changes nothing."""
    if not messages or rng.random() > SYSTEM_SHARE:
        return messages
    return ({"role": "system", "content": rng.choice(SYSTEM)}, *messages)


class World:
    """Examples of one side. `side="train"` shows nothing held out; `"test"` shows in each example something
    that is.

    `holdout`: the kind that every example of the test side shows; None takes the kinds of each family in turn
    by chance. Raises UsageError for an unknown side, kind or family, and for a family that cannot show the
    kind.
    """

    def __init__(self, seed: int, side: str = "train", holdout: str | None = None):
        if side not in SIDES:
            raise UsageError(f"side is {side!r}; it must be one of {', '.join(SIDES)}")
        if holdout is not None and (side == "train" or holdout not in HOLDOUTS):
            raise UsageError(
                f"holdout is {holdout!r}; on the test side it may be one of {', '.join(HOLDOUTS)}"
            )
        self.seed = seed
        self.side = side
        self.holdout = holdout
        self.families = [
            name for name, entry in FAMILIES.items() if holdout is None or holdout in entry.holdouts
        ]
        self._weights = list(itertools.accumulate(FAMILIES[name].weight for name in self.families))
        self._count = itertools.count()

    def sample(self, index: int | None = None) -> Example:
        """An example of any family, by weight. `index` names it; without, the next one."""
        rng, index = self._rng("any", index)
        name = rng.choices(self.families, cum_weights=self._weights)[0]
        return self._make(name, rng)

    def example(self, name: str, index: int | None = None) -> Example:
        """An example of one family."""
        if name not in self.families:
            raise UsageError(f"the family {name!r} is not among {', '.join(self.families)}")
        rng, index = self._rng(name, index)
        return self._make(name, rng)

    def __iter__(self) -> Iterator[Example]:
        while True:
            yield self.sample()

    def _rng(self, what: str, index: int | None) -> tuple[random.Random, int]:
        index = next(self._count) if index is None else index
        return random.Random(f"{self.seed}/{self.side}/{self.holdout}/{what}/{index}"), index

    def _make(self, name: str, rng: random.Random) -> Example:
        entry = FAMILIES[name]
        kind = self.holdout
        if self.side == "test" and kind is None:
            kind = rng.choice(entry.holdouts)
        for _ in range(MOST_TRIES):
            draw = Draw(rng, kind)
            example = entry.make(draw)
            if kind is None or draw.shown:
                if not example.tools:
                    messages = with_system(example.messages, rng)
                else:
                    messages = example.messages
                return dataclasses.replace(example, family=name, holdout=kind, messages=messages)
        raise UsageError(f"the family {name!r} showed nothing held out of the kind {kind!r}")
