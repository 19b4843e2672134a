"""Activations rounded to few bits in Triton, so that cards multiply them as such: e4m3 per token, or e2m1
in groups of 16.

The same numbers as `rounded` of quant/fp8.py and quant/nvfp4.py, as codes and scales. One program per row
reads it twice, the second time from the cache. Knows no weights.

Trap: e4m3 is made by integer arithmetic, because the interpreter's own conversion carries wrongly and sm_80
has none.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import e4m3

BLOCK = 1024  # inputs at a time


@triton.jit
def _to_e4m3(y):
    """e4m3 codes, int32, of float32 numbers of at most 448 and a little: to the nearest, ties to even."""
    size = tl.abs(y)
    bits = size.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    # 16384's last bit is e4m3's smallest number, 2^-9
    small = (size + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.minimum(tl.where(size < 2.0**-6, small, normal), 0x7E)
    return code | ((y.to(tl.int32, bitcast=True) >> 24) & 0x80)


@triton.jit
def _largest(x, row, width: tl.constexpr, BLOCK: tl.constexpr):
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        y = tl.load(x + row * width + at, at < width, 0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(y))
    return tl.max(largest, 0)


@triton.jit
def _scale_of(largest, most: tl.constexpr):
    """What makes the largest `most`; 1 for zeros."""
    return tl.where(largest > 0.0, tl.maximum(tl.math.div_rn(largest, most), 2.0**-126), 1.0)


@triton.jit
def _fp8(x, codes, token, width: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    scale = _scale_of(_largest(x, row, width, BLOCK), 448.0)
    tl.store(token + row, scale)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        y = tl.load(x + row * width + at, at < width, 0.0).to(tl.float32)
        tl.store(codes + row * width + at, _to_e4m3(tl.math.div_rn(y, scale)).to(tl.uint8), at < width)


@triton.jit
def _nvfp4(x, codes, scales, token, width: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    scale = _scale_of(_largest(x, row, width, BLOCK), 2688.0)
    tl.store(token + row, scale)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        y = tl.math.div_rn(tl.load(x + row * width + at, at < width, 0.0).to(tl.float32), scale)
        y = tl.reshape(y, (BLOCK // 16, 16))
        coded = _to_e4m3(tl.math.div_rn(tl.max(tl.abs(y), 1), 6.0))
        step = e4m3(coded)
        y = tl.where((step > 0.0)[:, None], tl.math.div_rn(y, tl.where(step > 0.0, step, 1.0)[:, None]), 0.0)
        size = tl.abs(y)  # e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6, ties to the even code
        code = (size > 0.25).to(tl.int32) + (size >= 0.75) + (size > 1.25) + (size >= 1.75)
        code = code + (size > 2.5) + (size >= 3.5) + (size > 5.0)
        code = code | ((y.to(tl.int32, bitcast=True) >> 28) & 8)
        low, high = tl.split(tl.reshape(code, (BLOCK // 2, 2)))
        pair = start // 2 + tl.arange(0, BLOCK // 2)
        group = start // 16 + tl.arange(0, BLOCK // 16)
        tl.store(codes + row * (width // 2) + pair, (low | (high << 4)).to(tl.uint8), pair < width // 2)
        tl.store(scales + row * (width // 16) + group, coded.to(tl.uint8), group < width // 16)


def _block(width: int) -> int:
    power: int = triton.next_power_of_2(width)
    return min(BLOCK, max(16, power))


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, I] -> codes uint8 (e4m3) [N, I], scales float32 [N]: what fp8.rounded makes of it."""
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    token = _tokens(x)
    _fp8[len(x),](x.contiguous(), codes, token, width=x.shape[1], BLOCK=_block(x.shape[1]), num_warps=4)
    return codes, token


def to_nvfp4(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, I], I whole groups of 16 -> codes uint8 [N, I/2], scales uint8 (e4m3) [N, I/16], float32 [N]: as
    nvfp4.rounded.
    """
    rows, width = x.shape
    codes = torch.empty((rows, width // 2), dtype=torch.uint8, device=x.device)
    scales = torch.empty((rows, width // 16), dtype=torch.uint8, device=x.device)
    token = _tokens(x)
    _nvfp4[rows,](x.contiguous(), codes, scales, token, width=width, BLOCK=_block(width), num_warps=4)
    return codes, scales, token


def _tokens(x: Tensor) -> Tensor:
    return torch.empty(len(x), dtype=torch.float32, device=x.device)
