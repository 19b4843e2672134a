"""A list function as a program.

One canonical text for each composition, in one line or as a loop, with or without a docstring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import compositions, names
from .checks import SameResults
from .compositions import CHANGE, FOLD, ITEM, KEEP, LOOPED, NUMBERS, TEXTS, Spec
from .draw import WORDS, Draw


@dataclass(frozen=True)
class Function:
    """A composition as it is written down."""

    spec: Spec
    name: str
    argument: str
    loop: bool = False
    doc: bool = False

    @property
    def docstring(self) -> str:
        return f"Return {self.spec.english(f' in {self.argument}')}."

    @property
    def text(self) -> str:
        if self.doc:
            doc = [f'"""{self.docstring}"""']
        else:
            doc = []
        head = f"def {self.name}({self.argument}):"
        return "\n".join(
            [head, *(f"    {line}" for line in [*doc, *_body(self.spec, self.argument, self.loop)])]
        )

    def check(self, before: str = "", after: str = "", contains: tuple[str, ...] = ()) -> SameResults:
        """The check of an answer that does what this function does."""
        inputs = _INPUTS[self.spec.kind]
        return SameResults(
            Function(self.spec, self.name, self.argument).text, self.name, inputs, before, after, contains
        )


def a_function(
    draw: Draw, loops: bool = False, with_keep: bool = False, loop: float = 0.3, doc: float = 0.3
) -> Function:
    """A function of any composition. `loops`: its fold has both styles; `loop`, `doc`: shares of either."""
    spec = compositions.spec(draw, loops=loops, with_keep=with_keep)
    if draw.held == WORDS or draw.chance(0.45):
        name = names.identifier(draw)
    else:
        name = spec.name
    looped = spec.fold in LOOPED and draw.chance(loop)
    return Function(spec, name, names.argument(draw, spec.kind), looped, draw.chance(doc))


def _body(spec: Spec, argument: str, loop: bool) -> list[str]:
    """The lines of the function, without their indentation."""
    item = ITEM[spec.kind]
    test = (
        KEEP[spec.kind][spec.keep].code.replace("{v}", item).replace("{x}", str(spec.keep_by))
        if spec.keep
        else ""
    )
    each = "{v}"
    if spec.change:
        each = CHANGE[spec.kind][spec.change].code.replace("{x}", str(spec.change_by))
    each = each.replace("{v}", item)
    if loop and spec.fold in LOOPED:
        return _loop(spec.fold, item, argument, test, each)
    head = f"for {item} in {argument}"
    if spec.fold in ("any", "all"):
        return [f"return {spec.fold}({test} {head})"]
    clause = head
    if test:
        clause = f"{head} if {test}"
    if spec.fold == "count":
        return [f"return sum(1 {clause})"]
    if not test and each == item:
        return [_whole(spec.fold, argument)]
    return [
        "return "
        + FOLD[spec.fold].code.replace("{each}", f"{each} {clause}").replace("{{", "{").replace("}}", "}")
    ]


def _whole(fold: str, argument: str) -> str:
    if fold == "unique":
        return f"return set({argument})"
    if fold == "joined":
        return f'return ", ".join({argument})'
    return f"return {fold}({argument})"


def _negated(test: str) -> str:
    """The opposite of a condition, as people write it."""
    for sign, other in ((" == ", " != "), (" > ", " <= "), (" < ", " >= "), (" in ", " not in ")):
        if sign in test:
            return test.replace(sign, other)
    return f"not {test}"


def _loop(fold: str, item: str, argument: str, test: str, each: str) -> list[str]:
    head = f"for {item} in {argument}:"
    if fold in ("any", "all"):
        test = test if fold == "any" else _negated(test)
        first = "False"
        if fold == "any":
            first = "True"
        return [
            head,
            f"    if {test}:",
            f"        return {first}",
            f"return {'False' if fold == 'any' else 'True'}",
        ]
    start, act = {
        "list": ("[]", f"result.append({each})"),
        "sum": ("0", f"result += {each}"),
        "count": ("0", "result += 1"),
    }[fold]
    if test:
        inner = [f"    if {test}:", f"        {act}"]
    else:
        inner = [f"    {act}"]
    return [f"result = {start}", head, *inner, "return result"]


_NUMBERS = (3, -4, 8, 0, 7, 12, -9, 6, 5, 10, 9, 3, 2, 14, 21, -30, 16, 1, 15, 11, 4, 13, 17, 18, 19, 20, 22)
_WORDS = tuple(  # every letter asked for begins one word and ends another
    "apple Bread corner dust echo fish Gate heart ice lamp moon nest open park rain sand tree banana crab "
    "music leaf song taxi ball team "
    "star gas a ox do abcdefghij heart stranger".split()
)


def _inputs(items: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    lists = [list(items), list(items[:5]), list(items[5:11]), [], *([item] for item in items)]
    return tuple((given,) for given in lists)


_INPUTS = {NUMBERS: _inputs(_NUMBERS), TEXTS: _inputs(_WORDS)}
