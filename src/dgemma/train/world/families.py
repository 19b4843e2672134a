"""The register of families.

A name, a weight, the hold-outs that it can show, and the function that draws an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .draw import Draw
from .example import Example

Make = Callable[[Draw], Example]


@dataclass(frozen=True)
class Family:
    """`weight`: its share of what is drawn, relative to the others'. `holdouts`.

    The kinds that it can be asked to show.
    """

    name: str
    make: Make
    weight: float
    holdouts: tuple[str, ...]


FAMILIES: dict[str, Family] = {}


def family(name: str, weight: float, holdouts: tuple[str, ...]) -> Callable[[Make], Make]:
    """Register a function as the family `name`."""

    def register(make: Make) -> Make:
        FAMILIES[name] = Family(name, make, weight, holdouts)
        return make

    return register
