"""Numbers within bounds, as JSON writes them: which digits may follow, and the fewest that end one, by
arithmetic.

A range or a multiple has too many states to be searched, and needs no search: so many more digits reach every
number of an interval. Written without an exponent, as llguidance writes a number that has bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

MOST_DIGITS = 24  # that are added to end a number
I64 = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Bounds:
    """The numbers that are allowed. None: no bound; `step`: all are multiples of it."""

    integer: bool
    low: Fraction | None = None
    high: Fraction | None = None
    low_open: bool = False
    high_open: bool = False
    step: Fraction | None = None

    @property
    def step_places(self) -> int:
        """Decimals of the step: a multiple is written with as many, or with none."""
        step, places = self.step or Fraction(1), 0
        while (step * 10**places).denominator > 1:
            places += 1
        return places

    @property
    def plain(self) -> bool:
        return self.low is None and self.high is None and self.step is None

    @property
    def minus_zero(self) -> bool:
        """Whether `-0` may be written: where the library's expression for a range happens to allow it."""
        if self.low is None and self.high is None:
            return True
        return self.integer and self.low is not None and self.high is not None and self.low < 0 <= self.high


@dataclass(frozen=True)
class Written:
    """A Leaf: a number of which some characters are written."""

    bounds: Bounds
    text: str = ""

    @property
    def nullable(self) -> bool:
        return _complete(self.text) and self._ending(0, 0) is not None

    def after(self, byte: int) -> Written | None:
        text = self.text + chr(byte)
        if not _begins_number(text, self.bounds.integer):
            return None
        written = Written(self.bounds, text)
        return written if written.shortest() is not None else None

    def shortest(self) -> bytes | None:
        if not self.text:
            signs = [Written(self.bounds, "-").shortest(), self._digits()]
            ways = [
                way
                for way in (signs[1], b"-" + signs[0] if signs[0] is not None else None)
                if way is not None
            ]
            return min(ways, key=len, default=None)
        return self._digits()

    def _digits(self) -> bytes | None:
        """The fewest digits that end the number, with the sign that it has."""
        if self._too_large():
            return None
        for length in range(MOST_DIGITS):
            for fraction in range(1, 1 if self.bounds.integer else length + 1):
                whole = length - fraction - (1 if fraction and "." not in self.text else 0)
                if whole >= 0 and (found := self._ending(whole, fraction)) is not None:
                    return found
            if (found := self._ending(length, 0)) is not None:
                return found
        return None

    def _too_large(self) -> bool:
        """Whether what is written is beyond the bound already, which no digit mends."""
        negative = self.text.startswith("-")
        bound = self.bounds.low if negative else self.bounds.high
        digits, _, decimals = self.text.removeprefix("-").partition(".")
        if bound is None or not digits:
            return False
        return Fraction(int(digits + decimals), 10 ** len(decimals)) > (-bound if negative else bound)

    def _ending(self, whole: int, fraction: int) -> bytes | None:
        """So many digits before the point and behind it that end the number, or None."""
        bounds, text = self.bounds, self.text
        digits, point, decimals = text.removeprefix("-").partition(".")
        if (whole and (point or digits == "0")) or (fraction and bounds.integer) or not digits + "0" * whole:
            return None
        if point and not decimals and not fraction:
            return None
        places = len(decimals) + fraction
        if places and bounds.step is not None and places != bounds.step_places:
            return None
        written = int((digits + decimals) or "0")
        scale = 10 ** (whole + fraction)
        first, last = written * scale, written * scale + scale - 1
        if not digits and whole > 1:
            first = 10 ** (whole - 1 + fraction)
        number = self._within(first, last, places, text.startswith("-"))
        if number is None:
            return None
        filled = str(number).rjust(places + 1, "0")
        before, behind = filled[: len(filled) - places], filled[len(filled) - places :]
        ending = before[len(digits) :] if whole else ""
        if fraction:
            ending += ("" if point else ".") + behind[len(decimals) :]
        return ending.encode()

    def _within(self, first: int, last: int, places: int, negative: bool) -> int | None:
        """The least of the numbers first..last, in units of the last decimal place, that the bounds allow."""
        bounds, unit = self.bounds, 10**places
        low, low_open, high, high_open = bounds.low, bounds.low_open, bounds.high, bounds.high_open
        if negative:
            low, high = None if high is None else -high, None if low is None else -low
            low_open, high_open = high_open, low_open
            if not bounds.minus_zero:
                first = max(first, 1)
        if low is not None:
            least = low * unit
            first = max(first, math.floor(least) + 1 if low_open else math.ceil(least))
        if high is not None:
            most = high * unit
            last = min(last, math.ceil(most) - 1 if high_open else math.floor(most))
        if bounds.step is not None:
            step = (bounds.step * unit).numerator
            first = 0 if step == 0 and first <= 0 else -(-first // step) * step if step else last + 1
        return first if first <= last else None


def _complete(text: str) -> bool:
    return text[-1:].isdigit()


def _begins_number(text: str, integer: bool) -> bool:
    digits, point, decimals = text.removeprefix("-").partition(".")
    if (point and (integer or not digits)) or not (digits + decimals).isascii():
        return False
    if (digits and not digits.isdecimal()) or (decimals and not decimals.isdecimal()):
        return False
    return digits == "0" or not digits.startswith("0")


def plain_decimal(value: float) -> str:
    """A finite number as digits, without an exponent."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
