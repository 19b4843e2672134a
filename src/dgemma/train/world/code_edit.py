"""Families that change code: rename, another condition, loop or one line, one step at a time or two at once.

A step takes a function and gives the instruction and the changed function. Because a function is kept as its
parts, the answer of any two steps follows from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from . import compositions, names
from .compositions import KEEP
from .draw import COMPOSITIONS, PARAPHRASES, TWO_STEPS, WORDS, Draw
from .example import Example, ask
from .families import family
from .functions import Function, a_function

Step = Callable[[Draw, Function], tuple[str, Function]]


def _new_name(draw: Draw, function: Function) -> tuple[str, Function]:
    new = names.identifier(draw)
    said = draw.way(
        "Rename the function to {new}. | Rename {old} to {new}. | Call this function {new}. | "
        "Change the name to {new}. | Rename this function to {new}. | Name the function {new}. | "
        "The function should be called {new}. | Change the function name to {new}. | "
        "Use {new} as the name of the function."
    )
    return said.replace("{new}", new).replace("{old}", function.name), dataclasses.replace(function, name=new)


def _new_argument(draw: Draw, function: Function) -> tuple[str, Function]:
    new = function.argument
    while new == function.argument:
        new = names.argument(draw, function.spec.kind)
    said = draw.way(
        "Rename {old} to {new}. | Rename the argument to {new}. | Rename {old} to {new}. | "
        "Call the argument {new}. | Rename the parameter {old} to {new}. | Change {old} to {new}. | "
        "Rename the argument {old} to {new}. | The argument should be called {new}. | "
        "Use {new} instead of {old}."
    )
    return said.replace("{new}", new).replace("{old}", function.argument), dataclasses.replace(
        function, argument=new
    )


def _add_doc(draw: Draw, function: Function) -> tuple[str, Function]:
    said = draw.way("Add a docstring. | Give it a docstring. | Document it. | Write a docstring.")
    return said, dataclasses.replace(function, doc=True)


def _remove_doc(draw: Draw, function: Function) -> tuple[str, Function]:
    said = draw.way(
        "Remove the docstring. | Delete the docstring. | Take out the docstring. | Drop the docstring."
    )
    return said, dataclasses.replace(function, doc=False)


def _use_loop(draw: Draw, function: Function) -> tuple[str, Function]:
    said = draw.way(
        "Write this with a loop. | Turn this into a for loop. | Use a for loop. | Use a loop instead. | "
        "Rewrite it with a loop. | Convert this to a loop."
    )
    return said, dataclasses.replace(function, loop=True)


def _use_one_line(draw: Draw, function: Function) -> tuple[str, Function]:
    said = draw.way(
        "Write this in one line. | Use one line. | Make it shorter. | Rewrite it without a loop. | "
        "Use a comprehension. | Turn the loop into one line. | Simplify this."
    )
    return said, dataclasses.replace(function, loop=False)


def _new_condition(draw: Draw, function: Function) -> tuple[str, Function]:
    spec = function.spec
    new = compositions.another_keep(draw, spec)
    keep = KEEP[spec.kind][new.keep]
    if spec.fold in ("any", "all"):
        said = draw.way(
            "Check if it {is}. | Test whether each {one} {is}. | Change the condition to: {one} {is}. | "
            "It should check if a {one} {is}."
        )
        said = said.replace("{one}", spec.kind[:-1]).replace("{is}", keep.singular)
    else:
        said = draw.way(
            "Use only {}. | Change it to take only {}. | Make this use only {}. | Take only {}. | "
            "Change the condition to {}. | It should use {} instead."
        )
        said = said.replace("{}", draw.pick(keep.english).replace("{}", spec.kind))
    return said.replace("{x}", str(new.keep_by)), dataclasses.replace(function, spec=new)


@family("rename", weight=3, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def rename(draw: Draw) -> Example:
    """A new name for a list function or its argument."""
    function = a_function(draw)
    said, changed = draw.pick((_new_name, _new_argument))(draw, function)
    return ask(draw.below(draw.dress(said), function.text), changed.text)


@family("change", weight=2, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def change(draw: Draw) -> Example:
    """Another condition."""
    function = a_function(draw, with_keep=True)
    said, changed = _new_condition(draw, function)
    return ask(draw.below(draw.dress(said), function.text), changed.text)


@family("restyle", weight=2, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def restyle(draw: Draw) -> Example:
    """From one line to a loop, and back."""
    function = a_function(draw, loops=True)
    function = dataclasses.replace(function, loop=draw.chance(0.5))
    step = _use_loop
    if function.loop:
        step = _use_one_line
    said, changed = step(draw, function)
    return ask(draw.below(draw.dress(said), function.text), changed.text)


_PAIRS: tuple[tuple[Step, Step], ...] = (
    (_new_name, _add_doc),
    (_new_name, _new_argument),
    (_new_name, _use_loop),
    (_new_argument, _add_doc),
    (_new_condition, _add_doc),
    (_new_condition, _use_loop),
    (_new_name, _remove_doc),
    (_new_argument, _use_one_line),
)
_HELD_PAIRS: tuple[tuple[Step, Step], ...] = (
    (_new_name, _new_condition),
    (_use_loop, _new_argument),
    (_use_loop, _add_doc),
)


@family("two_code_edits", weight=1.5, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES, TWO_STEPS))
def two_code_edits(draw: Draw) -> Example:
    """Two steps in one request."""
    steps = draw.steps(_PAIRS, _HELD_PAIRS)
    function = a_function(
        draw, loops=_use_loop in steps or _use_one_line in steps, with_keep=_new_condition in steps
    )
    function = dataclasses.replace(
        function,
        doc=_remove_doc in steps or (function.doc and _add_doc not in steps),
        loop=_use_one_line in steps or (function.loop and _use_loop not in steps),
    )
    first, changed = steps[0](draw, function)
    second, changed = steps[1](draw, changed)
    return ask(draw.below(draw.dress(draw.both(first, second)), function.text), changed.text)


FOLLOW_UPS: tuple[Step, ...] = (_new_name, _new_argument, _add_doc, _use_loop, _new_condition)

_SNIPPETS = (
    "{a} = {m}\n{b} = {a} * {n}\nprint({b})",
    "{a} = {m}\n{b} = {a} + {n}\nprint({a}, {b})",
    "def {f}({a}, {b}):\n    return {a} + {b}",
    "def {f}({a}, {b}):\n    return {a} * {b}",
    "def {f}({a}):\n    {b} = {a} * {n}\n    return {b}",
    "def {f}({a}):\n    if {a} > {n}:\n        return {a}\n    return {n}",
    "{a} = 0\nfor {b} in range({n}):\n    {a} += {b}\nprint({a})",
    "{a} = [{m}, {n}]\nfor {b} in {a}:\n    print({b})",
    "{a} = {m}\nif {a} > {n}:\n    {b} = {a}\nelse:\n    {b} = {n}",
    "{a} = {m}\nwhile {a} > 0:\n    {a} -= {n}\nprint({a})",
    "{a} = input()\n{b} = len({a})\nprint({b})",
    "for {a} in range({n}):\n    print({a})",
    "{a} = {m}\nprint({a})",
    "def {f}({a}):\n    for {b} in {a}:\n        print({b})",
    "def {f}({a}):\n    return {a} * {n}\n\n\nprint({f}({m}))",
    "def {f}({a}, {b}):\n    return {a} - {b}\n\n\n{c} = {f}({m}, {n})\nprint({c})",
    "def {f}({a}):\n    return [{b} + {n} for {b} in {a}]\n\n\nprint({f}([{m}, {n}]))",
    "def {f}({a}):\n    return {a} + {n}\n\n\ndef {g}({b}):\n    return {f}({b}) * {m}",
    "def {f}({a}):\n    print({a})\n\n\nfor {b} in range({n}):\n    {f}({b})",
)


@family("rename_variable", weight=1.5, holdouts=(WORDS, PARAPHRASES))
def rename_variable(draw: Draw) -> Example:
    """A new name for a variable or function of a few lines of code."""
    snippet = draw.pick(_SNIPPETS)
    places = [place for place in "abcfg" if "{" + place + "}" in snippet]
    taken: list[str] = []
    for _ in range(len(places) + 1):
        while (name := names.variable(draw)) in taken:
            pass
        taken.append(name)
    old = dict(zip(places, taken, strict=False)) | {
        "m": str(draw.number(1, 30)),
        "n": str(draw.number(1, 30)),
    }
    place = draw.pick(places)
    said = draw.way(
        "Rename {old} to {new}. | Rename {old} to {new} in this code | "
        "Rename the variable {old} to {new}. | Rename {old} to {new} | Change {old} to {new}. | "
        "Replace {old} with {new}. | Use {new} instead of {old}. | Call {old} {new} instead. | "
        "Rename `{old}` to `{new}`. | In this code, rename {old} to {new}."
    )
    if place in "fg":
        said = said.replace("variable", "function")
    said = draw.dress(said).replace("{old}", old[place]).replace("{new}", taken[-1])
    return ask(draw.below(said, snippet.format(**old)), snippet.format(**(old | {place: taken[-1]})))
