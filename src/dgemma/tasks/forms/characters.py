"""Sets of characters as languages over bytes: plainly in UTF-8, or as they are written inside a JSON string.

A set is a list of ranges of code points, ends included. Surrogates belong to none.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .language import Expression, Language

LAST = sys.maxunicode
BEYOND_ASCII = (0x80, LAST)
Ranges = list[tuple[int, int]]
SURROGATES = (0xD800, 0xDFFF)
ESCAPES = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
FOLDED = {"s": 0x17F, "k": 0x212A, "å": 0x212B}  # letters that Unicode takes for another case of these
CONTROLS: Ranges = [(0, 0x1F), (0x7F, 0x7F)]
DIGITS: Ranges = [(48, 57)]
WORD: Ranges = [(48, 57), (65, 90), (95, 95), (97, 122)]
SPACE: Ranges = [(9, 13), (32, 32)]
UNICODE_SPACE: Ranges = [
    *SPACE,
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
]


def union(*sets: Ranges) -> Ranges:
    merged: Ranges = []
    for first, last in sorted(one for ranges in sets for one in ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def inverse(ranges: Ranges) -> Ranges:
    gaps: Ranges = []
    begin = 0
    for first, last in union(ranges):
        if first > begin:
            gaps.append((begin, first - 1))
        begin = last + 1
    if begin <= LAST:
        gaps.append((begin, LAST))
    return gaps


def common(a: Ranges, b: Ranges) -> Ranges:
    return inverse(union(inverse(a), inverse(b)))


def either_case(ranges: Ranges) -> Ranges:
    """With the other case of every letter: all of ASCII and Latin; of larger sets the letters of ASCII."""
    more: Ranges = []
    for first, last in ranges:
        for code in range(first, min(last, first + 0x300) + 1):
            lower = chr(code).lower()
            for other in {lower, chr(code).upper()}:
                if len(other) == 1:
                    more.append((ord(other), ord(other)))
            if lower in FOLDED:
                more.append((FOLDED[lower], FOLDED[lower]))
    return union(ranges, more)


def property_of(name: str) -> Ranges:
    """What may be of a general category (`Lu`, `L`).

    In ASCII that is exactly so; beyond it, where tables of Unicode differ, all characters may be. Of a
    property that is no category (a script) all characters may be.
    """
    if not (1 <= len(name) <= 2 and name.isascii() and name.isalpha()):
        return [(0, LAST)]
    codes = [code for code in range(0x80) if unicodedata.category(chr(code)).startswith(name)]
    return [*((code, code) for code in codes), BEYOND_ASCII]


def encoded(language: Language, ranges: Ranges) -> Expression:
    """One character of the set, in UTF-8."""
    parts = []
    mask = 0
    for first, last in union(ranges):
        for low, high in _without_surrogates(first, last):
            top = min(high, 0x7F)
            if low <= top:
                mask |= _mask(low, top)
            if high > 0x7F:
                parts += _wide(language, max(low, 0x80), high)
    return language.choice(language.bytes_of(mask), *parts)


def quoted(language: Language, ranges: Ranges) -> Expression:
    """One character of the set, as it may be written inside a JSON string."""
    plain = common(ranges, inverse(union(CONTROLS, [(0x22, 0x22), (0x5C, 0x5C)])))
    letters = 0
    for code, letter in ESCAPES.items():
        if _has(ranges, code):
            letters |= 1 << ord(letter)
    parts = [encoded(language, plain)]
    if letters:
        parts.append(language.sequence(language.text(b"\\"), language.bytes_of(letters)))
    for code in [*range(0x20), 0x7F]:
        if _has(ranges, code):
            high, low = tuple(f"{code:02x}")
            digit = language.bytes_of(1 << ord(low) | 1 << ord(low.upper()))
            parts.append(language.sequence(language.text(b"\\u00" + high.encode()), digit))
    return language.choice(*parts)


def _has(ranges: Ranges, code: int) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _without_surrogates(first: int, last: int) -> Ranges:
    below = (first, min(last, SURROGATES[0] - 1))
    above = (max(first, SURROGATES[1] + 1), last)
    return [one for one in (below, above) if one[0] <= one[1]]


def _mask(first: int, last: int) -> int:
    return (1 << last + 1) - (1 << first)


def _wide(language: Language, first: int, last: int) -> list[Expression]:
    """Characters beyond ASCII: ranges that share a length, cut where their bytes behind the first are no full
    range.
    """
    parts = []
    for low, high in ((0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST)):
        begin = max(first, low)
        end = min(last, high)
        if begin <= end:
            for masks in _byte_ranges(begin, end):
                parts.append(language.sequence(*map(language.bytes_of, masks)))
    return parts


def _byte_ranges(first: int, last: int) -> list[list[int]]:
    """The masks of each byte, for ranges of equally long encodings."""
    low_bytes = chr(first).encode()
    high_bytes = chr(last).encode()
    if len(low_bytes) == 1:
        return [[_mask(first, last)]]
    # cut at the borders of the trailing bytes, 64 ** tail characters each
    for tail in range(len(low_bytes) - 1, 0, -1):
        size = 64**tail
        if first // size == last // size:
            continue
        if first % size:
            edge = (first // size + 1) * size
            return _byte_ranges(first, edge - 1) + _byte_ranges(edge, last)
        if (last + 1) % size:
            edge = (last + 1) // size * size
            return _byte_ranges(first, edge - 1) + _byte_ranges(edge, last)
    return [[_mask(low, high) for low, high in zip(low_bytes, high_bytes, strict=True)]]
