"""A form behind a thought.

Where the model was asked to think, its answer may open with a thought; the form holds for what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.grammar import Grammar, Walk
from ..text.tokenizer import Tokenizer


class ThoughtFirst:
    """A Grammar: perhaps one thought, of any text, and then an answer that `inner` allows."""

    def __init__(self, inner: Grammar, tokenizer: Tokenizer):
        self.inner = inner
        self.opening = tokenizer.special.need("channel")
        self.close = tokenizer.special.need("end_channel")
        self.control = tokenizer.control_ids
        self.inside = torch.ones(tokenizer.vocab_size, dtype=torch.bool)
        self.inside[[i for i in self.control if i != self.close]] = False

    def begin(self) -> ThoughtWalk:
        return ThoughtWalk(self, self.inner.begin(), "before")


class ThoughtWalk:
    """A Walk: before the thought, inside it, or behind it."""

    def __init__(self, constraint: ThoughtFirst, walk: Walk, place: str):
        self.constraint = constraint
        self.walk = walk
        self.place = place  # "before", "inside" or "behind"

    @property
    def ended(self) -> bool:
        return self.walk.ended

    def copy(self) -> ThoughtWalk:
        return ThoughtWalk(self.constraint, self.walk.copy(), self.place)

    def take(self, ids: Sequence[int]) -> int:
        for count, token in enumerate(ids):
            if self.place == "before" and token == self.constraint.opening:
                self.place = "inside"
            elif self.place == "inside" and token == self.constraint.close:
                self.place = "behind"
            elif self.place == "inside" and token in self.constraint.control:
                return count
            elif self.place != "inside":
                taken = self.walk.take(ids[count:])
                if taken:
                    self.place = "behind"
                return count + taken
        return len(ids)

    def forced(self) -> list[int]:
        if self.place == "behind":
            return self.walk.forced()
        return []

    def allowed(self) -> Tensor:
        if self.place == "inside":
            return self.constraint.inside
        allowed = self.walk.allowed()
        if self.place == "before":
            allowed[self.constraint.opening] = True
        return allowed

    def closing(self) -> list[int] | None:
        way = self.walk.closing()
        if way is None or self.place != "inside":
            return way
        return [self.constraint.close, *way]
