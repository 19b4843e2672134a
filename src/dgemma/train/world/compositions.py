"""What a list function does: keep some items, change each, fold them into one result; and how people say it.

A `Spec` is one composition; one in eight is held out. Each has one canonical name and one canonical sentence,
so that a prompt determines its answer. All other wordings are for prompts only. functions.py writes the
programs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .draw import COMPOSITIONS, Draw

NUMBERS = "numbers"
TEXTS = "words"
ITEM = {NUMBERS: "n", TEXTS: "word"}
LOOPED = ("list", "sum", "count", "any", "all")  # folds that are also written as a loop


@dataclass(frozen=True)
class Part:
    """One part of a composition.

    `{x}` is its number or letter, `{v}` the item, `{}` the nouns it goes with.
    """

    english: tuple[str, ...]  # the first is canonical
    code: str
    singular: str = ""  # of a condition: "is even"


KEEP: dict[str, dict[str, Part]] = {
    NUMBERS: {
        "even": Part(("even {}",), "{v} % 2 == 0", "is even"),
        "odd": Part(("odd {}",), "{v} % 2 == 1", "is odd"),
        "positive": Part(("positive {}",), "{v} > 0", "is positive"),
        "negative": Part(("negative {}",), "{v} < 0", "is negative"),
        "greater": Part(
            (
                "{} greater than {x}",
                "{} larger than {x}",
                "{} above {x}",
                "{} bigger than {x}",
                "{} over {x}",
            ),
            "{v} > {x}",
            "is greater than {x}",
        ),
        "less": Part(
            ("{} less than {x}", "{} smaller than {x}", "{} below {x}", "{} under {x}"),
            "{v} < {x}",
            "is less than {x}",
        ),
        "divisible": Part(
            ("{} divisible by {x}", "multiples of {x}"), "{v} % {x} == 0", "is divisible by {x}"
        ),
    },
    TEXTS: {
        "longer": Part(
            (
                "{} longer than {x} letters",
                "{} with more than {x} letters",
                "{} longer than {x} characters",
                "{} longer than {x}",
            ),
            "len({v}) > {x}",
            "is longer than {x} letters",
        ),
        "shorter": Part(
            (
                "{} shorter than {x} letters",
                "{} with fewer than {x} letters",
                "{} shorter than {x} characters",
                "{} shorter than {x}",
            ),
            "len({v}) < {x}",
            "is shorter than {x} letters",
        ),
        "starting": Part(
            (
                "{} that start with '{x}'",
                "{} starting with '{x}'",
                "{} that begin with '{x}'",
                "{} that start with {x}",
                "{} starting with the letter {x}",
            ),
            '{v}.startswith("{x}")',
            "starts with '{x}'",
        ),
        "ending": Part(
            ("{} that end with '{x}'", "{} ending with '{x}'", "{} ending in {x}", "{} that end in '{x}'"),
            '{v}.endswith("{x}")',
            "ends with '{x}'",
        ),
        "containing": Part(
            (
                "{} that contain '{x}'",
                "{} containing '{x}'",
                "{} with the letter {x}",
                "{} that have a {x} in them",
            ),
            '"{x}" in {v}',
            "contains '{x}'",
        ),
    },
}

CHANGE: dict[str, dict[str, Part]] = {
    NUMBERS: {
        "squares": Part(("squares of the {}", "squared {}"), "{v} ** 2"),
        "cubes": Part(("cubes of the {}",), "{v} ** 3"),
        "doubles": Part(("doubles of the {}", "doubled {}"), "{v} * 2"),
        "absolute": Part(("absolute values of the {}",), "abs({v})"),
        "plus": Part(("{} plus {x}",), "{v} + {x}"),
        "times": Part(("{} times {x}", "{} multiplied by {x}"), "{v} * {x}"),
    },
    TEXTS: {
        "upper": Part(
            ("{} in upper case", "{} in uppercase", "{} in capitals", "{} in capital letters"), "{v}.upper()"
        ),
        "lower": Part(("{} in lower case", "{} in lowercase", "{} in small letters"), "{v}.lower()"),
        "lengths": Part(("lengths of the {}",), "len({v})"),
        "reversed": Part(("reversed {}",), "{v}[::-1]"),
        "first": Part(("first letters of the {}", "first letter of the {}", "initials of the {}"), "{v}[0]"),
    },
}

FOLD: dict[str, Part] = {
    "list": Part(("the {}", "all {}", "a list of the {}", "only the {}"), "[{each}]"),
    "sorted": Part(
        ("the sorted {}", "the {}, sorted", "the {} in order", "a sorted list of the {}"), "sorted({each})"
    ),
    "sum": Part(("the sum of the {}", "the total of the {}", "the sum of all {}"), "sum({each})"),
    "count": Part(("the number of {}", "how many {} there are", "the count of {}"), "sum(1 {loop})"),
    "max": Part(("the largest of the {}", "the biggest of the {}", "the maximum of the {}"), "max({each})"),
    "min": Part(("the smallest of the {}", "the minimum of the {}"), "min({each})"),
    "unique": Part(("the set of the {}", "a set of the {}"), "{{{each}}}"),
    "joined": Part(
        ("the {} joined by commas", "the {} joined with commas", "the {}, separated by commas"),
        '", ".join({each})',
    ),
    "any": Part(
        ("whether any {one} {is}", "if any {one} {is}", "true if any {one} {is}", "whether some {one} {is}"),
        "any({test} {loop})",
    ),
    "all": Part(
        ("whether all {} {are}", "if all {} {are}", "true if all {} {are}", "whether every {one} {is}"),
        "all({test} {loop})",
    ),
}
SUPERLATIVES = {
    "max": ("the largest {}", "the biggest {}", "the maximum {}", "the highest {}"),
    "min": ("the smallest {}", "the minimum {}", "the lowest {}"),
}
DEEDS = {
    "list": (
        "keeps only the {}",
        "filters the {}",
        "finds the {}",
        "gives the {}",
        "gets all {}",
        "takes the {}",
        "selects the {}",
    ),
    "sorted": ("sorts the {}", "puts the {} in order"),
    "sum": ("sums the {}", "adds up the {}", "adds the {}", "computes the sum of the {}", "totals the {}"),
    "count": ("counts the {}", "counts how many {} there are", "counts {}"),
    "unique": ("collects the {} in a set", "gets the set of the {}"),
    "joined": ("joins the {} with commas", "joins the {} by commas"),
}
_NAMES = {"list": "", "unique": "set", "joined": "join", "max": "largest", "min": "smallest"}
_PLURAL_VERB = (("is ", "are "), ("starts ", "start "), ("ends ", "end "), ("contains ", "contain "))


@dataclass(frozen=True)
class Spec:
    """One composition.

    The kind of items, what is kept and how it is changed ("" for not at all), and the fold.
    """

    kind: str
    keep: str
    keep_by: Any
    change: str
    change_by: Any
    fold: str

    @property
    def composition(self) -> str:
        return f"{self.kind} {self.keep} {self.change} {self.fold}"

    @property
    def name(self) -> str:
        """The canonical name: `sum_squares_even_numbers`."""
        parts = (_NAMES.get(self.fold, self.fold), self.change, self.keep, self.kind)
        return "_".join(part for part in parts if part)

    def english(self, place: str = "", draw: Draw | None = None) -> str:
        """What it returns; with `draw`, in one of the wordings that people use. `place`: " in numbers"."""
        if self.fold in ("any", "all"):
            return self._tested(_wording(FOLD[self.fold], draw), place)
        if draw and self.fold in SUPERLATIVES and not self.change and draw.chance(0.6):
            return draw.pick(SUPERLATIVES[self.fold]).replace("{}", self._nouns(draw, self.kind[:-1])) + place
        said = _wording(FOLD[self.fold], draw)
        nouns = self._nouns(draw, self.kind)
        if said.endswith("there are"):
            return said.replace("{}", nouns) + place
        return said.replace("{}", nouns + place)

    def deed(self, place: str, draw: Draw) -> str:
        """What it does, in the third person, as people say it: "counts the even numbers in a list"."""
        if self.fold in ("any", "all"):
            said = draw.pick(("checks", "tests", "checks", "says", "tells"))
            return f"{said} {self._tested(draw.pick(FOLD[self.fold].english[:2]), place)}"
        if self.fold in SUPERLATIVES:
            return f"{draw.pick(('finds', 'gets', 'computes'))} {self.english(place, draw)}"
        return draw.pick(DEEDS[self.fold]).replace("{}", self._nouns(draw, self.kind) + place)

    def _nouns(self, draw: Draw | None, noun: str) -> str:
        """ "squares of the even numbers": what is kept and changed."""
        nouns = noun
        if self.keep:
            kept = _wording(KEEP[self.kind][self.keep], draw)
            if "{}" not in kept and noun != self.kind:  # "multiples of 3" has no singular
                kept = KEEP[self.kind][self.keep].english[0]
            nouns = kept.replace("{x}", str(self.keep_by)).replace("{}", noun)
        if self.change:
            changed = _wording(CHANGE[self.kind][self.change], draw)
            nouns = changed.replace("{x}", str(self.change_by)).replace("{}", nouns)
        return nouns

    def _tested(self, said: str, place: str) -> str:
        """A question about any or all items."""
        singular = KEEP[self.kind][self.keep].singular.replace("{x}", str(self.keep_by))
        are = next(are + singular[len(verb) :] for verb, are in _PLURAL_VERB if singular.startswith(verb))
        said = said.replace("{one}", self.kind[:-1] + place).replace("{is}", singular)
        return said.replace("{are}", are).replace("{}", self.kind + place)


def _wording(part: Part, draw: Draw | None) -> str:
    if draw:
        return draw.pick(part.english)
    return part.english[0]


def keep_by(draw: Draw, kind: str, keep: str) -> Any:
    """The number or letter of a condition."""
    if kind == NUMBERS:
        if keep == "divisible":
            return draw.number(3, 9)
        return draw.number(1, 20)
    if keep in ("longer", "shorter"):
        return draw.number(2, 8)
    return draw.pick("abcdefghilmnoprst")


def spec(draw: Draw, kind: str = "", loops: bool = False, with_keep: bool = False) -> Spec:
    """A composition on its side. `loops`: of a fold that can be written as a loop; `with_keep`.

    With a condition.
    """
    return draw.one_of(
        COMPOSITIONS, lambda: _make(draw, kind, loops, with_keep), lambda made: made.composition
    )


def another_keep(draw: Draw, old: Spec) -> Spec:
    """The same composition with another condition, on its side."""
    others = [replace(old, keep=keep, keep_by=keep_by(draw, old.kind, keep)) for keep in KEEP[old.kind]]
    others = [other for other in others if other != old]
    return draw.pick(draw.those(COMPOSITIONS, others, lambda made: made.composition))


def _make(draw: Draw, kind: str, loops: bool, with_keep: bool) -> Spec:
    kind = kind or (NUMBERS if draw.chance(0.6) else TEXTS)
    folds = ["list", "list", "list", "count", "any", "all"]
    folds += [] if loops else ["sorted", "unique"]
    folds += ["sum", "sum"] if kind == NUMBERS else []
    folds += [] if loops else (["max", "min"] if kind == NUMBERS else ["joined"])
    fold = draw.pick(folds)
    keep = (
        draw.pick(tuple(KEEP[kind]))
        if with_keep or fold in ("any", "all", "count") or draw.chance(0.7)
        else ""
    )
    change = ""
    if fold not in ("any", "all", "count") and draw.chance(0.5):
        change = draw.pick(tuple(CHANGE[kind]))
    if fold in ("sum", "max", "min") and change in ("plus", "times"):
        change = "squares"  # "the sum of the numbers plus 3" could mean either
    if fold == "joined" and change == "lengths":
        change = "upper"  # numbers cannot be joined
    if not keep and not change and fold in ("list", "unique"):
        change = draw.pick(tuple(CHANGE[kind]))
    change_by = None
    if change in ("plus", "times"):
        change_by = draw.number(2, 10)
    return Spec(kind, keep, keep_by(draw, kind, keep) if keep else None, change, change_by, fold)
