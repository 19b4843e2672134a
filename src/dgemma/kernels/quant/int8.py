"""INT8: a signed byte per weight and a float32 scale per row. For tables; the codes are exact in every
dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.formats import Format
from ..dtypes import wide

LARGEST = 127.0


def encode(weight: Tensor, format: Format) -> dict[str, Tensor]:
    """codes int8 [..., O, I] and row float32 [..., O], the largest of a row becoming 127."""
    exact = weight.to(wide(weight.dtype))
    largest = exact.abs().amax(-1)
    row = torch.where(largest > 0, (largest / LARGEST).float().clamp_min(2.0**-126).to(exact.dtype), 1.0)
    return {
        "codes": (exact / row[..., None]).round().clamp(-LARGEST, LARGEST).to(torch.int8),
        "row": row.float(),
    }


def decode(parts: dict[str, Tensor], format: Format, dtype: torch.dtype) -> Tensor:
    return parts["codes"].to(dtype)


def check(parts: dict[str, Tensor]) -> str | None:
    """What is wrong with the values of a matrix, or None."""
    if bool(parts["row"].isfinite().all()):
        return None
    return "its scales hold NaN or infinite values"
