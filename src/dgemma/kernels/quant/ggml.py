"""The blocks of GGUF files, decoded from their bytes: q8_0, q5_0 and q5_1 (32 weights), q4_k, q5_k and q6_k
(256 weights).

Half-precision scales stand inside the blocks, so the bytes are kept as they are and taken apart at each
product. Layouts as ggml defines them:

    q8_0   d f16, 32 signed bytes                                     w = d q
    q5_0   d f16, 32 high bits, 16 bytes of low halves                w = d (q - 16)
    q5_1   d f16, m f16, 32 high bits, 16 bytes of low halves         w = d q + m
    q4_k   d f16, dmin f16, 12 bytes of 6-bit scales and minima of 8 groups of 32, 128 bytes of codes
                                                                      w = d s q - dmin m
    q5_k   as q4_k, with 32 bytes of high bits before the codes: a bit of each byte for each group
    q6_k   128 bytes of low halves, 64 of high pairs, 16 signed scales of groups of 16, d f16
                                                                      w = d s (q - 32)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.formats import BLOCKS, Format

TWO = ((0, 2), (2, 4))
# where the f16 numbers of a block stand
HALVES = {"q8_0": TWO[:1], "q5_0": TWO[:1], "q5_1": TWO, "q4_k": TWO, "q5_k": TWO, "q6_k": ((208, 210),)}


def decode(parts: dict[str, Tensor], format: Format, dtype: torch.dtype) -> Tensor:
    """float32 arithmetic, as ggml's own, then `dtype`."""
    blocks = parts["codes"]
    decoders = {"q8_0": _q8_0, "q5_0": _q5_0, "q5_1": _q5_1, "q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k}
    return decoders[format.name](blocks).flatten(-2).to(dtype)


def check(parts: dict[str, Tensor]) -> str | None:
    """What is wrong with the values of a matrix, or None."""
    blocks = parts["codes"]
    name = next(name for name, (_, size) in BLOCKS.items() if size == blocks.shape[-1])
    finite = all(bool(_half(blocks, *place).isfinite().all()) for place in HALVES[name])
    if finite:
        return None
    return "the scales of its blocks hold NaN or infinite values"


def _half(blocks: Tensor, start: int, stop: int) -> Tensor:
    """A half-precision number of each block, [..., 1] float32."""
    return blocks[..., start:stop].contiguous().view(torch.float16).float()


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[..., 2:].contiguous().view(torch.int8).float() * _half(blocks, 0, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    return (_five_bits(blocks, 2) - 16) * _half(blocks, 0, 2)


def _q5_1(blocks: Tensor) -> Tensor:
    return _five_bits(blocks, 4) * _half(blocks, 0, 2) + _half(blocks, 2, 4)


def _five_bits(blocks: Tensor, start: int) -> Tensor:
    """Numbers of 32 weights: bit i of four bytes above a half byte, of which the low ones are the first
    16.
    """
    high = ((blocks[..., start : start + 4, None] >> _bits(blocks)) & 1).flatten(-2)
    low = blocks[..., start + 4 :]
    return (torch.cat([low & 15, low >> 4], dim=-1) | (high << 4)).float()


def _bits(blocks: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=blocks.device)


def _q4_k(blocks: Tensor) -> Tensor:
    return _eight_groups(blocks, _halves(blocks[..., 16:]))


def _q5_k(blocks: Tensor) -> Tensor:
    high = (blocks[..., None, 16:48] >> _bits(blocks)[:, None]) & 1  # [..., 8, 32]
    return _eight_groups(blocks, _halves(blocks[..., 48:]) | (high << 4))


def _halves(codes: Tensor) -> Tensor:
    """128 bytes as 8 groups of 32: of 64 weights, the low halves are the first 32."""
    codes = codes.unflatten(-1, (4, 32))
    return torch.stack([codes & 15, codes >> 4], dim=-2).flatten(-3, -2)


def _eight_groups(blocks: Tensor, numbers: Tensor) -> Tensor:
    """d s q - dmin m, with numbers [..., 8, 32] and the 6-bit scales and minima of their groups."""
    packed = blocks[..., 4:16].to(torch.int32)
    first, second, rest = packed.split(4, dim=-1)
    scales = torch.cat([first & 63, (rest & 15) | ((first >> 6) << 4)], dim=-1)  # [..., 8]
    minima = torch.cat([second & 63, (rest >> 4) | ((second >> 6) << 4)], dim=-1)
    scale = _half(blocks, 0, 2) * scales
    minimum = _half(blocks, 2, 4) * minima
    return (numbers.float() * scale[..., None] - minimum[..., None]).flatten(-2)


def _q6_k(blocks: Tensor) -> Tensor:
    low = blocks[..., :128].unflatten(-1, (2, 2, 32))  # two halves of 128 weights
    high = blocks[..., 128:192].unflatten(-1, (2, 32))
    codes = torch.cat([low & 15, low >> 4], dim=-2)  # [..., 2, 4, 32]
    pairs = torch.stack([(high >> shift) & 3 for shift in (0, 2, 4, 6)], dim=-2)
    numbers = (codes | (pairs << 4)).to(torch.int8).float() - 32
    scales = blocks[..., 192:208].contiguous().view(torch.int8).float() * _half(blocks, 208, 210)
    groups: Tensor = numbers.flatten(-3).unflatten(-1, (16, 16))
    return groups.mul(scales[..., None]).flatten(-2)
