"""Sizes as people write and read them: memories ("24GB", "24GiB", "8G") and contexts ("32k", "131072").

The one place that knows the units. Trap: a card that is sold as 24 GB has 24 GiB, 7 % more; here GB is
decimal, as the letters say and as disks count, so that who writes GB gets a plan that fits either way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from ..errors import UsageError
from .reader import shown

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, what is being worked on
_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", 1):
    _UNITS |= {
        _letter: 1000**_power,
        f"{_letter}B": 1000**_power,
        f"{_letter}IB": 1024**_power,
        f"{_letter}I": 1024**_power,
    }
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Z]*)")
_TOKENS = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([KM]?)")
MOST = 2**63  # bytes


def short_count(number: int) -> str:
    """A number of parameters in words: "8.3 M", "25.2 B"."""
    if number >= 1e9:
        return f"{number / 1e9:.1f} B"
    return f"{number / 1e6:.1f} M"


def disk_size(size: float) -> str:
    """Bytes in words, in the decimal units that disks and download pages use: "640 kB", "33.12 MB", "51.60
    GB".
    """
    if size >= 1e8:
        return f"{size / 1e9:.2f} GB"
    if size >= 1e5:
        return f"{size / 1e6:.2f} MB"
    if size >= 1000:
        return f"{size / 1e3:.1f} kB"
    return f"{size:.0f} B"


def parse_bytes(text: str, name: str = "memory") -> int:
    """Bytes of "24GB" (decimal), "24GiB" (binary), "8G" (decimal), "8589934592". Raises UsageError."""
    match = _SIZE.fullmatch(text.strip().upper())
    unit = None
    if match:
        unit = _UNITS.get(match[2])
    size = 0
    if match and unit:
        size = int(Fraction(match[1]) * unit)
    if not 0 < size < MOST:
        raise UsageError(f"{name} is {shown(text)}; a size such as 24GB, 24GiB or 8.5G was expected")
    return size


def parse_tokens(text: str, name: str = "context") -> int:
    """Tokens of "32k" (of 1,024), "1.5k", "131072". Raises UsageError."""
    match = _TOKENS.fullmatch(text.strip().upper().replace(",", "").replace("_", ""))
    tokens = 0
    if match:
        tokens = int(Fraction(match[1]) * {"": 1, "K": 1024, "M": 1024**2}[match[2]])
    if tokens < 1:
        raise UsageError(f"{name} is {shown(text)}; a number of tokens such as 32k or 131072 was expected")
    return tokens
