"""List functions: keep some items, change each, fold them into one result. Their English, their code, their inputs.

A `Spec` is a composition; one in eight is held out. Every spec has one canonical name, one canonical sentence and one canonical
program in each of two styles, so that a prompt determines its answer. Synonyms are for prompts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .draw import COMPOSITIONS, Draw

NUMBERS, TEXTS = "numbers", "words"
ITEM = {NUMBERS: "n", TEXTS: "word"}
LOOPED = ("list", "sum", "count", "any", "all")  # folds that are also written as a loop


@dataclass(frozen=True)
class Part:
    """One part of a composition. `{x}` is its number or letter, `{v}` the item, `{}` the nouns it goes with."""

    english: tuple[str, ...]  # the first is canonical
    code: str
    singular: str = ""  # of a condition: "is even"


KEEP: dict[str, dict[str, Part]] = {
    NUMBERS: {
        "even": Part(("even {}",), "{v} % 2 == 0", "is even"),
        "odd": Part(("odd {}",), "{v} % 2 == 1", "is odd"),
        "positive": Part(("positive {}",), "{v} > 0", "is positive"),
        "negative": Part(("negative {}",), "{v} < 0", "is negative"),
        "greater": Part(("{} greater than {x}", "{} larger than {x}", "{} above {x}", "{} bigger than {x}", "{} over {x}"),
                        "{v} > {x}", "is greater than {x}"),
        "less": Part(("{} less than {x}", "{} smaller than {x}", "{} below {x}", "{} under {x}"), "{v} < {x}", "is less than {x}"),
        "divisible": Part(("{} divisible by {x}", "multiples of {x}"), "{v} % {x} == 0", "is divisible by {x}"),
    },
    TEXTS: {
        "longer": Part(("{} longer than {x} letters", "{} with more than {x} letters", "{} longer than {x} characters", "{} longer than {x}"),
                       "len({v}) > {x}", "is longer than {x} letters"),
        "shorter": Part(("{} shorter than {x} letters", "{} with fewer than {x} letters", "{} shorter than {x} characters", "{} shorter than {x}"),
                        "len({v}) < {x}", "is shorter than {x} letters"),
        "starting": Part(("{} that start with '{x}'", "{} starting with '{x}'", "{} that begin with '{x}'", "{} that start with {x}",
                          "{} starting with the letter {x}"), '{v}.startswith("{x}")', "starts with '{x}'"),
        "ending": Part(("{} that end with '{x}'", "{} ending with '{x}'", "{} ending in {x}", "{} that end in '{x}'"),
                       '{v}.endswith("{x}")', "ends with '{x}'"),
        "containing": Part(("{} that contain '{x}'", "{} containing '{x}'", "{} with the letter {x}", "{} that have a {x} in them"),
                           '"{x}" in {v}', "contains '{x}'"),
    },
}  # fmt: skip

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
        "upper": Part(("{} in upper case", "{} in uppercase", "{} in capitals", "{} in capital letters"), "{v}.upper()"),
        "lower": Part(("{} in lower case", "{} in lowercase", "{} in small letters"), "{v}.lower()"),
        "lengths": Part(("lengths of the {}",), "len({v})"),
        "reversed": Part(("reversed {}",), "{v}[::-1]"),
        "first": Part(("first letters of the {}", "first letter of the {}", "initials of the {}"), "{v}[0]"),
    },
}

FOLD: dict[str, Part] = {
    "list": Part(("the {}", "all {}", "a list of the {}", "only the {}"), "[{each}]"),
    "sorted": Part(("the sorted {}", "the {}, sorted", "the {} in order", "a sorted list of the {}"), "sorted({each})"),
    "sum": Part(("the sum of the {}", "the total of the {}", "the sum of all {}"), "sum({each})"),
    "count": Part(("the number of {}", "how many {} there are", "the count of {}"), "sum(1 {loop})"),
    "max": Part(("the largest of the {}", "the biggest of the {}", "the maximum of the {}"), "max({each})"),
    "min": Part(("the smallest of the {}", "the minimum of the {}"), "min({each})"),
    "unique": Part(("the set of the {}", "a set of the {}"), "{{{each}}}"),
    "joined": Part(("the {} joined by commas", "the {} joined with commas", "the {}, separated by commas"), '", ".join({each})'),
    "any": Part(("whether any {one} {is}", "if any {one} {is}", "true if any {one} {is}", "whether some {one} {is}"), "any({test} {loop})"),
    "all": Part(("whether all {} {are}", "if all {} {are}", "true if all {} {are}", "whether every {one} {is}"), "all({test} {loop})"),
}
_NAMES = {"list": "", "unique": "set", "joined": "join", "max": "largest", "min": "smallest"}
_PLURAL_VERB = (("is ", "are "), ("starts ", "start "), ("ends ", "end "), ("contains ", "contain "))


@dataclass(frozen=True)
class Spec:
    """One composition: the kind of items, what is kept and how it is changed ("" for not at all), and the fold."""

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

        def wording(part: Part) -> str:
            return draw.pick(part.english) if draw else part.english[0]

        if self.fold in ("any", "all"):
            singular = KEEP[self.kind][self.keep].singular.replace("{x}", str(self.keep_by))
            are = next(are + singular[len(verb) :] for verb, are in _PLURAL_VERB if singular.startswith(verb))
            nouns = self.kind + place
            said = wording(FOLD[self.fold]).replace("{one}", self.kind[:-1] + place).replace("{is}", singular)
            return said.replace("{are}", are).replace("{}", nouns)
        nouns = wording(KEEP[self.kind][self.keep]).replace("{x}", str(self.keep_by)) if self.keep else "{}"
        nouns = nouns.replace("{}", self.kind)
        if self.change:
            changed = wording(CHANGE[self.kind][self.change]).replace("{x}", str(self.change_by))
            nouns = changed.replace("{}", nouns)
        said = wording(FOLD[self.fold])
        if said.endswith("there are"):
            return said.replace("{} there are", f"{nouns} there are{place}")
        if place and not (said.endswith("{}") or self.fold == "joined" and "," not in said):
            return said.replace("{}", nouns + place)
        return said.replace("{}", nouns) + place if self.fold != "joined" else said.replace("{}", nouns + place)

    def body(self, argument: str, loop: bool = False) -> list[str]:
        """The lines of the function, without indentation of their own block."""
        item = ITEM[self.kind]
        test = KEEP[self.kind][self.keep].code.replace("{v}", item).replace("{x}", str(self.keep_by)) if self.keep else ""
        each = CHANGE[self.kind][self.change].code.replace("{x}", str(self.change_by)) if self.change else "{v}"
        each = each.replace("{v}", item)
        if loop and self.fold in LOOPED:
            return _loop(self.fold, item, argument, test, each)
        head = f"for {item} in {argument}"
        if self.fold in ("any", "all"):
            return [f"return {self.fold}({test} {head})"]
        clause = f"{head} if {test}" if test else head
        if self.fold == "count":
            return [f"return sum(1 {clause})"]
        if not test and each == item:
            return [_whole(self.fold, argument)]
        return ["return " + FOLD[self.fold].code.replace("{each}", f"{each} {clause}").replace("{{", "{").replace("}}", "}")]

    def code(self, name: str, argument: str, loop: bool = False, doc: bool = False) -> str:
        """The whole function."""
        lines = [f'"""Return {self.english(f" in {argument}")}."""'] if doc else []
        return "\n".join([f"def {name}({argument}):", *(f"    {line}" for line in [*lines, *self.body(argument, loop)])])

    def inputs(self) -> tuple[tuple[Any, ...], ...]:
        """Lists that tell one composition from another; lists of one item tell what `any` and `all` test."""
        return _INPUTS[self.kind]


_NUMBERS = (3, -4, 8, 0, 7, 12, -9, 6, 5, 10, 9, 3, 2, 14, 21, -30, 16, 1, 15, 11, 4, 13, 17, 18, 19, 20, 22)
_WORDS = tuple(  # every letter asked for begins one word and ends another
    "apple Bread corner dust echo fish Gate heart ice lamp moon nest open park rain sand tree banana crab music leaf song taxi ball team "
    "star gas a ox do abcdefghij heart stranger".split()
)  # fmt: skip


def _inputs(items: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    lists = [list(items), list(items[:5]), list(items[5:11]), [], *([item] for item in items)]
    return tuple((given,) for given in lists)


_INPUTS = {NUMBERS: _inputs(_NUMBERS), TEXTS: _inputs(_WORDS)}


def _whole(fold: str, argument: str) -> str:
    if fold == "unique":
        return f"return set({argument})"
    return f'return ", ".join({argument})' if fold == "joined" else f"return {fold}({argument})"


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
        first = "True" if fold == "any" else "False"
        return [head, f"    if {test}:", f"        return {first}", f"return {'False' if fold == 'any' else 'True'}"]
    start, act = {
        "list": ("[]", f"result.append({each})"),
        "sum": ("0", f"result += {each}"),
        "count": ("0", "result += 1"),
    }[fold]
    inner = [f"    if {test}:", f"        {act}"] if test else [f"    {act}"]
    return [f"result = {start}", head, *inner, "return result"]


def keep_by(draw: Draw, kind: str, keep: str) -> Any:
    """The number or letter of a condition."""
    if kind == NUMBERS:
        return draw.number(2, 9) if keep == "divisible" else draw.number(1, 20)
    return draw.number(2, 8) if keep in ("longer", "shorter") else draw.pick("abcdefghilmnoprst")


def spec(draw: Draw, kind: str = "", loops: bool = False, with_keep: bool = False) -> Spec:
    """A composition on its side. `loops`: of a fold that can be written as a loop; `with_keep`: with a condition."""
    return draw.one_of(COMPOSITIONS, lambda: _make(draw, kind, loops, with_keep), lambda made: made.composition)


def _make(draw: Draw, kind: str, loops: bool, with_keep: bool) -> Spec:
    kind = kind or (NUMBERS if draw.chance(0.6) else TEXTS)
    folds = ["list", "list", "list", "count", "any", "all"]
    folds += [] if loops else ["sorted", "unique"]
    folds += ["sum", "sum"] if kind == NUMBERS else []
    folds += [] if loops else (["max", "min"] if kind == NUMBERS else ["joined"])
    fold = draw.pick(folds)
    keep = draw.pick(tuple(KEEP[kind])) if with_keep or fold in ("any", "all", "count") or draw.chance(0.7) else ""
    change = ""
    if fold not in ("any", "all", "count") and draw.chance(0.5):
        change = draw.pick(tuple(CHANGE[kind]))
    if fold in ("sum", "max", "min") and change in ("plus", "times"):
        change = "squares"  # "the sum of the numbers plus 3" could mean either
    if fold == "joined" and change == "lengths":
        change = "upper"  # numbers cannot be joined
    if not keep and not change and fold in ("list", "unique"):
        change = draw.pick(tuple(CHANGE[kind]))
    change_by = draw.number(2, 10) if change in ("plus", "times") else None
    return Spec(kind, keep, keep_by(draw, kind, keep) if keep else None, change, change_by, fold)
