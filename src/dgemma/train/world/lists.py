"""Families of lists and numbers: sort, reverse, count, bullets; sums and small word problems."""

from __future__ import annotations

import json
from collections.abc import Callable

from . import names
from .checks import Check, Exact, SameJson
from .draw import PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .words import ANIMALS, COLORS, FRUITS, THINGS, plural

Answer = tuple[str, str, Check | None]  # the instruction, the answer, and a check other than of text


def _joined(items: list[str]) -> str:
    return ", ".join(items)


def _sorted(draw: Draw, items: list[str], down: bool = False) -> list[str]:
    return sorted(items, key=(lambda item: int(item)) if items[0].isdigit() else str.lower, reverse=down)


def _sort(draw: Draw, items: list[str]) -> Answer:
    said = draw.way(
        "Sort | Sort this list | Sort these | Put these in order | Order these | Sort the list | "
        "Arrange in order | Sort the following"
    )
    if items[0].isdigit() and draw.chance(0.3):
        said = draw.way(
            "Sort in descending order | Sort from large to small | Largest first | Sort these down | "
            "Sort from high to low"
        )
        return said, _joined(_sorted(draw, items, down=True)), None
    if not items[0].isdigit() and draw.chance(0.3):
        said = draw.way(
            "Sort alphabetically | Sort these words alphabetically | "
            "Put these words in alphabetical order | Alphabetical order"
        )
    return said, _joined(_sorted(draw, items)), None


def _reverse(draw: Draw, items: list[str]) -> Answer:
    said = draw.way(
        "Reverse | Reverse this list | Reverse the order | In reverse order | Backwards | "
        "Turn this list around"
    )
    return said, _joined(items[::-1]), None


def _count(draw: Draw, items: list[str]) -> Answer:
    said = draw.way(
        "How many | How many items | Count these | Count the items | How many are there | Count | "
        "The number of items"
    )
    return said, str(len(items)), None


def _bullets(draw: Draw, items: list[str]) -> Answer:
    said = draw.way(
        "As bullet points | Make bullet points | Bullets | As a bullet list | Write this as a list | "
        "Turn this into bullet points | Make a list of bullets"
    )
    return said, "\n".join(f"- {item}" for item in items), None


def _numbered(draw: Draw, items: list[str]) -> Answer:
    said = draw.way(
        "As a numbered list | Number these | Make a numbered list | Number the items | Write a numbered list"
    )
    return said, "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1)), None


def _json(draw: Draw, items: list[str]) -> Answer:
    said = draw.way(
        "As a JSON list | As JSON | Make a JSON array | JSON list | Turn this list into JSON | "
        "Convert this list to JSON"
    )
    value = [int(item) if item.isdigit() else item for item in items]
    return said, json.dumps(value, ensure_ascii=False, separators=(",", ":")), SameJson(value)


def _first(draw: Draw, items: list[str]) -> Answer:
    if draw.chance(0.5):
        return (
            draw.way("First | The first item | What is the first | Give me the first one | The first one of"),
            items[0],
            None,
        )
    return (
        draw.way("Last | The last item | What is the last | Give me the last one | The last one of"),
        items[-1],
        None,
    )


def _capitals(draw: Draw, items: list[str]) -> Answer:
    said = draw.way(
        "In capitals | Upper case | Write these in capitals | Make these uppercase | In capital letters | "
        "In upper case"
    )
    return said, _joined([item.upper() for item in items]), None


def _largest(draw: Draw, items: list[str]) -> Answer:
    if draw.chance(0.5):
        said = draw.way(
            "Largest | What is the largest | Which is the largest number | The biggest of | "
            "Find the maximum | The largest of these"
        )
        return said, max(items, key=int), None
    said = draw.way(
        "Smallest | What is the smallest | Which is the smallest number | The smallest of | "
        "Find the minimum | The lowest of these"
    )
    return said, min(items, key=int), None


_FOR_ALL: tuple[Callable[[Draw, list[str]], Answer], ...] = (
    _sort,
    _sort,
    _reverse,
    _reverse,
    _count,
    _bullets,
    _bullets,
    _numbered,
    _json,
    _first,
)


@family("list", weight=3, holdouts=(WORDS, PARAPHRASES))
def list_(draw: Draw) -> Example:
    """Something about a list of a few items."""
    if draw.held != WORDS and draw.chance(0.4):
        items = [str(draw.number(1, 99)) for _ in range(draw.number(3, 6))]
        step = draw.pick((*_FOR_ALL, _largest, _largest))
    elif draw.held == WORDS or draw.chance(0.3):
        items = list({names.person(draw): 0 for _ in range(draw.number(3, 5))})
        step = draw.pick(_FOR_ALL)
    else:
        items = draw.some(draw.pick((FRUITS, ANIMALS, THINGS, COLORS, FRUITS + ANIMALS)), draw.number(3, 6))
        step = draw.pick((*_FOR_ALL, _capitals))
    said, answer, check = step(draw, items)
    shown = _joined(items) if draw.chance(0.8) else " ".join(items) if draw.chance(0.5) else "\n".join(items)
    said = draw.dress(said)
    return ask(f"{said}:{chr(10) if chr(10) in shown else ' '}{shown}", answer, check or Exact(answer))


@family("sum", weight=3, holdouts=(PARAPHRASES,))
def sum_(draw: Draw) -> Example:
    """A sum, a difference or a small product; the answer is the number."""
    how = draw.number(0, 4)
    if how < 2:
        a = draw.number(1, 60)
        b = draw.number(1, 39)
        said = draw.way(
            "What is {a} + {b}? | {a} + {b} | {a} + {b} = | Add {a} and {b}. | What is {a} plus {b}? | "
            "Calculate {a} + {b}. | {a}+{b} | "
            "How much is {a} + {b}? | {a} plus {b} | Sum of {a} and {b} | {a}+{b}=? | Compute {a} + {b}."
        )
        answer = a + b
    elif how == 2:
        a = draw.number(2, 90)
        b = draw.number(1, a)
        said = draw.way(
            "What is {a} - {b}? | {a} - {b} | {a} - {b} = | Subtract {b} from {a}. | "
            "What is {a} minus {b}? | {a}-{b} | "
            "How much is {a} - {b}? | {a} minus {b} | Take {b} from {a}."
        )
        answer = a - b
    else:
        a = draw.number(2, 10)
        b = draw.number(2, 10)
        said = draw.way(
            "What is {a} * {b}? | {a} * {b} | {a} x {b} | {a} times {b} | What is {a} times {b}? | "
            "Multiply {a} by {b}. | {a}*{b} | "
            "How much is {a} times {b}? | {a} * {b} = | Multiply {a} and {b}. | What is {a} x {b}?"
        )
        answer = a * b
    said = said.replace("{a}", str(a)).replace("{b}", str(b))
    return ask(draw.dress(said) if said[0].isalpha() else said, str(answer))


@family("word_problem", weight=2, holdouts=(WORDS, PARAPHRASES))
def word_problem(draw: Draw) -> Example:
    """Somebody has some things, gets more or gives some away."""
    who = names.person(draw)
    things = plural(draw.pick(FRUITS + THINGS))
    a = draw.number(4, 30)
    if draw.chance(0.5):
        b = draw.number(2, 20)
        said = draw.way(
            "{w} has {a} {t} and gets {b} more. | {w} has {a} {t}. {w} buys {b} more. | "
            "{w} has {a} {t} and finds {b} {t}. | "
            "{w} had {a} {t} and bought {b} more. | There are {a} {t} in the bag of {w}, who adds {b}."
        )
        answer = a + b
    else:
        b = draw.number(1, a - 2)
        said = draw.way(
            "{w} has {a} {t} and loses {b}. | {w} has {a} {t}. {w} sells {b}. | "
            "{w} has {a} {t} and uses {b} of them. | "
            "{w} had {a} {t} and gave {b} away. | Of {a} {t}, {w} takes {b} away."
        )
        answer = a - b
    question = draw.pick(
        (
            "How many {t} does {w} have now?",
            "How many {t} does {w} have?",
            "How many {t} are there now?",
            "How many {t} are left?" if answer < a else "How many {t} are there?",
        )
    )
    text = (
        f"{said} {question}".replace("{w}", who)
        .replace("{a}", str(a))
        .replace("{b}", str(b))
        .replace("{t}", things)
    )
    return ask(text, f"{who} has {answer} {things}.")
