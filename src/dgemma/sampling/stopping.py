"""When a canvas stands: its argmax has not changed for `stability_threshold` steps, and it is confident.

A threshold of k needs k + 1 identical argmax canvases; k = 0 means confidence alone. Pinned cells take no
part in either test, nor does what stands behind a stable end token where a request gives that up
(`ignore_after_end`). Counting one canvas too few here gave other engines clipped and empty answers.
"""

from __future__ import annotations

from torch import Tensor


def counted(argmax: Tensor, last_argmax: Tensor, free: Tensor, end_ids: Tensor) -> Tensor:
    """The free positions that the tests look at, [B, C] bool.

    Those behind the draft's first end token are cut from the answer, so once that token has outlived a step
    they may change, and count as sure. Left out of the mean instead they would leave a stricter test: padding
    is surer than text. end_ids [B, n], -1 where there are fewer; argmax as below.
    """
    ends = (argmax[..., None] == end_ids[:, None, :]).any(-1)
    first = ends & (ends.cumsum(-1) == 1)
    behind = (first & (argmax == last_argmax)).cumsum(-1) > 0
    return free & (first | ~behind)


def unchanged_steps(argmax: Tensor, last_argmax: Tensor, free: Tensor, unchanged: Tensor) -> Tensor:
    """How many steps in a row the free argmax has repeated, [B] int64.

    `last_argmax` is -1 before the first step.
    """
    same = ((argmax == last_argmax) | ~free).all(-1) & (last_argmax >= 0).all(-1)
    return (unchanged + 1) * same


def mean_entropy(entropy: Tensor, free: Tensor) -> Tensor:
    """Mean nats over the free positions, [B]; 0 where everything is pinned."""
    return (entropy * free).sum(-1) / free.sum(-1).clamp_min(1)


def converged(
    unchanged: Tensor, mean: Tensor, stability_threshold: Tensor, confidence_threshold: Tensor
) -> Tensor:
    """Stable and confident, [B] bool."""
    return (unchanged >= stability_threshold) & (mean < confidence_threshold)
