"""An answer that must be a call (`tool_choice`), or is one beside another form: of one of the tools, with
arguments as its schema has them, between the call's control tokens.

The arguments are JSON, which text/calls.py reads as well as the model's own notation: so a schema is kept by
what keeps it elsewhere (tasks/structured.py). Refuses to force more than one call: behind it the answer ends.
Trap: the form inside ends with the token that closes a call, not with one that ends an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.grammar import Grammar, Walk
from ..errors import UsageError
from ..text.tokenizer import Tokenizer
from .forms.compiler import ALONE, Asker
from .structured import OutputConstraint, Turns, at_once, call_constraint


def required_call(
    choice: Any,
    tools: Sequence[dict[str, Any]] | None,
    tokenizer: Tokenizer,
    ends: Sequence[int],
    asker: Asker = ALONE,
    turns: Turns = at_once,
) -> Called | None:
    """The Grammar of a `tool_choice` in OpenAI's shape; None where any answer will do.

    Raises UsageError for a choice that names no tool.
    """
    if choice in (None, "auto", "none"):
        return None
    name = _chosen_name(choice)
    if name is None and choice != "required":
        raise UsageError(
            "tool_choice must be 'auto', 'none', 'required', "
            "or {'type': 'function', 'function': {'name': ...}}"
        )
    functions = [tool["function"] for tool in tools or () if name in (None, tool["function"].get("name"))]
    if not functions:
        raise UsageError("tool_choice asks for a call, and tools has none of that name")
    if not ends:
        raise UsageError("tool_choice needs an end token to end the answer; leave eos_token_id out")
    parameters = [(function["name"], function.get("parameters")) for function in functions]
    closing = tokenizer.special.need("end_tool_call")
    return Called(call_constraint(parameters, tokenizer, closing, asker, turns), tokenizer, ends)


def _chosen_name(choice: Any) -> Any:
    """The name of the one function that may be called, where a choice gives one."""
    if not isinstance(choice, dict):
        return None
    function = choice.get("function")
    if isinstance(function, dict):
        return function.get("name")
    return None


class Called:
    """A Grammar: a call's opening token, what `inner` allows, and one of `ends`."""

    def __init__(self, inner: OutputConstraint, tokenizer: Tokenizer, ends: Sequence[int]):
        self.inner = inner
        self.size = tokenizer.vocab_size
        self.notes = inner.notes
        self.opening = tokenizer.special.need("tool_call")
        self.ends = tuple(ends)

    def begin(self) -> CalledWalk:
        return CalledWalk(self, self.inner.begin())


class CalledWalk:
    """A Walk: before the call, inside it, or behind it."""

    def __init__(self, constraint: Called, walk: Walk, inside: bool = False, ended: bool = False):
        self.constraint = constraint
        self.walk = walk
        self.inside = inside
        self.ended = ended

    def copy(self) -> CalledWalk:
        return CalledWalk(self.constraint, self.walk.copy(), self.inside, self.ended)

    def take(self, ids: Sequence[int]) -> int:
        count = 0
        if not self.inside and ids and ids[0] == self.constraint.opening:
            self.inside = True
            count = 1
        if self.inside and not self.walk.ended:
            count += self.walk.take(ids[count:])
        may_end = self.walk.ended and not self.ended
        if may_end and count < len(ids) and ids[count] in self.constraint.ends:
            self.ended = True
            count += 1
        return count

    def forced(self) -> list[int]:
        if not self.inside:
            return [self.constraint.opening]
        if self.walk.ended:
            return [self.constraint.ends[0]]
        return self.walk.forced()

    def allowed(self) -> Tensor:
        if self.inside and not self.walk.ended:
            return self.walk.allowed()
        allowed = torch.zeros(self.constraint.size, dtype=torch.bool)
        if self.inside:
            next_ids = list(self.constraint.ends)
        else:
            next_ids = [self.constraint.opening]
        allowed[next_ids] = True
        return allowed

    def closing(self) -> list[int] | None:
        if self.ended:
            return []
        way = self.walk.closing()
        if way is None:
            return None
        if self.inside:
            opening = []
        else:
            opening = [self.constraint.opening]
        return [*opening, *way, self.constraint.ends[0]]


class CallOr:
    """A Grammar: a call, or an answer of another form."""

    def __init__(self, call: Called, other: Grammar):
        self.call = call
        self.other = other

    def begin(self) -> CallOrWalk:
        return CallOrWalk(self, self.call.begin(), self.other.begin())


class CallOrWalk:
    """A Walk: one of two, which the first token decides.

    No answer of the other form begins with the token that opens a call.
    """

    def __init__(self, constraint: CallOr, call: Walk, other: Walk, chosen: Walk | None = None):
        self.constraint = constraint
        self.call = call
        self.other = other
        self.chosen = chosen

    @property
    def ended(self) -> bool:
        return self.chosen is not None and self.chosen.ended

    def copy(self) -> CallOrWalk:
        if self.chosen is None:
            return CallOrWalk(self.constraint, self.call.copy(), self.other.copy())
        return CallOrWalk(self.constraint, self.call, self.other, self.chosen.copy())

    def take(self, ids: Sequence[int]) -> int:
        if self.chosen is not None:
            return self.chosen.take(ids)
        if ids and ids[0] == self.constraint.call.opening:
            likely = self.call
        else:
            likely = self.other
        count = likely.take(ids)
        if count:
            self.chosen = likely
        return count

    def forced(self) -> list[int]:
        if self.chosen is not None:
            return self.chosen.forced()
        return []

    def allowed(self) -> Tensor:
        if self.chosen is not None:
            return self.chosen.allowed()
        allowed = self.other.allowed()
        allowed[self.constraint.call.opening] = True
        return allowed

    def closing(self) -> list[int] | None:
        return (self.chosen or self.other).closing()
