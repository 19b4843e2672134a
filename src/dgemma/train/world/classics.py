"""Families of well-known small functions: written on request, explained, and known by their names alone."""

from __future__ import annotations

from . import names
from .code_write import EXPLAIN
from .draw import PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .known import CLASSICS
from .words import imperative


@family("classic", weight=4, holdouts=(WORDS, PARAPHRASES))
def classic(draw: Draw) -> Example:
    """Written from what it does, or from its name alone."""
    made = draw.pick(CLASSICS)
    doc = draw.chance(0.15)
    name = made.name
    argued = f"{made.name}({made.arguments})"
    if draw.held != WORDS and draw.chance(0.2):
        said = draw.way(
            "Write a function {h}. | Write {n} in Python. | Write a function {n}. | Implement {n}. | "
            "Write {h}. | Define {h}. | {n} in Python | "
            "Write a Python function called {n}."
        )
    else:
        if draw.held == WORDS or draw.chance(0.25):
            name = names.identifier(draw)
            argued = f"{name}({made.arguments})"
            said = draw.way(
                "Write a function {n} that {d}. | Write a function {h} that {d}. | Write {h}, which {d}. | "
                "Write a function called {n} that {d}."
            )
        else:
            said = draw.way(
                "Write a function that {d}. | Write a Python function that {d}. | "
                "Write a function to {i}. | I need a function that {d}. | "
                "Write code to {i}. | Give me a function that {d}. | Python function to {i} | "
                "How do I {i} in Python? | {I}. | Write a function which {d}. | "
                "Create a function that {d}. | Write Python code that {d}. | Show me a function that {d}."
            )
    does = draw.pick(made.wordings)
    command = imperative(does)
    said = (
        said.replace("{d}", does)
        .replace("{I}", f"{command} in Python")
        .replace("{i}", command[0].lower() + command[1:])
    )
    said = draw.dress(said).replace("{h}", argued).replace("{n}", name)
    return ask(
        said + (draw.pick((" Add a docstring.", " With a docstring.")) if doc else ""),
        made.code(name, doc),
        made.check(name),
    )


@family("explain_classic", weight=1, holdouts=(WORDS, PARAPHRASES))
def explain_classic(draw: Draw) -> Example:
    """What a well-known function does, with its own name or another."""
    made = draw.pick(CLASSICS)
    if draw.held == WORDS or draw.chance(0.5):
        name = names.identifier(draw)
    else:
        name = made.name
    return ask(draw.below(draw.dress(draw.way(EXPLAIN)), made.code(name)), f"It {made.wordings[0]}.")
