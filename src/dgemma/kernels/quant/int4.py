"""INT4: two weights per byte (0 to 15 around a zero point, 8 where a format has none) and a 16-bit scale
for every group of inputs.

The byte's low half comes first. GPTQ, AWQ and compressed-tensors pack and turn the same numbers in three
ways; all end here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.formats import Format
from ..dtypes import wide
from .nvfp4 import packed, spread

MIDDLE = 8
SCALES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def encode(weight: Tensor, format: Format, shrink: float | Tensor = 1.0) -> dict[str, Tensor]:
    """codes, scales and, where the format has them, zeros of weight [..., O, I].

    shrink: the part of a group's range that is kept, for all groups or each [..., O, I/group]; what lies
    outside is cut off, and the rest gets finer steps. Without zeros 7.5 / 7 cuts nothing off, and 1 half a
    step of the largest where it is positive.
    """
    exact = weight.to(wide(weight.dtype)).unflatten(-1, (-1, format.group))
    if format.zeros:
        low = exact.amin(-1).clamp_max(0) * shrink
        high = exact.amax(-1).clamp_min(0) * shrink
        scales = _usable((high - low) / 15, SCALES[format.scale])
        zeros = (-low / scales.to(exact.dtype)).round().clamp(0, 15)
    else:
        scales = _usable(exact.abs().amax(-1) * shrink / 7.5, SCALES[format.scale])
        zeros = torch.full_like(exact[..., 0], MIDDLE)
    codes = (
        (exact / scales.to(exact.dtype)[..., None]).round().add(zeros[..., None]).clamp(0, 15).to(torch.uint8)
    )
    parts = {"codes": packed(codes.flatten(-2)), "scales": scales}
    return parts | ({"zeros": zeros.to(torch.uint8)} if format.zeros else {})


def _usable(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales in their dtype; 1 where a group is so small that they would become 0."""
    scales = scales.to(dtype)
    return torch.where(scales > 0, scales, 1.0).to(dtype)


def decode(parts: dict[str, Tensor], format: Format, dtype: torch.dtype) -> Tensor:
    """(code - zero point) * scale, rounded once."""
    both = parts["codes"].to(torch.int32)
    both.bitwise_or_(both << 12).bitwise_and_(0x000F000F).bitwise_or_(
        0x43004300
    )  # codes as mantissas of 128: exact in bfloat16
    numbers: Tensor = both.view(torch.bfloat16).unflatten(-1, (-1, format.group))
    if "zeros" in parts:
        numbers.sub_(spread(parts["zeros"].to(torch.bfloat16).add_(128), format.group))
    else:
        numbers.sub_(128 + MIDDLE)
    scales = spread(parts["scales"], format.group)
    if scales.dtype == dtype == torch.bfloat16:
        return numbers.mul_(scales).flatten(-2)
    return (numbers.to(wide(dtype)) * scales.to(wide(dtype))).flatten(-2).to(dtype)


def check(parts: dict[str, Tensor]) -> str | None:
    """What is wrong with the values of a matrix, or None."""
    if bool(parts["scales"].isfinite().all()):
        return None
    return "its scales hold NaN or infinite values"
