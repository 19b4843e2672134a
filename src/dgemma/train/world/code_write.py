"""Families that write and read list functions: from a description, back to one, and their docstrings."""

from __future__ import annotations

from dataclasses import replace

from . import compositions, names
from .checks import Exact
from .compositions import LOOPED, Spec
from .draw import COMPOSITIONS, PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .functions import Function, a_function
from .words import imperative


def _place(draw: Draw, spec: Spec) -> str:
    """Where the items are, when no argument is named."""
    ways = ("", " in a list", " of a list", " from a list", " in the list", f" in a list of {spec.kind}")
    if not spec.english().endswith("commas"):
        return draw.pick(ways)
    return draw.pick((" in a list", " of a list"))


def _style(draw: Draw, spec: Spec, loop: bool, doc: bool) -> str:
    """The sentences that ask for a style."""
    said = ""
    if loop:
        said += draw.pick((" Use a loop.", " With a loop.", " Use a for loop.", " Write it with a loop."))
    elif spec.fold in LOOPED and draw.chance(0.15):
        said += draw.pick((" In one line.", " Use one line.", " Without a loop."))
    if doc:
        said += draw.pick((" Add a docstring.", " With a docstring.", " Include a docstring."))
    return said


@family("write", weight=6, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def write(draw: Draw) -> Example:
    """A function from its description; without a name it gets the canonical one."""
    spec = compositions.spec(draw)
    loop = spec.fold in LOOPED and draw.chance(0.3)
    doc = draw.chance(0.2)
    style = _style(draw, spec, loop, doc)
    named = draw.held == WORDS or draw.chance(0.45)
    if named:
        name = names.identifier(draw)
    else:
        name = spec.name
    argument: str = spec.kind
    if named and (draw.held == WORDS or draw.chance(0.6)):
        argument = names.argument(draw, spec.kind)
        prompt = _with_argument(draw, name, argument, spec, style)
    elif named:
        prompt = _with_name(draw, name, spec, style)
    else:
        prompt = _without_name(draw, spec, style)
    function = Function(spec, name, argument, loop, doc)
    contains = (*(("for ",) if loop else ()), *(('"""',) if doc else ()))
    return ask(prompt, function.text, function.check(contains=contains))


def _without_name(draw: Draw, spec: Spec, style: str) -> str:
    if draw.chance(0.35):
        return _by_deed(draw, spec, style)
    what = spec.english(_place(draw, spec), draw)
    if not style and draw.chance(0.15) and spec.fold not in ("any", "all"):
        question = draw.way(
            "How do I get {} in Python? | How can I find {} in Python? | How do you get {} with Python?"
        )
        return draw.dress(question.replace("{}", what))
    said = draw.way(
        "Write a function that returns {}. | Write a function that returns {}. | "
        "Write a Python function that returns {}. | "
        "Write a function to get {}. | I need a function that returns {}. | "
        "Give me a function that returns {}. | "
        "Write Python code that returns {}. | Write a function which returns {}. | "
        "Python function that returns {}. | "
        "Create a function that gives {}. | Make a function that returns {}. | Write code to find {}. | "
        "Define a function that returns {}. | Code a function that computes {}. | "
        "Write me a function returning {}."
    )
    return draw.dress(said.replace("{}", what) + style)


def _by_deed(draw: Draw, spec: Spec, style: str) -> str:
    """The same, with a verb for what the function does."""
    deed = spec.deed(_place(draw, spec), draw)
    said = draw.way(
        "Write a function that {}. | Write a function that {}. | Write a Python function that {}. | "
        "Write a function to {i}. | "
        "I need a function that {}. | Give me a function that {}. | Write Python code that {}. | "
        "Write a function which {}. | "
        "Python function to {i} | Create a function that {}. | {I} in Python. | How do I {i} in Python? | "
        "Write me a function that {}."
    )
    command = imperative(deed)
    said = said.replace("{}", deed).replace("{I}", command).replace("{i}", command[0].lower() + command[1:])
    if "?" not in said or not style:
        return draw.dress(said + style)
    return draw.dress(said) + style


def _with_name(draw: Draw, name: str, spec: Spec, style: str) -> str:
    what = spec.english(_place(draw, spec), draw)
    said = draw.way(
        "Write a function {name} that returns {}. | Write a function called {name} that returns {}. | "
        "Write a Python function named {name} that returns {}. | "
        "I need a function {name} that returns {}. | Define {name}, which returns {}. | "
        "Create a function called {name} which returns {}. | "
        "Make a function with the name {name} that gives {}."
    )
    return draw.dress(said.replace("{}", what).replace("{name}", name) + style)


def _with_argument(draw: Draw, name: str, argument: str, spec: Spec, style: str) -> str:
    what = spec.english(draw.pick(("", f" in {argument}", f" in {argument}", f" of {argument}")), draw)
    said = draw.way(
        "Write a function {head} that returns {}. | Write {head}, which returns {}. | "
        "Write `{head}`: it returns {}. | "
        "I need a function called {name}. It takes {argument} and returns {}. | "
        "Define {head} to return {}. | Write a function {name} that takes {argument} and returns {}. | "
        "Implement {head}: return {}."
    )
    said = said.replace("{}", what).replace("{head}", f"{name}({argument})")
    return draw.dress(said.replace("{name}", name).replace("{argument}", argument) + style)


@family("complete", weight=2, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def complete(draw: Draw) -> Example:
    """A function whose first lines are given."""
    function = a_function(draw, loop=0, doc=1)
    given = "\n".join(function.text.splitlines()[:2])
    said = draw.way(
        "Complete this function | Finish this function | Complete this code | Complete | Fill in the body | "
        "Finish this code | "
        "Write the rest of this function"
    )
    return ask(draw.below(draw.dress(f"{said}."), given), function.text, function.check())


EXPLAIN = (
    "What does this function do? | What does this code do? | Explain this function. | Explain this code. | "
    "Explain. | "
    "What does this return? | Describe this function. | Tell me what this code does. | "
    "Explain what this does. | "
    "What is this function for?"
)


@family("explain", weight=2, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def explain(draw: Draw) -> Example:
    """What a function returns, in one sentence."""
    function = a_function(draw, doc=0)
    answer = f"It returns {function.spec.english(f' in {function.argument}')}."
    return ask(draw.below(draw.dress(draw.way(EXPLAIN)), function.text), answer)


@family("docstring", weight=1.5, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def docstring(draw: Draw) -> Example:
    """The same function with a docstring."""
    function = a_function(draw, doc=0)
    said = draw.way(
        "Add a docstring. | Document this function. | Add a docstring to this function. | "
        "Document this code. | "
        "Write a docstring for this function. | Give this function a docstring. | "
        "This function needs a docstring."
    )
    return ask(draw.below(draw.dress(said), function.text), replace(function, doc=True).text)


@family("fix", weight=2, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def fix(draw: Draw) -> Example:
    """A function with one mistake, in its spelling or against its docstring: the function without it."""
    function = a_function(draw, with_keep=True, doc=1)
    said = draw.way(
        "Fix the bug. | Fix this code. | Fix this function. | There is a bug in this code. | "
        "Correct this function. | "
        "Find and fix the mistake. | Repair this code. | This code is wrong, fix it. | Debug this. | "
        "Correct the mistake in this code."
    )
    return ask(
        draw.below(draw.dress(said), _with_mistake(draw, function)), function.text, Exact(function.text)
    )


def _with_mistake(draw: Draw, function: Function) -> str:
    how = draw.number(0, 4)
    if how < 3:
        other = compositions.another_keep(draw, function.spec)
        head = function.text.split("\n")[:2]
        return "\n".join([*head, *replace(function, spec=other, doc=False).text.split("\n")[1:]])
    if how == 3:
        return function.text.replace("return ", draw.pick(("retrun ", "retun ", "Return ")))
    return function.text.replace("):", ")", 1)
