"""Open words: people, cities and identifiers that the model has never seen and must copy.

Most are made of two or three syllables, so that a tokenizer trained on them needs as many tokens; some are
common names, so that natural prompts look familiar, some are real but rare. All of them are held out by
checksum.
"""

from __future__ import annotations

from .draw import WORDS, Draw
from .words import ARGUMENTS, NOUNS

# A start ends in a, i or o, and an end holds e or u: so a start and what follows never look like an end,
# and a made word has one token a syllable in a vocabulary that knows both lists.
STARTS = tuple(
    """
    ba bi bo da do fa fi ga ka ki ko la li lo ma mi mo na ni no pa pi ra ri ro sa so ta ti to va vi
    """.split()
)
ENDS = tuple(
    """
    bel ben dul den dur gen kel ker lem len ler lun mel men mer mur nel ner rel ren run sel sen tel ter tun
    vel ven
    """.split()
)

_COMMON_PEOPLE = tuple(
    """
    Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Tom Alice
    Bob Maria John
    """.split()
)
_RARE_PEOPLE = tuple(
    """
    Adam Amir Amy Andrea Arthur Bella Bruno Carl Carla Carlos Charlie Chris Cora Dan Daniel Diana Elena Ella
    Erik Eva Fatima Finn Frank Gina Hannah Hans Helen Hugo Iris Ivan James Jane Jonas Julia Kai Karim Kim
    Lara Laura Lena Lily Lisa Louis Lucas Lucy Luke Marco Mark Martin Mary Max Michael Nadia Nina Nora
    Oliver Omar Oscar Peter Petra Quinn Rita Robert Ruth Sara Sarah Sofia Sophie Stefan Susan Theo Thomas
    Tim Vera Victor Walter Wendy William Yara Yuki Zoe
    """.split()
)
_COMMON_CITIES = tuple(
    """
    Oslo Paris Rome Berlin Madrid Lisbon Vienna Prague Dublin London Athens Cairo Lima Tokyo Warsaw
    """.split()
)
_RARE_CITIES = tuple(
    """
    Amsterdam Barcelona Basel Bergen Bern Bogota Bonn Boston Bremen Bristol Brussels Budapest Chicago
    Cologne Dallas Delhi Denver Dresden Florence Geneva Genoa Hamburg Hanoi Helsinki Houston Istanbul Kyoto
    Leipzig Lyon Malaga Manila Miami Milan Moscow Munich Nairobi Naples Nice Osaka Oxford Porto Riga Seattle
    Seoul Seville Sydney Turin Toronto Venice Verona York Zurich
    """.split()
)


RARE = frozenset(_RARE_PEOPLE + _RARE_CITIES)


def made(draw: Draw) -> str:
    """A made word in small letters: two syllables, sometimes three."""
    middle = ""
    if draw.chance(0.2):
        middle = draw.pick(STARTS)
    return draw.pick(STARTS) + middle + draw.pick(ENDS)


def word(draw: Draw) -> str:
    """A made word on the right side."""
    return draw.one_of(WORDS, lambda: made(draw))


def person(draw: Draw) -> str:
    return draw.one_of(WORDS, lambda: _name(draw, _COMMON_PEOPLE, _RARE_PEOPLE))


def city(draw: Draw) -> str:
    return draw.one_of(WORDS, lambda: _name(draw, _COMMON_CITIES, _RARE_CITIES))


def _name(draw: Draw, common: tuple[str, ...], rare: tuple[str, ...]) -> str:
    share = draw.rng.random()
    if share < 0.3:
        return draw.pick(common)
    if share < 0.45:
        return draw.pick(rare)
    return made(draw).capitalize()


def two_people(draw: Draw) -> tuple[str, str]:
    first = person(draw)
    while (second := person(draw)) == first:
        pass
    return first, second


def identifier(draw: Draw) -> str:
    """A name in a program: a noun, a made word or two of them joined."""

    def make() -> str:
        parts = [draw.pick(NOUNS) if draw.chance(0.5) else made(draw) for _ in range(draw.number(1, 2))]
        return "_".join(parts)

    return draw.one_of(WORDS, make)


def variable(draw: Draw) -> str:
    """A short name in a program: a letter, a noun or a made word."""
    if draw.held != WORDS and draw.chance(0.35):
        return draw.pick("abcijkmnpqrstuvwxyz")
    return draw.one_of(WORDS, lambda: draw.pick(NOUNS) if draw.chance(0.5) else made(draw))


def argument(draw: Draw, kind: str) -> str:
    """The name of a list of `numbers` or `words`."""
    if draw.held != WORDS and draw.chance(0.6):
        return draw.pick(ARGUMENTS[kind])
    return word(draw)
