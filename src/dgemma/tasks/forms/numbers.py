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
        step = self.step or Fraction(1)
        places = 0
        while (step * 10**places).denominator > 1:
            places += 1
        return places

    @property
    def plain(self) -> bool:
        return self.low is None and self.high is None and self.step is None

    def mirrored(self) -> Bounds:
        """The same with every number's sign turned."""
        return Bounds(
            self.integer,
            low=None if self.high is None else -self.high,
            high=None if self.low is None else -self.low,
            low_open=self.high_open,
            high_open=self.low_open,
            step=self.step,
        )

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
        if written.shortest() is not None:
            return written
        return None

    def shortest(self) -> bytes | None:
        if self.text:
            return self._digits()
        positive = self._digits()
        digits = Written(self.bounds, "-").shortest()
        if digits is None:
            return positive
        negative = b"-" + digits
        if positive is None or len(negative) < len(positive):
            return negative
        return positive

    def _digits(self) -> bytes | None:
        """The fewest digits that end the number, with the sign that it has."""
        if self._too_large():
            return None
        has_point = "." in self.text
        for length in range(MOST_DIGITS):
            most_decimals = length
            if self.bounds.integer:
                most_decimals = 0
            for fraction in range(1, most_decimals + 1):
                whole = length - fraction - (0 if has_point else 1)
                ending = None
                if whole >= 0:
                    ending = self._ending(whole, fraction)
                if ending is not None:
                    return ending
            ending = self._ending(length, 0)
            if ending is not None:
                return ending
        return None

    def _too_large(self) -> bool:
        """Whether what is written is beyond the bound already, which no digit mends."""
        is_negative = self.text.startswith("-")
        if is_negative:
            most = self.bounds.mirrored().high
        else:
            most = self.bounds.high
        digits, _, decimals = self.text.removeprefix("-").partition(".")
        if most is None or not digits:
            return False
        return Fraction(int(digits + decimals), 10 ** len(decimals)) > most

    def _ending(self, whole: int, fraction: int) -> bytes | None:
        """So many digits before the point and behind it that end the number, or None."""
        bounds = self.bounds
        digits, point, decimals = self.text.removeprefix("-").partition(".")
        is_whole_closed = bool(point) or digits == "0"
        if whole and is_whole_closed:
            return None
        if fraction and bounds.integer:
            return None
        if not digits and not whole:
            return None
        if point and not decimals and not fraction:
            return None
        places = len(decimals) + fraction
        if places and bounds.step is not None and places != bounds.step_places:
            return None
        written = int((digits + decimals) or "0")
        scale = 10 ** (whole + fraction)
        first = written * scale
        last = first + scale - 1
        if not digits and whole > 1:
            first = 10 ** (whole - 1 + fraction)
        number = self._within(first, last, places, self.text.startswith("-"))
        if number is None:
            return None
        filled = str(number).rjust(places + 1, "0")
        point_at = len(filled) - places
        ending = ""
        if whole:
            ending = filled[len(digits) : point_at]
        if fraction:
            new_decimals = filled[point_at + len(decimals) :]
            ending += new_decimals if point else "." + new_decimals
        return ending.encode()

    def _within(self, first: int, last: int, places: int, negative: bool) -> int | None:
        """The least of the numbers first..last, in units of the last decimal place, that the bounds allow."""
        if negative:
            bounds = self.bounds.mirrored()
        else:
            bounds = self.bounds
        if negative and not self.bounds.minus_zero:
            first = max(first, 1)
        unit = 10**places
        if bounds.low is not None:
            least = bounds.low * unit
            first = max(first, math.floor(least) + 1 if bounds.low_open else math.ceil(least))
        if bounds.high is not None:
            most = bounds.high * unit
            last = min(last, math.ceil(most) - 1 if bounds.high_open else math.floor(most))
        if bounds.step is not None:
            step = (bounds.step * unit).numerator
            multiple = _next_multiple(first, step)
            if multiple is None:
                return None
            first = multiple
        if first <= last:
            return first
        return None


def _next_multiple(number: int, step: int) -> int | None:
    """The least multiple of a step that is no less than a number."""
    if step:
        return -(-number // step) * step
    if number <= 0:
        return 0
    return None


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
    if "." not in text:
        return text
    return text.rstrip("0").rstrip(".")
