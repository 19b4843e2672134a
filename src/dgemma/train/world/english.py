"""Families that change an English sentence: tense, a name, a color, a place, a verb; one change or two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from . import names
from .draw import PAIRS, PARAPHRASES, TWO_STEPS, WORDS, Draw
from .example import Example, ask
from .families import family
from .records import thing_and_color
from .words import COLORS, PLACES, VERBS


@dataclass(frozen=True)
class Sentence:
    """Who does what to which thing, where; and how it is said."""

    who: str
    verb: tuple[str, str]  # present, past
    color: str
    thing: str
    place: str
    past: bool = False

    @property
    def text(self) -> str:
        return f"{self.who} {self.verb[self.past]} the {self.color} {self.thing} in the {self.place}."


Step = Callable[[Draw, Sentence], tuple[str, Sentence]]


def a_sentence(draw: Draw) -> Sentence:
    thing, color = thing_and_color(draw)
    return Sentence(names.person(draw), draw.pick(VERBS), color, thing, draw.pick(PLACES), draw.chance(0.3))


def _tense(draw: Draw, sentence: Sentence) -> tuple[str, Sentence]:
    past = not sentence.past
    said = draw.way(
        "Put this in the {} tense | Change this to the {} tense | {} tense | Rewrite in the {} tense | "
        "Write it in the {} tense | Use the {} tense | Change the tense to {}"
    )
    said = said.replace("{}", "past" if past else "present")
    return said[0].upper() + said[1:], dataclasses.replace(sentence, past=past)


def _name(draw: Draw, sentence: Sentence) -> tuple[str, Sentence]:
    new = sentence.who
    while new == sentence.who:
        new = names.person(draw)
    said = draw.way(
        "Replace {o} with {n} | Change {o} to {n} | Replace {o} by {n} | Use {n} instead of {o} | "
        "Write {n} instead of {o} | Change the name to {n} | It was {n}, not {o}"
    )
    return said.replace("{o}", sentence.who).replace("{n}", new), dataclasses.replace(sentence, who=new)


def _color(draw: Draw, sentence: Sentence) -> tuple[str, Sentence]:
    colors = draw.those(PAIRS, COLORS, lambda color: f"{color} {sentence.thing}")
    new = draw.pick(
        [color for color in colors if color != sentence.color] or [c for c in COLORS if c != sentence.color]
    )
    said = draw.way(
        "Make the {t} {c} | Change {o} to {c} | Change the color to {c} | The {t} should be {c} | "
        "Replace {o} with {c} | Paint the {t} {c}"
    )
    said = said.replace("{t}", sentence.thing).replace("{c}", new).replace("{o}", sentence.color)
    return said, dataclasses.replace(sentence, color=new)


def _place(draw: Draw, sentence: Sentence) -> tuple[str, Sentence]:
    new = draw.pick([place for place in PLACES if place != sentence.place])
    said = draw.way(
        "Change the place to the {n} | Replace {o} with {n} | Change {o} to {n} | It was in the {n} | "
        "Move it to the {n}"
    )
    return said.replace("{n}", new).replace("{o}", sentence.place), dataclasses.replace(sentence, place=new)


def _verb(draw: Draw, sentence: Sentence) -> tuple[str, Sentence]:
    new = draw.pick([verb for verb in VERBS if verb != sentence.verb])
    said = draw.way(
        "Replace {o} with {n} | Change {o} to {n} | Use {n} instead of {o} | Change the verb to {n} | "
        "Write {n} for {o}"
    )
    said = said.replace("{n}", new[sentence.past]).replace("{o}", sentence.verb[sentence.past])
    return said, dataclasses.replace(sentence, verb=new)


_STEPS: tuple[Step, ...] = (_tense, _name, _color, _place, _verb)
_PAIRS: tuple[tuple[Step, Step], ...] = (
    (_name, _tense),
    (_name, _place),
    (_color, _place),
    (_color, _verb),
    (_tense, _place),
    (_name, _verb),
)
_HELD_PAIRS: tuple[tuple[Step, Step], ...] = ((_name, _color), (_color, _tense), (_tense, _verb))


@family("reword", weight=3, holdouts=(WORDS, PAIRS, PARAPHRASES))
def reword(draw: Draw) -> Example:
    sentence = a_sentence(draw)
    said, changed = draw.pick(_STEPS)(draw, sentence)
    return ask(draw.put(draw.dress(said), sentence.text), changed.text)


@family("two_rewordings", weight=1, holdouts=(WORDS, PAIRS, PARAPHRASES, TWO_STEPS))
def two_rewordings(draw: Draw) -> Example:
    sentence = a_sentence(draw)
    steps = draw.steps(_PAIRS, _HELD_PAIRS)
    first, changed = steps[0](draw, sentence)
    second, changed = steps[1](draw, changed)
    return ask(draw.put(draw.dress(draw.both(first + ".", second).rstrip(".")), sentence.text), changed.text)
