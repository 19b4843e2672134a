"""FP8, e4m3: a byte per weight (4 bits of exponent, 3 of mantissa, up to 448, no infinity) and a float32
scale per row.

As published by compressed-tensors ("FP8 dynamic"): weights per output channel, activations per token
(`rounded`). Trap: torch converts e4m3 element by element (2 ns each); its bits moved into a bfloat16's
place are the number times 2^-120, which one multiplication mends (0.2 ns). The two codes that mean NaN come
out as 480: a loader refuses them before (`check`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.formats import Format
from ..dtypes import wide

LARGEST = 448.0


def encode(weight: Tensor, format: Format, stretch: float | Tensor = 1.0) -> dict[str, Tensor]:
    """codes e4m3 [..., O, I] and row float32 [..., O], the largest of a row becoming 448 / stretch.

    stretch: 1 to 2, for all rows or each [..., O]: where a row's weights lie between two powers of two, and
    so how they round. Scales are bfloat16's numbers, as they are published, so that a file has the very ones
    that the codes were made with.
    """
    exact = weight.to(wide(weight.dtype))
    row = (scale_of(exact) * stretch).bfloat16().to(exact.dtype)
    return {
        "codes": (exact / row[..., None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn),
        "row": row.float(),
    }


def scale_of(exact: Tensor) -> Tensor:
    """What the largest of each row divides by to become 448, [...] in float32's numbers; 1 for a row of
    zeros.
    """
    largest = exact.abs().amax(-1)
    # never 0, nor so small that 1 / scale is no number
    return torch.where(largest > 0, (largest / LARGEST).float().clamp_min(2.0**-126).to(exact.dtype), 1.0)


def decode(parts: dict[str, Tensor], format: Format, dtype: torch.dtype) -> Tensor:
    """The codes as numbers, exact in every dtype but float16's subnormals, which are its own."""
    return widened(parts["codes"], dtype)


def widened(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """e4m3 as numbers of `dtype`, on a CPU by moving bits."""
    if codes.device.type != "cpu" or dtype == torch.float16:
        return codes.to(dtype)
    bits = (
        codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(4).bitwise_and_(-0x7810)
    )  # s000eeeeemmm0000
    return bits.view(torch.bfloat16).mul_(2.0**120).to(dtype)


def rounded(x: Tensor) -> Tensor:
    """x [N, I] as a card multiplies it: every token divided by its scale, rounded to e4m3 and multiplied
    back.
    """
    exact = x.to(wide(x.dtype))
    scale = scale_of(exact)[..., None]
    return ((exact / scale).to(torch.float8_e4m3fn).to(exact.dtype) * scale).to(x.dtype)


def check(parts: dict[str, Tensor]) -> str | None:
    """What is wrong with the values of a matrix, or None."""
    if holds_nan(parts["codes"]):
        return "its e4m3 codes hold NaN"
    if bool(parts["row"].isfinite().all()):
        return None
    return "its scales hold NaN or infinite values"


def holds_nan(codes: Tensor) -> bool:
    """Whether a code is 0x7f or 0xff: as signed bytes the largest of all, and -1."""
    bits = codes.view(torch.int8)
    return bool((bits == 127).any() | (bits == -1).any())
