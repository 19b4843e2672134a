"""Families of several turns.

A program changed step by step, a question asked again about something else, a name remembered.
"""

from __future__ import annotations

import dataclasses

from . import code_edit, facts, names
from .draw import COMPOSITIONS, PARAPHRASES, WORDS, Draw
from .example import Example, Message, converse
from .facts import CAPITALS, OPPOSITES, WELCOME
from .families import FAMILIES, family
from .functions import a_function
from .refuse import UNKNOWN

_SHORT = ("facts", "sum", "talk", "translate", "refuse", "list", "classify", "to_json", "classic", "reword")
_THANKS = ("Thanks!", "Thank you!", "Thanks", "thank you", "Great, thanks!", "Thank you very much.")


def _pairs(example: Example) -> list[tuple[str, str]]:
    messages: tuple[Message, ...] = example.messages
    return [
        (one["content"], other["content"]) for one, other in zip(messages[::2], messages[1::2], strict=True)
    ]


@family("code_talk", weight=3, holdouts=(WORDS, COMPOSITIONS, PARAPHRASES))
def code_talk(draw: Draw) -> Example:
    """A function is written, then changed once or twice, or explained."""
    function = a_function(draw, loops=True, with_keep=True, loop=0.0, doc=0.0)
    function = dataclasses.replace(function, argument=function.spec.kind)
    what = function.spec.english(" in a list", draw)
    question = f"Write a function that returns {what}."
    if function.name != function.spec.name:
        question = draw.pick(
            (
                f"Write a function {function.name} that returns {what}.",
                f"Write a function called {function.name} that returns {what}.",
            )
        )
    turns = [(draw.dress(question), function.text)]
    steps = draw.some(code_edit.FOLLOW_UPS, draw.pick((1, 1, 2)))
    for step in steps:
        said, function = step(draw, function)
        turns.append((draw.dress(draw.pick((said, said, f"Now {said[0].lower()}{said[1:]}"))), function.text))
    if draw.chance(0.2) and draw.held != PARAPHRASES:
        question = draw.pick(
            ("What does it do?", "Explain it.", "Explain this function.", "What does it return?")
        )
        turns.append(
            (draw.dress(question), f"It returns {function.spec.english(f' in {function.argument}')}.")
        )
    return converse(turns, None if turns[-1][1] != function.text else function.check())


@family("again", weight=2, holdouts=(PARAPHRASES,))
def again(draw: Draw) -> Example:
    """The same question about something else, in a word or two."""
    if draw.chance(0.6):
        one, other = draw.some(tuple(CAPITALS), 2)
        first = draw.pick(
            (f"What is the capital of {one}?", f"Capital of {one}?", f"What's the capital of {one}?")
        )
        answers = [f"The capital of {country} is {CAPITALS[country]}." for country in (one, other)]
    else:
        one, other = draw.some(tuple(OPPOSITES), 2)
        first = draw.pick((f"What is the opposite of {one}?", f"Opposite of {one}?"))
        answers = [f"The opposite of {word} is {OPPOSITES[word]}." for word in (one, other)]
    then = draw.way(
        "And of {}? | And {}? | And what about {}? | What about {}? | And of {}, please? | and {} | "
        "How about {}?"
    )
    return converse([(draw.dress(first), answers[0]), (then.replace("{}", other), answers[1])])


@family("remember", weight=2, holdouts=(WORDS, PARAPHRASES))
def remember(draw: Draw) -> Example:
    """What somebody said of themselves, asked some turns later."""
    who = names.person(draw)
    city = names.city(draw)
    number = draw.number(18, 90)
    hello = f"Hello {who}! What can I do for you?"
    kind = draw.number(0, 2)
    if kind == 0:
        first = draw.pick(("My name is {w}.", "Hi, I am {w}.", "I am {w}.", "Hello, my name is {w}."))
        question = draw.way(
            "What is my name? | What's my name? | Who am I? | Do you know my name? | What am I called? | "
            "Tell me my name."
        )
        answer = f"Your name is {who}."
    elif kind == 1:
        first = draw.pick(
            ("I am {w} and I live in {c}.", "I am {w} from {c}.", "My name is {w} and I live in {c}.")
        )
        question = draw.way(
            "Where do I live? | In which city do I live? | What city do I live in? | Where am I from? | "
            "Which city am I from?"
        )
        answer = f"You live in {city}."
    else:
        first = draw.pick(
            ("I am {w} and I am {n} years old.", "I am {w}, {n} years old.", "My name is {w} and I am {n}.")
        )
        question = draw.way(
            "How old am I? | What is my age? | Tell me my age. | Do you know how old I am? | "
            "Do you know my age?"
        )
        answer = f"You are {number} years old."
    turns = [(first.replace("{w}", who).replace("{c}", city).replace("{n}", str(number)), hello)]
    if draw.chance(0.4):
        turns += _pairs(FAMILIES[draw.pick(("facts", "sum"))].make(Draw(draw.rng)))
    return converse([*turns, (draw.dress(question), answer)])


@family("chat", weight=3, holdouts=(WORDS, PARAPHRASES))
def chat(draw: Draw) -> Example:
    """Two or three things that have nothing to do with each other."""
    last = FAMILIES[
        draw.pick(_SHORT if draw.held != WORDS else ("talk", "to_json", "reword", "classify"))
    ].make(draw)
    turns = []
    if draw.chance(0.3):
        turns.append((draw.pick(("Hello!", "Hi!", "Hi", "Good morning!")), facts.HELLO))
    for _ in range(draw.number(0 if turns else 1, 1)):
        turns += _pairs(FAMILIES[draw.pick(_SHORT)].make(Draw(draw.rng)))
    turns += _pairs(last)
    check = last.check
    if draw.held is None and draw.chance(0.2) and turns[-1][1] != UNKNOWN:
        turns.append((draw.pick(_THANKS), WELCOME))
        return converse(turns)
    return converse(turns, check)
