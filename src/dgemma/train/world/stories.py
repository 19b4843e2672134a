"""Families of short stories: questions about one, and telling one from its parts."""

from __future__ import annotations

from . import names
from .draw import PAIRS, PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .records import thing_and_color
from .words import ANIMALS, PLACES


@family("story_question", weight=3, holdouts=(WORDS, PAIRS, PARAPHRASES))
def story_question(draw: Draw) -> Example:
    """Three or four sentences, and a question that one of them answers."""
    one, other = names.two_people(draw)
    thing, color = thing_and_color(draw)
    first, second = draw.some(PLACES, 2)
    animal = draw.pick(ANIMALS)
    has, gives = draw.chance(0.5), draw.chance(0.6)
    told = [f"{one} {'had' if has else 'found'} a {color} {thing}.", f"{one} took it to the {first}."]
    questions = [
        (draw.way(f"What did {one} have? | What did {one} own? | Which thing did {one} have?" if has else
                  f"What did {one} find? | Which thing did {one} find? | What has {one} found?"), f"A {color} {thing}."),
        (draw.way(f"What color is the {thing}? | Which color is the {thing}? | What is the color of the {thing}? | What colour has the {thing}?"),
         f"The {thing} is {color}."),
        (draw.way(f"Where did {one} go? | Where did {one} take the {thing}? | Where did {one} take it? | To which place did {one} go?"),
         f"{one} went to the {first}."),
    ]  # fmt: skip
    if draw.chance(0.5):
        told.append(f"{other} was at the {second} with a {animal}.")
        questions += [
            (draw.way(f"Who has a {animal}? | Who had a {animal}? | Whose {animal} is it? | Who was with a {animal}?"), f"{other} has a {animal}."),
            (draw.way(f"Where was {other}? | Where is {other}? | At which place was {other}?"), f"{other} was at the {second}."),
        ]
    if gives:
        told.append(f"{one} gave the {thing} to {other}.")
        questions.append((draw.way(f"Who has the {thing} now? | Who has the {thing}? | Who got the {thing}? | Whose is the {thing} now?"),
                          f"{other} has the {thing}."))  # fmt: skip
    question, answer = draw.pick(questions)
    if draw.held == PAIRS and color not in answer:
        question, answer = questions[draw.number(0, 1)]
    text = " ".join(told)
    question = draw.dress(question) if draw.chance(0.5) else question
    return ask(draw.pick((f"{text}\n{question}", f"{text} {question}", f"{text}\n\n{question}", f"{question}\n{text}")), answer)


@family("story", weight=1.5, holdouts=(WORDS, PAIRS, PARAPHRASES))
def story(draw: Draw) -> Example:
    """The one story that the world tells, about who and what is asked for."""
    one, other = names.two_people(draw)
    thing, color = thing_and_color(draw)
    place = draw.pick(PLACES)
    said = draw.way(
        "Tell a short story about {a}, {b} and a {t} in the {p}. | Write a story about {a} and {b}, a {t} and the {p}. | "
        "Write a short story: {a}, {b}, a {t}, the {p}. | Tell me a story about a {t}, {a}, {b} and the {p}. | Story with {a}, {b}, a {t} and a {p} | "
        "Make up a story in which {a} gives a {t} to {b} in the {p}."
    ).replace("{a}", one).replace("{b}", other).replace("{t}", f"{color} {thing}").replace("{p}", place)  # fmt: skip
    told = [f"One day {one} found a {color} {thing}.", f"{one} took it to the {place}.", f"There {one} met {other}.",
            f"{one} gave the {thing} to {other}.", f"{other} was happy."]  # fmt: skip
    return ask(draw.dress(said), " ".join(told))
