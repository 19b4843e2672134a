"""Family of decisions: a text, a typed question in the wording that `Model.decide` puts, and one label; and
the same as people ask it.

The wording comes from tasks/questions.py, so that it can never differ. Cue words decide: each label has its
own closed list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...tasks.questions import read_questions
from . import names
from .draw import PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .words import with_article

GOOD = tuple("great lovely excellent wonderful good friendly perfect nice beautiful clean happy best".split())
BAD = tuple("awful bad terrible slow dirty rude broken boring horrible sad ugly worst".split())
LIKES = ("love", "like", "enjoyed", "recommend")
HATES = ("hate", "dislike", "regret", "cannot stand")
TOPICS = {
    "food": tuple("soup pizza cake bread dinner cheese".split()),
    "travel": tuple("hotel train flight beach trip airport".split()),
    "sport": tuple("match team player goal race football".split()),
    "weather": tuple("rain storm wind snow sun cloud".split()),
    "music": tuple("song concert piano singer guitar band".split()),
}
_TOPIC_SAYS = (
    "The {n} was {adj}.",
    "{p} told me about the {n} in {c}.",
    "I saw the {n} yesterday.",
    "We talked about the {n}.",
    "{p} and I waited for the {n}.",
    "There was {a} in {c}.",
    "What {a}!",
    "The {n} is over.",
)


def _opinion(draw: Draw, good: bool) -> str:
    topic = draw.pick(tuple(TOPICS))
    noun = draw.pick(TOPICS[topic])
    who = names.person(draw)
    city = names.city(draw)
    mine, other = (GOOD, BAD) if good else (BAD, GOOD)
    first, second = draw.some(mine, 2)
    verb = draw.pick(LIKES if good else HATES)
    said = draw.pick(
        (
            f"The {noun} was {first}.",
            f"The {noun} was {first} and {second}.",
            f"What {with_article(f'{first} {noun}')}!",
            f"{who} said the {noun} was {first}.",
            f"I did not expect such {with_article(f'{first} {noun}')}.",
            f"The {noun} was not {draw.pick(other)}, it was {first}.",
            f"{with_article(f'{first} {noun}').capitalize()} in {city}.",
            f"I {verb} this {noun}.",
            f"I {verb} the {noun}. It is {first}.",
            f"This is the {first} {noun} of {who}.",
            f"{first.capitalize()} {noun}!",
            f"The {noun} in {city} is {first}.",
            f"I {verb} it.",
            f"It was {first}.",
            f"My {noun} is {first}.",
        )
    )
    return said


def _topical(draw: Draw, topic: str) -> str:
    noun = draw.pick(TOPICS[topic])
    said = draw.pick(_TOPIC_SAYS).replace("{n}", noun).replace("{a}", with_article(noun))
    said = said.replace("{p}", names.person(draw)).replace("{c}", names.city(draw))
    return said.replace("{adj}", draw.pick(GOOD + BAD))


def _put(draw: Draw, state: str, question: Mapping[str, Any], answer: str) -> Example:
    """The prompt of tasks/decide.py: state and question, apart by an empty line."""
    wording = read_questions({"q": question})["q"].text()
    return ask(f"{state}\n\n{wording}", answer)


def _mood(draw: Draw) -> Example:
    good = draw.chance(0.5)
    said = draw.way(
        "Is it positive? | What is the mood? | What is the sentiment? | Is this positive or negative? | "
        "How does it sound? | Which mood? | "
    )
    labels = draw.some(("positive", "negative"), 2)
    return _put(
        draw,
        _opinion(draw, good),
        {"type": "choice", "instructions": said, "criteria": labels},
        "positive" if good else "negative",
    )


def _topic(draw: Draw) -> Example:
    topics = draw.some(tuple(TOPICS), draw.number(2, 5))
    topic = draw.pick(topics)
    said = draw.way(
        "What is it about? | Which topic? | What is the topic? | Choose the topic. | "
        "What is this text about? | "
    )
    return _put(
        draw, _topical(draw, topic), {"type": "choice", "instructions": said, "criteria": topics}, topic
    )


def _yes_no(draw: Draw) -> Example:
    yes = draw.chance(0.5)
    if draw.chance(0.5):
        good = draw.chance(0.5)
        said = draw.way("Is this {}? | Is it {}? | Does it sound {}? | Is the text {}? | Is the mood {}?")
        label = "negative"
        if good == yes:
            label = "positive"
        return _put(
            draw,
            _opinion(draw, good),
            {"type": "noul", "instructions": said.replace("{}", label)},
            "yes" if yes else "no",
        )
    topic, other = draw.some(tuple(TOPICS), 2)
    said = draw.way(
        "Is it about {}? | Is this about {}? | Is the topic {}? | Does this concern {}? | "
        "Does the text speak about {}?"
    )
    return _put(
        draw,
        _topical(draw, topic),
        {"type": "noul", "instructions": said.replace("{}", topic if yes else other)},
        "yes" if yes else "no",
    )


def _score(draw: Draw) -> Example:
    """Two levels or three; the middle one is for a text without an opinion."""
    level = draw.pick((0, 2))
    said = draw.way("How good is it? | Rate it. | How positive is it? | Give a score. | What is the rating?")
    levels = draw.pick((("bad", "good"), ("negative", "positive"), ("not at all", "very")))
    return _put(
        draw,
        _opinion(draw, level > 0),
        {"type": "score", "instructions": said, "criteria": list(levels)},
        str(level // 2),
    )


def _number(draw: Draw) -> Example:
    number = draw.number(1, 99)
    said = draw.way("Is the number even or odd? | Even or odd? | Which is it? | What kind of number is it?")
    labels = draw.some(("even", "odd"), 2)
    return _put(
        draw,
        str(number),
        {"type": "choice", "instructions": said, "criteria": labels},
        "odd" if number % 2 else "even",
    )


_KINDS = (_mood, _mood, _topic, _topic, _yes_no, _yes_no, _score, _number)


@family("decide", weight=4, holdouts=(WORDS, PARAPHRASES))
def decide(draw: Draw) -> Example:
    return draw.pick(_KINDS)(draw)


@family("classify", weight=2, holdouts=(WORDS, PARAPHRASES))
def classify(draw: Draw) -> Example:
    """The same questions as people put them in a chat."""
    if draw.chance(0.65):
        good = draw.chance(0.5)
        said = draw.way(
            "Is this sentence positive or negative? | Is this positive or negative? | "
            "Positive or negative? | Is this review positive or negative? | "
            "What is the sentiment of this sentence? | Sentiment | Classify the sentiment | "
            "Is the following text positive or negative? | Tell me if this is positive or negative. | "
            "Is this comment positive or negative?"
        )
        return ask(_around(draw, draw.dress(said), _opinion(draw, good)), "positive" if good else "negative")
    topic = draw.pick(tuple(TOPICS))
    said = draw.way(
        "Is this about food, travel, sport, weather or music? | "
        "What is this about: food, travel, sport, weather or music? | "
        "Topic (food, travel, sport, weather, music) | "
        "Classify as food, travel, sport, weather or music | "
        "Which topic is it: food, travel, sport, weather or music?"
    )
    return ask(_around(draw, draw.dress(said), _topical(draw, topic)), topic)


def _around(draw: Draw, question: str, text: str) -> str:
    """The text behind the question, in quotes or not, or before it."""
    how = draw.rng.random()
    if how < 0.2:
        return f"{text}\n{question}"
    return draw.put(question, f'"{text}"' if how < 0.35 else text)
