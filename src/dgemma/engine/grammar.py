"""Grammars on a canvas: what an answer may be, walked from left to right over the draft of every step.

A Grammar is a small protocol over token ids; who writes one (a schema, banned texts) is no business of the
engine's. At each step the walk starts behind the committed text and reads the draft; where a token is not
allowed, its position is masked to those that are, and the best of them stands there instead. So every draft,
and with it whatever is committed, is allowed. Only where the draft is not allowed are logits looked at, and
only by rows with a grammar: one trip to the host for their argmax ids.

What must be closed is closed in time: where the way to the end would not fit into the tokens that are left,
the draft is taken back as far as needed, and the end is pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UsageError

MASKED = -1e37  # a logit that no token is chosen with; the coldest schedule stays above it


class Walk(Protocol):
    """A place in a grammar. The end token is part of the answer: an answer has ended once it was taken."""

    @property
    def ended(self) -> bool:
        """Whether the end token was taken."""

    def copy(self) -> Walk:
        """The same place, walked on by itself."""

    def take(self, ids: Sequence[int]) -> int:
        """Walk on over as many of the ids as are allowed, one after another. -> how many these are."""

    def forced(self) -> list[int]:
        """The ids that must come next, if that is known."""

    def allowed(self) -> Tensor:
        """Which ids may come next, [V] bool on the CPU; V may be short of the model's."""

    def closing(self) -> list[int] | None:
        """Ids that end the answer from here, as few as are known; None: none are.

        Empty where an answer may be cut anywhere.
        """


class Grammar(Protocol):
    """What an answer may be."""

    def begin(self) -> Walk:
        """The place before the first token."""


def project(walk: Walk, processed: Tensor, left: int, ends: Sequence[int], pad: int | None) -> None:
    """Mask processed logits [C, V] so that their argmax is an answer the grammar allows, or its beginning.

    walk: the place before the canvas, left where it is; left: tokens that may still come. Raises UsageError
    where there is no way.
    """
    start = walk
    walk = start.copy()
    draft = processed.argmax(-1).tolist()
    end = min(left, len(draft))
    taken: list[int] = []
    while len(taken) < end and not walk.ended:
        if ids := walk.forced()[: end - len(taken)]:
            _pin(processed, len(taken), ids)
        else:
            ids = draft[len(taken) : end]
        count = walk.take(ids)
        if count:
            taken += ids[:count]
        else:
            taken.append(_best(walk, processed[len(taken)]))
    ended = walk.ended
    if not ended:
        keep, way = _in_time(start, walk, taken, left)
        if keep < len(taken):
            _pin(processed, keep, way[: len(draft) - keep])
            taken = taken[:keep] + way
            ended = True
    if ended:
        filler = ends[0] if pad is None else pad
        _pin(processed, len(taken), [filler] * (len(draft) - len(taken)))


def _best(walk: Walk, row: Tensor) -> int:
    """The likeliest token that is allowed next, taken; the row [V] is masked to those that are."""
    barred = ~walk.allowed()[: len(row)]
    if len(barred) < len(row):
        barred = torch.cat((barred, torch.ones(len(row) - len(barred), dtype=torch.bool)))
    row.masked_fill_(barred.to(row.device), MASKED)
    token = int(row.argmax())
    if barred[token] or not walk.take([token]):
        raise UsageError("there is no token that the asked form allows here; try another seed")
    return token


def _in_time(start: Walk, walk: Walk, taken: list[int], left: int) -> tuple[int, list[int]]:
    """How many of the tokens may stay so that the end can be reached in `left`, and the way there from the
    last of these.
    """
    keep = len(taken)
    back = 1
    while True:
        way = walk.closing()
        if way is not None and keep + len(way) <= left:
            return keep, way
        if keep == 0:
            raise cannot_be_closed(left, way)
        if way is None:
            # what stands before was known once: at the latest where the canvas begins
            keep -= back
            back *= 2
        else:
            keep -= max(1, (keep + len(way) - left) // 2)
        keep = max(0, keep)
        walk = start.copy()
        walk.take(taken[:keep])


def cannot_be_closed(left: int, way: Sequence[int] | None) -> UsageError:
    """What to say where an answer of a form has no room to end."""
    known = ""
    if way:
        known = f": the shortest answer that was found takes {len(way)}"
    return UsageError(f"the asked form cannot be closed within {left} tokens{known}; raise max_tokens")


def _pin(processed: Tensor, first: int, ids: Sequence[int]) -> None:
    """Leave each position from `first` on one token, of logit 0."""
    if ids:
        rows = processed[first : first + len(ids)]
        rows.fill_(MASKED).scatter_(-1, torch.tensor(ids, device=rows.device)[:, None], 0.0)
