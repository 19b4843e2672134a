"""Family of edits by instruction: a short document and one line of what to change, in the form that
`Model.edit` puts them.

The document is kept as its parts, so that the answer follows from the instruction. All else comes back as it
was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from . import names
from .draw import PARAPHRASES, TWO_STEPS, WORDS, Draw
from .example import Example, ask
from .families import family
from .words import COLORS, FRUITS, NOUNS, PLACES, THINGS, plural

Parts = tuple[tuple[str, str], ...]  # what each line is about, and what it says


@dataclass(frozen=True)
class Document:
    """Lines of `key` and `value`, written by a pattern each."""

    kind: str
    parts: Parts
    title: str = ""
    edited: tuple[str, ...] = ()  # keys of lines that a step has changed: the next step is about another line

    @property
    def text(self) -> str:
        if self.title:
            lines = [self.title]
        else:
            lines = []
        return "\n".join(
            [*lines, *(PATTERNS[self.kind].format(key=key, value=value) for key, value in self.parts)]
        )

    def with_parts(self, parts: Parts, key: str) -> Document:
        """The document after a step that changed the line of `key`."""
        return replace(self, parts=parts, edited=(*self.edited, key))

    def any_part(self, draw: Draw) -> tuple[str, str]:
        """The key and value of a line that no step has changed."""
        return draw.pick([part for part in self.parts if part[0] not in self.edited])


PATTERNS = {"config": "{key} = {value}", "list": "- {value} {key}", "card": "{key}: {value}"}


def _config(draw: Draw) -> Document:
    keys = draw.some(NOUNS, draw.number(2, 5))
    if draw.held == WORDS or draw.chance(0.4):
        keys[0] = names.word(draw)
    return Document("config", tuple((key, str(draw.number(1, 99))) for key in keys))


def _shopping(draw: Draw) -> Document:
    items = [plural(fruit) for fruit in draw.some(FRUITS, draw.number(2, 5))]
    title = draw.pick(("", "Shopping:", "To buy:"))
    return Document("list", tuple((item, str(draw.number(2, 20))) for item in items), title)


def _card(draw: Draw) -> Document:
    values = {
        "name": names.person(draw),
        "city": names.city(draw),
        "age": str(draw.number(18, 90)),
        "color": draw.pick(COLORS),
        "place": draw.pick(PLACES),
    }
    keys = draw.some(tuple(values), draw.number(2, 4))
    return Document("card", tuple((key, values[key]) for key in keys))


_MAKERS: tuple[Callable[[Draw], Document], ...] = (_config, _shopping, _card)
Step = Callable[[Draw, Document], tuple[str, Document]]


def _fresh(draw: Draw, key: str, old: str) -> str:
    """Another value of the same sort."""
    while True:
        if old.isdigit():
            value = str(draw.number(1, 99))
        elif key in ("name", "city"):
            if key == "name":
                value = names.person(draw)
            else:
                value = names.city(draw)
        else:
            value = draw.pick(COLORS if key == "color" else PLACES)
        if value != old:
            return value


def _set(draw: Draw, document: Document) -> tuple[str, Document]:
    key, old = document.any_part(draw)
    value = _fresh(draw, key, old)
    parts = tuple((name, value if name == key else before) for name, before in document.parts)
    if document.kind == "list":
        said = draw.way(
            "Make it {v} {k}. | Change the {k} to {v}. | I need {v} {k}. | Write {v} {k}. | "
            "It should be {v} {k}."
        )
    else:
        said = draw.way(
            "Set {k} to {v}. | Change {k} to {v}. | Change the {k} to {v}. | Set the {k} to {v}. | "
            "Make the {k} {v}. | The {k} should be {v}. | Update {k} to {v}. | Use {v} for the {k}."
        )
    return said.replace("{k}", key).replace("{v}", value), document.with_parts(parts, key)


def _remove(draw: Draw, document: Document) -> tuple[str, Document]:
    key, _ = document.any_part(draw)
    said = draw.way(
        "Remove {k}. | Delete the {k}. | Remove the {k}. | Delete the line with {k}. | "
        "Take out the {k}. | Drop the line of {k}."
    )
    return said.replace("{k}", key), replace(
        document, parts=tuple(part for part in document.parts if part[0] != key)
    )


def _add(draw: Draw, document: Document) -> tuple[str, Document]:
    taken = [key for key, _ in document.parts]
    value = str(draw.number(2, 20))
    if document.kind == "list":
        key = draw.pick([plural(fruit) for fruit in FRUITS + THINGS if plural(fruit) not in taken])
        said = draw.way("Add {v} {k}. | Add {v} {k} at the end. | Put {v} {k} on the list. | Also {v} {k}.")
    else:
        key = draw.pick([noun for noun in NOUNS if noun not in taken])
        said = draw.way(
            "Add {k} {s} {v}. | Add the line {k} {s} {v}. | Add {k} with the value {v}. | Append {k} {s} {v}."
        )
    sign = ":"
    if document.kind == "config":
        sign = "="
    said = said.replace(" {s}", " =" if sign == "=" else ":").replace("{k}", key).replace("{v}", value)
    return said, document.with_parts((*document.parts, (key, value)), key)


def _rename(draw: Draw, document: Document) -> tuple[str, Document]:
    """Another key, or another item of the list."""
    taken = [key for key, _ in document.parts]
    key, _ = document.any_part(draw)
    if document.kind == "list":
        new = draw.pick([plural(fruit) for fruit in FRUITS if plural(fruit) not in taken])
    else:
        new = (
            names.word(draw)
            if draw.held == WORDS or draw.chance(0.5)
            else draw.pick([noun for noun in NOUNS if noun not in taken])
        )
    said = draw.way(
        "Rename {k} to {n}. | Replace {k} with {n}. | Write {n} instead of {k}. | Change {k} into {n}."
    )
    parts = tuple((new if name == key else name, value) for name, value in document.parts)
    return said.replace("{k}", key).replace("{n}", new), document.with_parts(parts, new)


_STEPS: tuple[Step, ...] = (_set, _set, _remove, _add, _rename)
_PAIRS: tuple[tuple[Step, Step], ...] = ((_set, _add), (_set, _set), (_rename, _add), (_set, _rename))
_HELD_PAIRS: tuple[tuple[Step, Step], ...] = ((_add, _set), (_rename, _set))


@family("edit", weight=3, holdouts=(WORDS, PARAPHRASES))
def edit(draw: Draw) -> Example:
    document = draw.pick(_MAKERS)(draw)
    said, changed = draw.pick(_STEPS)(draw, document)
    return ask(draw.below(draw.dress(said), document.text), changed.text)


@family("two_edits", weight=1, holdouts=(WORDS, PARAPHRASES, TWO_STEPS))
def two_edits(draw: Draw) -> Example:
    document = draw.pick(_MAKERS)(draw)
    steps = draw.steps(_PAIRS, _HELD_PAIRS)
    first, changed = steps[0](draw, document)
    second, changed = steps[1](draw, changed)
    return ask(draw.below(draw.dress(draw.both(first, second)), document.text), changed.text)
