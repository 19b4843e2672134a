"""Random choices for one example, each on the right side of the hold-outs.

A thing is held out when a checksum of its kind and its text says so (one in eight); nothing is stored. The
train side never shows such a thing, the test side of a kind shows nothing else of that kind, and all other
kinds as the train side does.

Trap: a draw is repeated until it falls on its side, so `make` must be able to give both.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

WORDS = "words"  # open names, cities, made words and identifiers
COMPOSITIONS = "compositions"  # keep, change and fold of a list function
PAIRS = "pairs"  # an adjective and its noun
PARAPHRASES = "paraphrases"  # one wording of each instruction
KEYS = "keys"  # one set of JSON keys
TWO_STEPS = "two_steps"  # edits that ask for two changes at once
HOLDOUTS = (WORDS, COMPOSITIONS, PAIRS, PARAPHRASES, KEYS, TWO_STEPS)

# What a polite word can be put before: "Can you convert ...?"
IMPERATIVES = frozenset(
    (
        "Add Arrange Calculate Call Change Classify Code Complete Compute Convert Correct Count "
        "Create Debug Define Delete Describe Document Drop Explain Extract Fill Find Finish Fix Get "
        "Give Implement Load Look Make Multiply Name Number Open Order Paint Put Remove Rename Repair "
        "Replace Return Reverse Rewrite Say Search Send Set Show Simplify Sort Start Subtract Take "
        "Tell Translate Turn Update Use Write "
    ).split()
)

ONE_IN = 8
MOST_TRIES = 2000


def is_held_out(kind: str, thing: Any) -> bool:
    """Whether a thing belongs to the test side of its kind of hold-out."""
    return zlib.crc32(f"{kind}:{thing}".encode()) % ONE_IN == 0


class Draw:
    """The choices of one example. `held` is the kind of hold-out to show; `shown` whether it has been."""

    def __init__(self, rng: random.Random, held: str | None = None):
        self.rng = rng
        self.held = held
        self.shown = False

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.random() * len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Different options, in random order."""
        return self.rng.sample(options, count)

    def one_of(self, kind: str, make: Callable[[], T], mark: Callable[[T], str] = str) -> T:
        """What `make` gives, drawn again until it is on the side asked for of this kind of hold-out.

        `mark`: what is hashed.
        """
        wanted = self.held == kind
        for _ in range(MOST_TRIES):
            thing = make()
            if is_held_out(kind, mark(thing)) == wanted:
                self.shown |= wanted
                return thing
        raise ValueError(f"no thing of kind '{kind}' on this side")

    def those(self, kind: str, options: Sequence[T], mark: Callable[[T], str]) -> list[T]:
        """The options on the side asked for of this kind of hold-out.

        Where it has none, those of the train side.
        """
        held = [option for option in options if is_held_out(kind, mark(option))]
        if self.held == kind and held:
            self.shown = True
            return held
        return [option for option in options if option not in held]

    def way(self, ways: str) -> str:
        """One wording of an instruction. `ways` stand between " | "; the last one is held out."""
        *seen, held = ways.split(" | ")
        if self.held == PARAPHRASES:
            self.shown = True
            return held
        return self.pick(seen)

    def steps(self, seen: Sequence[T], held: Sequence[T]) -> T:
        """Two changes that one edit asks for at once, from the pairs trained on or from those held out."""
        if self.held == TWO_STEPS:
            self.shown = True
            return self.pick(held)
        return self.pick(seen)

    def both(self, first: str, second: str) -> str:
        """One request for two changes."""
        plain = first.rstrip(".")
        then = self._plain_start(second)
        return self.pick(
            (f"{plain} and {then}", f"{plain} and {then}", f"{first} {second}", f"{plain}, then {then}")
        )

    def dress(self, text: str) -> str:
        """An instruction or a question as people type it.

        With or without capital, full stop or a polite word.
        """
        how = self.rng.random()
        if how > 0.6:
            return text
        if how < 0.12:
            text = self._plain_start(text)
        elif how < 0.3:
            text = text.rstrip(".?!")
        elif how < 0.42:
            text = self._plain_start(text).rstrip(".?!")
        elif text.split(" ", 1)[0] in IMPERATIVES and not text.endswith("?"):
            text = self._polite(text)
        return text

    def _plain_start(self, text: str) -> str:
        """A small first letter, where the first word is not a name or a sign."""
        if text[:1].isupper() and not text[:2].isupper():
            return text[0].lower() + text[1:]
        return text

    def _polite(self, text: str) -> str:
        plain = self._plain_start(text).rstrip(".")
        end = text[len(text.rstrip(".")) :]
        return self.pick(
            (
                f"Please {plain}{end}",
                f"please {plain}",
                f"{text.rstrip('.')}, please{end}",
                f"Can you {plain}?",
            )
        )

    def put(self, instruction: str, text: str) -> str:
        """An instruction and the text that it is about, as people set them.

        On one line, or the text below.
        """
        if instruction.endswith(("?", ".")):
            return f"{instruction}{self.pick((' ', chr(10), chr(10)))}{text}"
        return f"{instruction}{self.pick((': ', ': ', ':' + chr(10), chr(10)))}{text}"

    def below(self, instruction: str, text: str) -> str:
        """An instruction with a text below it: how `edit` asks, and how people paste code."""
        colon = ""
        if not instruction.endswith((".", "?")) and self.chance(0.25):
            colon = ":"
        if text.startswith("def ") and self.chance(0.04):
            text = f"```python\n{text}\n```"
        return f"{instruction}{colon}\n{text}"
