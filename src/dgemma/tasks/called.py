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
from .structured import Form, Turns, at_once, call_form


def call_asked(
    choice: Any,
    tools: Sequence[dict[str, Any]] | None,
    tokenizer: Tokenizer,
    ends: Sequence[int],
    asker: Asker = ALONE,
    turns: Turns = at_once,
) -> Called | None:
    """The Grammar of a `tool_choice` in OpenAI's shape; None where any answer will do. Raises UsageError for
    one that names no tool.
    """
    name = (
        choice.get("function", {}).get("name")
        if isinstance(choice, dict) and isinstance(choice.get("function"), dict)
        else None
    )
    if choice in (None, "auto", "none"):
        return None
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
    asked = [(function["name"], function.get("parameters")) for function in functions]
    inner = call_form(asked, tokenizer, tokenizer.special.need("end_tool_call"), asker, turns)
    return Called(inner, tokenizer, ends)


class Called:
    """A Grammar: a call's opening token, what `inner` allows, and one of `ends`."""

    def __init__(self, inner: Form, tokenizer: Tokenizer, ends: Sequence[int]):
        self.inner, self.size, self.notes = inner, tokenizer.vocab_size, inner.notes
        self.opening, self.ends = tokenizer.special.need("tool_call"), tuple(ends)

    def begin(self) -> CalledWalk:
        return CalledWalk(self, self.inner.begin())


class CalledWalk:
    """A Walk: before the call, inside it, or behind it."""

    def __init__(self, form: Called, walk: Walk, inside: bool = False, ended: bool = False):
        self.form, self.walk, self.inside, self.ended = form, walk, inside, ended

    def copy(self) -> CalledWalk:
        return CalledWalk(self.form, self.walk.copy(), self.inside, self.ended)

    def take(self, ids: Sequence[int]) -> int:
        count = 0
        if not self.inside and ids and ids[0] == self.form.opening:
            self.inside, count = True, 1
        if self.inside and not self.walk.ended:
            count += self.walk.take(ids[count:])
        if self.walk.ended and not self.ended and count < len(ids) and ids[count] in self.form.ends:
            self.ended, count = True, count + 1
        return count

    def forced(self) -> list[int]:
        if not self.inside:
            return [self.form.opening]
        return [self.form.ends[0]] if self.walk.ended else self.walk.forced()

    def allowed(self) -> Tensor:
        if self.inside and not self.walk.ended:
            return self.walk.allowed()
        allowed = torch.zeros(self.form.size, dtype=torch.bool)
        allowed[[*self.form.ends] if self.inside else [self.form.opening]] = True
        return allowed

    def closing(self) -> list[int] | None:
        if self.ended:
            return []
        way = self.walk.closing()
        if way is None:
            return None
        return [*([] if self.inside else [self.form.opening]), *way, self.form.ends[0]]


class CallOr:
    """A Grammar: a call, or an answer of another form."""

    def __init__(self, call: Called, other: Grammar):
        self.call, self.other = call, other

    def begin(self) -> CallOrWalk:
        return CallOrWalk(self, self.call.begin(), self.other.begin())


class CallOrWalk:
    """A Walk: one of two, which the first token decides. None of the other's begins with the token that opens
    a call.
    """

    def __init__(self, form: CallOr, call: Walk, other: Walk, chosen: Walk | None = None):
        self.form, self.call, self.other, self.chosen = form, call, other, chosen

    @property
    def ended(self) -> bool:
        return self.chosen is not None and self.chosen.ended

    def copy(self) -> CallOrWalk:
        if self.chosen is None:
            return CallOrWalk(self.form, self.call.copy(), self.other.copy())
        return CallOrWalk(self.form, self.call, self.other, self.chosen.copy())

    def take(self, ids: Sequence[int]) -> int:
        if self.chosen is not None:
            return self.chosen.take(ids)
        likely = self.call if ids and ids[0] == self.form.call.opening else self.other
        count = likely.take(ids)
        if count:
            self.chosen = likely
        return count

    def forced(self) -> list[int]:
        return self.chosen.forced() if self.chosen is not None else []

    def allowed(self) -> Tensor:
        if self.chosen is not None:
            return self.chosen.allowed()
        allowed = self.other.allowed()
        allowed[self.form.call.opening] = True
        return allowed

    def closing(self) -> list[int] | None:
        return (self.chosen or self.other).closing()
