"""One section of a report on a model: what was measured, what does not hold, or why it was not looked at.

Knows neither models nor how anything is measured. Trap: errors of other libraries name folders, and a report
is pasted into public places: `public` cuts every path down to its last part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.dtypes import wide

# How far two implementations of the same arithmetic may part, relative to the RMS of what is right: the
# largest
# error, and the typical row's (the median over rows of a row's RMS error). Measured on the shipped checkpoint
# against Transformers (CPU; prompt, first and second step, 14 draws): float32 7.1e-6 and 5.7e-7, float16
# 0.36 and
# 0.0012, bfloat16 1.1 and 0.010. A router's near-tie that falls the other way moves its whole row, so in 16
# bits
# the largest error says little; deeper models round more often, hence a margin of three to four for the
# typical
# row. There a matrix with a tenth of noise shows as 0.03, in every format.
LIMITS = {
    torch.float64: (1e-7, 1e-8),
    torch.float32: (1e-3, 1e-4),
    torch.float16: (3.0, 0.005),
    torch.bfloat16: (3.0, 0.03),
}
_PATH = re.compile(r"(?<![\w/])(?:[A-Za-z]:|~|\.{1,2})?[\\/](?:[^\\/\s'\":,;]+[\\/])*(?=[^\\/\s])")


class Skip(Exception):
    """Raised by a check that cannot be done here; its message says why."""


@dataclass
class Section:
    """A part of the report.

    It holds unless something is in `failures`; `skipped` says why it was not looked at.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def state(self) -> str:
        if self.failures:
            return "FAILED"
        if self.skipped:
            return f"not run: {self.skipped}"
        return "ok"

    def must(self, holds: bool, failure: str) -> None:
        if not holds:
            self.failures.append(failure)

    def compare(self, what: str, got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
        """Note how far `got` is from `want`, and fail beyond what weights of this dtype explain."""
        error = distance(got, want)
        most, usual = LIMITS[dtype]
        typical = f"typical error {error.typical:.2g}"
        largest = f"largest {error.largest:.2g}"
        self.facts[what] = f"{typical}, RMS {error.rms:.2g}, {largest}"
        holds = error.largest <= most and error.typical <= usual  # NaN is within no limit
        self.must(holds, f"{what}: {typical} (limit {usual:.2g}), {largest} (limit {most:.2g})")


class Distance(NamedTuple):
    """Errors relative to the RMS of what is right."""

    largest: float
    rms: float
    typical: float  # the median over rows of a row's RMS error


def distance(got: Tensor, want: Tensor) -> Distance:
    """How far `got` [..., N] is from `want`; rows are everything but the last axis."""
    kind = wide(want.dtype)
    size = want.to(kind).square().mean().sqrt()
    error = (got.to(kind) - want.to(kind)).flatten(0, -2).abs_()
    largest = error.max()
    rows = error.square_().mean(-1)
    rms = rows.mean().sqrt()
    typical = rows.sqrt().median()
    return Distance(float(largest / size), float(rms / size), float(typical / size))


def share(got: list[int], want: list[int]) -> float:
    """The share of equal tokens; what only one of them has counts as different."""
    return sum(a == b for a, b in zip(got, want, strict=False)) / max(1, len(got), len(want))


def public(text: str) -> str:
    """The first line of a message, without the folders of any path in it."""
    first, *_ = text.strip().splitlines() or ["no message"]
    return _PATH.sub("", first)


def lines(section: Section) -> list[str]:
    """A section as plain text."""
    head = f"{section.name}: {section.state}"
    facts = [f"  {name}: {_words(value)}" for name, value in section.facts.items()]
    failures = [f"  FAILED {failure}" for failure in section.failures]
    return [head, *facts, *failures]


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        if value:
            return "yes"
        return "no"
    return str(value)
