"""Rotary position embedding; a pair is (i, i + K/2). Angles are float32 even for float64 models.

The trap: beyond position ~1e5 a float32 angle is off by about 0.01 rad. The reference computes it so and
the checkpoint was trained so; more digits here would be a different model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..select import fusable


def rope_table(
    positions: Tensor, theta: float, head_dim: int, rotary_dims: int, divisor: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin for each position, [B, 1, T, K/2] in `dtype`.

    positions [B, T] integer. Pairs from `rotary_dims / 2` on have frequency 0 and pass through;
    pair i below that has frequency theta^(-2i / divisor).
    """
    pairs = torch.arange(head_dim // 2, device=positions.device, dtype=torch.float32)
    frequency = torch.where(pairs < rotary_dims // 2, theta ** (-2.0 * pairs / divisor), 0.0)
    angle = positions[:, None, :, None].float() * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


@fusable
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, H, T, K] by the cos and sin of `rope_table`; same shape and dtype."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
