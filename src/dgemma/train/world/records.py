"""Families about records: a person, an order or an event in words and as JSON, in both directions.

JSON is written without blanks, as answers of a given form are. The sets of keys are closed; one set is held
out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import names
from .checks import SameJson
from .draw import KEYS, PAIRS, PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .words import COLORS, JOBS, THINGS, plural, with_article

Record = dict[str, Any]


def written(value: Any) -> str:
    """JSON as the model writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def typed(draw: Draw, value: Any) -> str:
    """JSON as people write it."""
    if draw.chance(0.5):
        return written(value)
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Kind:
    """A kind of record: how one is drawn, and the sentences that say it, each with the keys that it names."""

    make: Callable[[Draw], Record]
    sentences: tuple[tuple[tuple[str, ...], str], ...]
    held: tuple[str, ...]  # the set of keys that the train side never asks for


def _person(draw: Draw) -> Record:
    job = draw.pick(JOBS)
    return {"name": names.person(draw), "age": draw.number(18, 90), "city": names.city(draw), "job": job}


def thing_and_color(draw: Draw) -> tuple[str, str]:
    """An adjective and a noun, on the side of the pairs."""
    made = draw.one_of(PAIRS, lambda: f"{draw.pick(COLORS)} {draw.pick(THINGS)}")
    color, thing = made.split()
    return thing, color


def _order(draw: Draw) -> Record:
    thing, color = thing_and_color(draw)
    return {
        "name": names.person(draw),
        "item": thing,
        "color": color,
        "count": draw.number(2, 60),
        "city": names.city(draw),
    }


def _event(draw: Draw) -> Record:
    title = draw.pick(("meeting", "party", "concert", "lunch", "dinner", "match", "lesson"))
    day = draw.pick(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"))
    return {"title": title, "day": day, "hour": draw.number(1, 12), "city": names.city(draw)}


_ALL = ("name", "age", "city", "job")
_ORDER = ("name", "item", "color", "count", "city")
_EVENT = ("title", "day", "hour", "city")
KINDS = {
    "person": Kind(
        _person,
        (
            (_ALL, "{name} is {age} years old, lives in {city} and works as {a_job}."),
            (_ALL, "My name is {name}. I am {a_job} from {city} and I am {age}."),
            (_ALL, "{name}, {age}, {job}, {city}"),
            (_ALL, "Meet {name} from {city}, {a_job} of {age}."),
            (_ALL, "In {city} lives {a_job} called {name}, aged {age}."),
            (("name", "age", "city"), "{name} is {age} years old and lives in {city}."),
            (("name", "age", "city"), "{name} is {age} and lives in {city}."),
            (("name", "age", "city"), "I am {name}, {age} years old, from {city}."),
            (("name", "age", "city"), "{name} ({age}) comes from {city}."),
            (("name", "job", "city"), "{name} works as {a_job} in {city}."),
            (("name", "job"), "{name} is {a_job}."),
            (("name", "age"), "{name} is {age} years old."),
            (("name", "city"), "{name} lives in {city}."),
        ),
        ("age", "job"),
    ),
    "order": Kind(
        _order,
        (
            (_ORDER, "Please send {count} {color} {items} to {name} in {city}."),
            (_ORDER, "{name} from {city} ordered {count} {color} {items}."),
            (_ORDER, "Order for {name}, {city}: {count} {color} {items}."),
            (_ORDER, "{name} wants {count} {color} {items} in {city}."),
            (("name", "item", "color", "count"), "{name} buys {count} {color} {items}."),
            (("name", "item", "color", "count"), "{name} ordered {count} {color} {items}."),
            (("item", "color", "count"), "I want {count} {color} {items}."),
            (("item", "color", "count"), "{count} {color} {items}, please."),
        ),
        ("count", "item"),
    ),
    "event": Kind(
        _event,
        (
            (_EVENT, "The {title} is on {day} at {hour} in {city}."),
            (_EVENT, "There is a {title} in {city} on {day} at {hour}."),
            (_EVENT, "{title}, {day}, {hour}, {city}"),
            (("title", "day", "hour"), "The {title} is on {day} at {hour}."),
            (("title", "day", "city"), "On {day} there is a {title} in {city}."),
            (("title", "day"), "The {title} is on {day}."),
        ),
        ("hour", "city"),
    ),
}


def say(sentence: str, record: Mapping[str, Any]) -> str:
    values = dict(record)
    if "job" in values:
        values["a_job"] = with_article(values["job"])
    if "item" in values:
        values["items"] = plural(values["item"])
    return sentence.format(**values)


@family("to_json", weight=4, holdouts=(WORDS, PAIRS, KEYS, PARAPHRASES))
def to_json(draw: Draw) -> Example:
    """A sentence as a JSON object, of all that it says or of the keys asked for."""
    kind = KINDS["order" if draw.held == PAIRS else draw.pick(("person", "person", "order", "event"))]
    record = kind.make(draw)
    keys, sentence = draw.pick(kind.sentences)
    if draw.held == KEYS:
        keys, sentence = draw.pick([said for said in kind.sentences if set(kind.held) <= set(said[0])])
    text = say(sentence, record)
    if draw.held != KEYS and draw.chance(0.55):
        said = draw.way(
            "Turn this into JSON | Turn this into JSON | As JSON | JSON | Convert to JSON | "
            "Give me this as JSON | Write this as JSON | Convert this to JSON | "
            "Extract the data as JSON | Make JSON from this | JSON please | Put this in JSON | "
            "Return JSON for this sentence | Turn the following into a JSON object"
        )
        return ask(
            draw.put(draw.dress(said), text),
            written({key: record[key] for key in keys}),
            SameJson({key: record[key] for key in keys}),
        )
    if draw.held == KEYS:
        draw.shown = True
        keys = kind.held
    else:
        keys = _wanted_keys(draw, kind, keys)
    answer = {key: record[key] for key in keys}
    return ask(_with_keys(draw, keys, text), written(answer), SameJson(answer))


def _wanted_keys(draw: Draw, kind: Kind, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Some of the keys in random order; never the set held out."""
    while True:
        some = draw.some(keys, draw.number(1, len(keys)))
        if set(some) != set(kind.held):
            return tuple(some)


def _with_keys(draw: Draw, keys: tuple[str, ...], text: str) -> str:
    names_of_keys = ", ".join(keys)
    if len(keys) > 1:
        both = " and ".join((", ".join(keys[:-1]), keys[-1]))
    else:
        both = keys[0]
    said = draw.way(
        "Extract {and} as JSON | Extract {keys} as JSON | Give me JSON with {and} | JSON ({keys}) | "
        "JSON with {keys} | Find {and}, as JSON | Return {keys} as JSON | As JSON with the keys {keys} | "
        "Extract the {and} in JSON | Put {and} in a JSON object | I need {and} as JSON"
    )
    return draw.put(draw.dress(said.replace("{and}", both).replace("{keys}", names_of_keys)), text)


_SAID = {
    "person": (_ALL, ("name", "age", "city"), ("name", "job", "city"), ("name", "age"), ("name", "city")),
    "order": (("name", "item", "color", "count"), ("item", "color", "count")),
    "event": (_EVENT, ("title", "day", "hour"), ("title", "day")),
}


@family("from_json", weight=1.5, holdouts=(WORDS, PAIRS, PARAPHRASES))
def from_json(draw: Draw) -> Example:
    """A JSON object as a sentence: the first sentence of its keys."""
    name = "order"
    if draw.held != PAIRS:
        name = draw.pick(tuple(_SAID))
    record = KINDS[name].make(draw)
    keys = draw.pick(_SAID[name])
    sentence = next(said for named, said in KINDS[name].sentences if named == keys)
    if name == "order" and len(keys) == 3:
        sentence = "{count} {color} {items}."
    if name == "order" and len(keys) == 4:
        sentence = "{name} ordered {count} {color} {items}."
    said = draw.way(
        "Say this in a sentence | In words | Write a sentence | Turn this JSON into a sentence | "
        "Put this in words | Describe this in one sentence | Make a sentence from this JSON"
    )
    shown = {key: record[key] for key in draw.some(keys, len(keys))}
    return ask(draw.put(draw.dress(said), typed(draw, shown)), say(sentence, record))
