"""The temperature of a step: linear from t_max (almost) down to t_min, by steps remaining."""

from __future__ import annotations

from torch import Tensor


def temperature(step: Tensor, max_steps: Tensor, t_min: Tensor, t_max: Tensor) -> Tensor:
    """T of each row, [B].

    `step` counts from 0, so the first of 48 steps has T = t_max and the last never reaches t_min.

    The step cap enters T: fewer steps also cool faster.
    """
    remaining = (max_steps - step).to(t_min.dtype)
    return t_min + (t_max - t_min) * remaining / max_steps.to(t_min.dtype)
