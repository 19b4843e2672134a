"""Families that write and read list functions: from a description, back to one, and their docstrings."""

from __future__ import annotations

from . import functions, names
from .checks import SameResults
from .draw import COMPOSITIONS, PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .functions import LOOPED, Spec


def same_results(spec: Spec, name: str, argument: str, answer: str, contains: tuple[str, ...] = ()) -> SameResults:
    return SameResults(spec.code(name, argument), name, spec.inputs(), contains=contains)


def _place(draw: Draw, spec: Spec) -> str:
    """Where the items are, when no argument is named."""
    ways = ("", " in a list", " of a list", " from a list", " in the list", f" in a list of {spec.kind}")
    return draw.pick(ways) if not spec.english().endswith("commas") else draw.pick((" in a list", " of a list"))


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
    spec = functions.spec(draw)
    loop = spec.fold in LOOPED and draw.chance(0.3)
    doc = draw.chance(0.2)
    style = _style(draw, spec, loop, doc)
    named = draw.held == WORDS or draw.chance(0.45)
    name = names.identifier(draw) if named else spec.name
    argument = spec.kind
    if named and (draw.held == WORDS or draw.chance(0.6)):
        argument = names.argument(draw, spec.kind)
        prompt = _with_argument(draw, name, argument, spec, style)
    elif named:
        prompt = _with_name(draw, name, spec, style)
    else:
        prompt = _without_name(draw, spec, style)
    answer = spec.code(name, argument, loop, doc)
    contains = ("for ",) if loop else ()
    return ask(prompt, answer, same_results(spec, name, argument, answer, (*contains, *(('"""',) if doc else ()))))


def _without_name(draw: Draw, spec: Spec, style: str) -> str:
    what = spec.english(_place(draw, spec), draw)
    if not style and draw.chance(0.15) and not spec.fold in ("any", "all"):
        question = draw.way("How do I get {} in Python?", "How can I find {} in Python?", "How do you get {} with Python?")
        return draw.dress(question.replace("{}", what))
    said = draw.way(
        "Write a function that returns {}.", "Write a function that returns {}.", "Write a Python function that returns {}.",
        "Write a function to get {}.", "I need a function that returns {}.", "Give me a function that returns {}.",
        "Write Python code that returns {}.", "Write a function which returns {}.", "Python function that returns {}.",
        "Create a function that gives {}.", "Make a function that returns {}.", "Write code to find {}.",
        "Define a function that returns {}.", "Code a function that computes {}.", "Write me a function returning {}.",
    )  # fmt: skip
    return draw.dress(said.replace("{}", what) + style)


def _with_name(draw: Draw, name: str, spec: Spec, style: str) -> str:
    what = spec.english(_place(draw, spec), draw)
    said = draw.way(
        "Write a function {name} that returns {}.", "Write a function called {name} that returns {}.",
        "Write a Python function named {name} that returns {}.", "I need a function {name} that returns {}.",
        "Define {name}, which returns {}.", "Create a function called {name} which returns {}.",
        "Make a function with the name {name} that gives {}.",
    )  # fmt: skip
    return draw.dress(said.replace("{}", what).replace("{name}", name) + style)


def _with_argument(draw: Draw, name: str, argument: str, spec: Spec, style: str) -> str:
    what = spec.english(draw.pick(("", f" in {argument}", f" in {argument}", f" of {argument}")), draw)
    said = draw.way(
        "Write a function {head} that returns {}.", "Write {head}, which returns {}.", "Write `{head}`: it returns {}.",
        "I need a function called {name}. It takes {argument} and returns {}.", "Define {head} to return {}.",
        "Write a function {name} that takes {argument} and returns {}.", "Implement {head}: return {}.",
    )  # fmt: skip
    said = said.replace("{}", what).replace("{head}", f"{name}({argument})")
    return draw.dress(said.replace("{name}", name).replace("{argument}", argument) + style)


@family("complete", weight=2, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def complete(draw: Draw) -> Example:
    """A function whose first lines are given."""
    spec = functions.spec(draw)
    name = names.identifier(draw) if draw.held == WORDS or draw.chance(0.3) else spec.name
    argument = names.argument(draw, spec.kind)
    answer = spec.code(name, argument, doc=True)
    given = "\n".join(answer.splitlines()[:2])
    said = draw.way("Complete this function", "Finish this function", "Complete this code", "Fill in the body", "Write the rest of this function")
    return ask(draw.below(draw.dress(f"{said}."), given), answer, same_results(spec, name, argument, answer))


@family("explain", weight=2, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def explain(draw: Draw) -> Example:
    """What a function returns, in one sentence."""
    spec = functions.spec(draw)
    name = names.identifier(draw) if draw.held == WORDS or draw.chance(0.5) else spec.name
    argument = names.argument(draw, spec.kind)
    code = spec.code(name, argument, loop=draw.chance(0.3))
    said = draw.way(
        "What does this function do?", "What does this code do?", "Explain this function.", "Explain this code.", "Explain.",
        "What does this return?", "Describe this function.", "Tell me what this code does.", "What is this function for?",
    )  # fmt: skip
    return ask(draw.below(draw.dress(said), code), f"It returns {spec.english(f' in {argument}')}.")


@family("docstring", weight=1.5, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def docstring(draw: Draw) -> Example:
    """The same function with a docstring."""
    spec = functions.spec(draw)
    name = names.identifier(draw) if draw.held == WORDS or draw.chance(0.5) else spec.name
    argument = names.argument(draw, spec.kind)
    loop = draw.chance(0.3)
    said = draw.way(
        "Add a docstring.", "Document this function.", "Add a docstring to this function.", "Write a docstring for this function.",
        "Give this function a docstring.", "This function needs a docstring.",
    )  # fmt: skip
    return ask(draw.below(draw.dress(said), spec.code(name, argument, loop)), spec.code(name, argument, loop, doc=True))
