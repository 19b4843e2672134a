"""Scales chosen by what they cost: the same encodings with several scales per group or row, and of each the
one with the least error.

The error is the squared difference, each input's weighted by how much it carries (its mean square on
sampled text) where that is known. Knows no model. Measured on the shipped checkpoint (relative error of its
experts with equal weights): int4 in groups of 32 0.0958 -> 0.0878, of 128 0.1129 -> 0.1032; nvfp4 0.0949 ->
0.0823 (6 or 4 alone: 0.0870); fp8 0.0259 -> 0.0243, and 0.0265 -> 0.0260 where rows have 2,816 normal
inputs. Trap: the scale that errs least need not be the one that is right on average, so codes and scales
are always made anew from the chosen one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.formats import Format
from ..kernels.dtypes import wide
from ..kernels.quant import nvfp4
from ..kernels.quant.formats import QuantTensor, codec, quantise

# What `encode` of a format is asked to try; the first is its own default, which ties keep
TRIED = {
    "int4": (1.0, 7.5 / 7, 0.96, 0.91, 0.86, 0.81, 0.76, 0.71, 0.66, 0.6),
    "nvfp4": (6.0, 7.0, 6.5, 5.5, 5.0, 4.5, 4.0, 3.5, 3.0),
    "fp8": (1.0, 2**0.25, 2**0.5, 2**0.75),
}
PIECE, PIECE_CUDA = (
    1 << 19,
    1 << 24,
)  # weights that are worked on at a time; on a CPU in half the time of four millions


def search_scales(weight: Tensor, format: Format, importance: Tensor | None = None) -> QuantTensor:
    """weight [..., O, I] in a number format, its scales as the head says. importance [..., I], not negative;
    None: all inputs alike.

    A format that has nothing to choose is quantised as it is. Raises ValueError where the inputs are no
    whole groups.
    """
    if format.name not in TRIED or not format.divides(weight.shape[-1]):
        return quantise(weight, format)
    if weight.dim() > 2:
        each = [
            search_scales(one, format, None if importance is None else importance[n]).parts
            for n, one in enumerate(weight)
        ]
        parts = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    else:
        row = None
        if format.name == "nvfp4":
            row = nvfp4.power_scale(weight)
        run = max(1, (PIECE_CUDA if weight.is_cuda else PIECE) // weight.shape[-1])
        starts = range(0, max(1, len(weight)), run)
        each = [
            _chosen(
                weight[start : start + run],
                format,
                importance,
                {} if row is None else {"row": row[start : start + run]},
            )
            for start in starts
        ]
        parts = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    return QuantTensor(format, tuple(weight.shape), parts)


def _chosen(
    weight: Tensor, format: Format, importance: Tensor | None, given: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The parts of some rows [O, I] with the best scales. given: what `encode` is told of the whole
    matrix.
    """
    exact = weight.to(wide(weight.dtype))
    encode = codec(format).encode

    def error_of(knob: float) -> Tensor:
        quantised = QuantTensor(format, tuple(exact.shape), encode(exact, format, knob, **given))
        return _errors(quantised, exact, importance)

    first, *others = TRIED[format.name]
    least = error_of(first)
    chosen = torch.full_like(least, first)
    for knob in others:
        error = error_of(knob)
        better = error < least
        chosen.masked_fill_(better, knob)
        least = torch.where(better, error, least)
    parts: dict[str, Tensor] = encode(exact, format, chosen, **given)
    return parts


def _errors(quantised: QuantTensor, weight: Tensor, importance: Tensor | None) -> Tensor:
    """The squared error of each group [..., O, I/group], or of each row [..., O]."""
    squares = (quantised.dequantised(weight.dtype) - weight).square_()
    if importance is not None:
        squares.mul_(importance.to(squares)[..., None, :])
    group = quantised.format.group
    if group:
        squares = squares.unflatten(-1, (-1, group))
    return squares.sum(-1)
