"""Sets of bytes as masks of 256 bits, and classes of bytes that nobody can tell apart."""

from __future__ import annotations

from collections.abc import Iterable

ALL = (1 << 256) - 1
LIKED = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ -_./:,;=+*()!?'#%&@<>{}[]|~$^`"
RANK = {byte: place for place, byte in enumerate(LIKED)}


def liked(mask: int) -> int:
    """The byte of a set that reads best."""
    for byte in LIKED:
        if mask >> byte & 1:
            return byte
    return (mask & -mask).bit_length() - 1


def split(classes: list[int], masks: Iterable[int]) -> list[int]:
    """The classes, cut where a mask divides them."""
    for mask in masks:
        classes = [part for one in classes for part in (one & mask, one & ~mask) if part]
    return classes


def meet(partitions: Iterable[list[int]]) -> list[int]:
    """The classes that none of the partitions divides."""
    classes = [ALL]
    for partition in partitions:
        if len(partition) > 1:
            classes = [both for one in classes for mask in partition if (both := one & mask)]
    return classes
