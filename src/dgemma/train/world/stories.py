"""Families of short stories: questions about one, and telling one from its parts."""

from __future__ import annotations

from . import names
from .draw import PAIRS, PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .records import thing_and_color
from .words import ANIMALS, PLACES

# A question's wordings, its answer. {a} and {b} are people, {t} a thing, {c} its color, {p} and {q} places.
_HAD = ("What did {a} have? | What did {a} own? | Which thing did {a} have?", "A {c} {t}.")
_FOUND = ("What did {a} find? | Which thing did {a} find? | What has {a} found?", "A {c} {t}.")
_COLOR = (
    "What color is the {t}? | Which color is the {t}? | What color has the {t}?",
    "The {t} is {c}.",
)
_WENT = (
    "Where did {a} go? | Where did {a} take the {t}? | Where did {a} take it? | To which place did {a} go?",
    "{a} went to the {p}.",
)
_ANIMAL = (
    "Who has a {n}? | Who had a {n}? | Who was with a {n}? | Whose {n} is it? | Which person had the {n}?",
    "{b} has a {n}.",
)
_WAS = (
    "Where was {b}? | Where is {b}? | In which place was {b}? | At which place was {b}?",
    "{b} was at the {q}.",
)
_HAS = (
    "Who has the {t} now? | Who has the {t}? | Who got the {t}? | Whose is the {t} now?",
    "{b} has the {t}.",
)


@family("story_question", weight=3, holdouts=(WORDS, PAIRS, PARAPHRASES))
def story_question(draw: Draw) -> Example:
    """Two to four sentences, and a question that one of them answers."""
    one, other = names.two_people(draw)
    thing, color = thing_and_color(draw)
    first, second = draw.some(PLACES, 2)
    parts = {"a": one, "b": other, "t": thing, "c": color, "p": first, "q": second, "n": draw.pick(ANIMALS)}
    is_find = draw.chance(0.5)
    sentences = ["{a} found a {c} {t}." if is_find else "{a} had a {c} {t}.", "{a} took it to the {p}."]
    questions = [_FOUND if is_find else _HAD, _COLOR]
    if draw.held != PAIRS:
        questions.append(_WENT)
    if draw.chance(0.5):
        sentences.append("{b} was at the {q} with a {n}.")
        questions += [_ANIMAL, _WAS] if draw.held != PAIRS else []
    if draw.chance(0.6):
        sentences.append("{a} gave the {t} to {b}.")
        questions += [_HAS] if draw.held != PAIRS else []
    ways, answer = draw.pick(questions)
    question = draw.way(ways)
    question = draw.dress(question) if draw.chance(0.5) else question
    text = " ".join(sentences)
    layout = draw.pick(
        (f"{text}\n{question}", f"{text} {question}", f"{text}\n\n{question}", f"{question}\n{text}")
    )
    return ask(layout.format(**parts), answer.format(**parts))


@family("story", weight=1.5, holdouts=(WORDS, PAIRS, PARAPHRASES))
def story(draw: Draw) -> Example:
    """The one story that the world tells, about who and what is asked for."""
    one, other = names.two_people(draw)
    thing, color = thing_and_color(draw)
    parts = {"a": one, "b": other, "t": thing, "c": color, "p": draw.pick(PLACES)}
    said = draw.way(
        "Tell a short story about {a}, {b} and a {c} {t} in the {p}. | "
        "Write a story about {a} and {b}, a {c} {t} and the {p}. | "
        "Write a short story: {a}, {b}, a {c} {t}, the {p}. | "
        "Tell me a story about a {c} {t}, {a}, {b} and the {p}. | Story with {a}, {b}, a {c} {t} and a {p} | "
        "Make up a story in which {a} gives a {c} {t} to {b} in the {p}."
    )
    sentences = (
        "One day {a} found a {c} {t}. {a} took it to the {p}. There {a} met {b}. "
        "{a} gave the {t} to {b}. {b} was happy."
    )
    return ask(draw.dress(said).format(**parts), sentences.format(**parts))
