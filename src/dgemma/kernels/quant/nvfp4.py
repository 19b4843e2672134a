"""NVFP4: two weights per byte (e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives), an e4m3 scale for
every 16, a float32 one per row.

The byte's low half comes first. The published layouts have one float32 scale per matrix; here it stands at
each of its rows, so that gate and up, which are two matrices on disk, are one. Codes times group scales are
exact in bfloat16 (2 + 4 bits of mantissa). Trap: compressed-tensors stores the float32 scale's inverse,
ModelOpt the scale; so the ones made here are powers of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.formats import Format
from ..dtypes import wide
from .fp8 import LARGEST, holds_nan, widened

MOST = 6.0  # the largest e2m1
BETWEEN = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # halfway from each value to the next


def encode(
    weight: Tensor, format: Format, most: float | Tensor = MOST, row: Tensor | None = None
) -> dict[str, Tensor]:
    """codes, scales and row of weight [..., O, I].

    most: what the largest of a group becomes, for all groups or each [..., O, I/16]: e2m1 has no 5, so 4 is
    often better than 6. A matrix's largest scale becomes 149 to 299 at 6, so that 4 is in reach of it, and
    its float32 one a power of two: then codes, scales and their product are the same numbers to every
    reader, whichever of the two it divides by first. row [..., O]: `power_scale` of the whole, where
    `weight` is some rows of a matrix.
    """
    exact = weight.to(wide(weight.dtype))
    row = power_scale(exact) if row is None else row
    grouped = exact.unflatten(-1, (-1, format.group)) / row[..., None, None]
    scales = (grouped.abs().amax(-1) / most).clamp_max(LARGEST).to(torch.float8_e4m3fn)
    step = widened(scales, grouped.dtype)[..., None]
    codes = nearest(torch.where(step > 0, grouped / step, 0.0)).flatten(-2)
    return {"codes": packed(codes), "scales": scales, "row": row.float().contiguous()}


def matrix_scale(exact: Tensor) -> Tensor:
    """One scale, float32 or wider, for a matrix [..., O, I], at each of its rows [..., O]: its largest
    weight divided by 6 * 448.
    """
    largest = exact.abs().amax((-2, -1)).to(wide(exact.dtype))
    scale = torch.where(
        largest > 0, (largest / (MOST * LARGEST)).float().clamp_min(2.0**-126).to(largest.dtype), 1.0
    )
    return scale[..., None].expand(exact.shape[:-1])


def power_scale(exact: Tensor) -> Tensor:
    """The least power of two that is not below `matrix_scale` times 6 / 4."""
    mantissa, exponent = torch.frexp(matrix_scale(exact) * (MOST / 4))
    return torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa == 0.5).to(exponent.dtype))


def nearest(x: Tensor) -> Tensor:
    """The codes [...] uint8 of the e2m1 numbers nearest to x, ties to the even mantissa."""
    size = x.abs()
    code = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
    for number, edge in enumerate(BETWEEN):  # a tie goes up where the upper code is even
        code += (size >= edge) if number % 2 else (size > edge)
    return code | (x.signbit().to(torch.uint8) << 3)


def packed(codes: Tensor) -> Tensor:
    """Two codes [..., I] in a byte [..., I/2], the first in its low half."""
    pairs: Tensor = codes.unflatten(-1, (-1, 2))
    return pairs[..., 0] | (pairs[..., 1] << 4)


def decode(parts: dict[str, Tensor], format: Format, dtype: torch.dtype) -> Tensor:
    """Codes times the scales of their groups."""
    numbers: Tensor = unpacked(parts["codes"]).unflatten(-1, (-1, format.group))
    return numbers.mul_(spread(widened(parts["scales"], torch.bfloat16), format.group)).flatten(-2).to(dtype)


def spread(scales: Tensor, group: int) -> Tensor:
    """Scales [...] once for each number of their groups, [..., group]: a CPU multiplies by a group's single
    one ten times slower.
    """
    return scales[..., None].expand(*scales.shape, group).contiguous()


def unpacked(codes: Tensor) -> Tensor:
    """bfloat16 [..., I] of bytes [..., I/2]: e2m1's bits in bfloat16's places are the number times 2^-126."""
    both = codes.to(torch.int32)
    both.bitwise_or_(both << 12)  # one code at the foot of each half
    signs = (both & 0x00080008).bitwise_left_shift_(12)
    bits = both.bitwise_and_(0x00070007).bitwise_left_shift_(6).bitwise_or_(signs)
    return bits.view(torch.bfloat16).mul_(2.0**126)


def rounded(x: Tensor) -> Tensor:
    """x [N, I] as a card multiplies it: a float32 scale per token, an e4m3 scale for every 16 numbers, e2m1
    codes.
    """
    exact = x.to(wide(x.dtype))
    token = matrix_scale(exact[:, None])
    grouped = exact.unflatten(-1, (-1, 16)) / token[..., None]
    scales = (grouped.abs().amax(-1) / MOST).to(torch.float8_e4m3fn)
    step = widened(scales, grouped.dtype)[..., None]
    numbers = unpacked(packed(nearest(torch.where(step > 0, grouped / step, 0.0)).flatten(-2)))
    groups: Tensor = numbers.to(exact.dtype).unflatten(-1, (-1, 16))
    return (groups * step * token[..., None]).flatten(-2).to(x.dtype)


def check(parts: dict[str, Tensor]) -> str | None:
    """What is wrong with the values of a matrix, or None."""
    if holds_nan(parts["scales"]):
        return "its e4m3 scales hold NaN"
    if bool((parts["scales"].view(torch.int8) < 0).any()):  # cards read them without a sign
        return "its e4m3 scales hold negative numbers"
    if bool(parts["row"].isfinite().all()):
        return None
    return "its global scale is NaN or infinite"
