"""What Triton kernels are handed for a weight, plain or in few bits: which weights they take, tensors,
constants, tile shapes.

Between the modules of torch and decode.products, whose arguments these are. Knows no kernel and no launch.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from .. import select
from ..quant.formats import QuantTensor, Weight, codec
from .rounding import to_fp8, to_nvfp4


def shape_of(name: str, is_rounded: bool, rows: int, size: int, group: int = 0) -> dict[str, Any]:
    """How a product is cut: COLS rows of the weight, steps of DEEP inputs.

    For blocks of `rows` rows of x, numbers of `size` bytes. None of these spills on any architecture
    (benchmarks/kernels_aot.py). Few rows wait for memory: there, the steps are long.
    """
    warps, stages = (4, 4) if rows <= 32 else (8, 3)
    if is_rounded:
        return _options(128, 128 if name == "fp8" else 256, warps, stages, turn=True)
    if size == 4:
        return _options(64, 32, warps=4, stages=3)
    if name == "plain":
        return _options(64, 64, warps=4, stages=4)
    if rows > 16:
        return _options(128, 64, warps, stages, turn=True)
    return _options(128, 256 if group > 64 else 128, warps, stages)


def _options(cols: int, deep: int, warps: int, stages: int, turn: bool = False) -> dict[str, Any]:
    return {"COLS": cols, "DEEP": deep, "TURN": turn, "num_warps": warps, "num_stages": stages}


def takes(weight: Any) -> bool:
    """Whether the Triton kernels read a weight.

    They read no lists and no GGUF blocks. Rows of codes are read by 8 or 16 bytes.
    """
    if not isinstance(weight, QuantTensor):
        return isinstance(weight, Tensor)
    is_known = weight.format.name in ("fp8", "int8", "nvfp4", "int4")
    return is_known and weight.shape[-1] % 16 == 0 and weight.format.group % 16 == 0


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def multiplies(name: str, like: Tensor) -> bool:
    """Whether a tensor's card multiplies a format as such (../select.py).

    The interpreter multiplies everything.
    """
    return not like.is_cuda or select.multiplies(name, _capability(like.device))


def rows_of(each: float, size: int, decoded: bool, generation: int) -> int:
    """Rows of a block of an expert that has `each` rows on average, numbers of `size` bytes. generation: of
    the card, 9 for sm_90.

    A block decodes its part of the weight anew, which on sm_90 and sm_100, whose memory and tensor units are
    fast, costs more than rows that are empty: of 16 rows on average, two fifths of the experts would make
    two blocks of 16. Elsewhere products cost more.
    """
    if size == 4:
        return 16
    few = 12 if decoded and generation in (9, 10) else 24
    if each <= few:
        return 16
    return 32 if each <= 48 else 64


def rows_for(each: float, x: Tensor, weight: Weight) -> int:
    """`rows_of` for x and a weight [E, O, I]."""
    decoded = isinstance(weight, QuantTensor) and not (weight.rounded and multiplies(weight.format.name, x))
    return rows_of(each, x.element_size(), decoded, _capability(x.device)[0] if x.is_cuda else 9)


def operands(x: Tensor, weight: Weight, rows: int) -> tuple[dict[str, Tensor | None], dict[str, Any]]:
    """What a kernel hands to `products` for x [N, I] in blocks of `rows` and a weight: its tensors, its
    constants and options.

    x is rounded here where the weight wants that: to codes where the card multiplies them, to numbers
    elsewhere.
    """
    names = ("x", "x_scales", "token", "codes", "scales", "zeros", "row_scale")
    tensors: dict[str, Tensor | None] = dict.fromkeys(names) | {"x": x.contiguous()}
    if not isinstance(weight, QuantTensor):
        constants = {"NAME": "plain", "GROUP": 0, "SPAN": 0, "ROWS": rows, "ROUNDED": False, "PACKED": False}
        shape = shape_of("plain", False, rows, x.element_size())
        return tensors | {"codes": weight}, constants | shape | {"WIDEN": not x.is_cuda}
    format = weight.format
    parts = weight.parts
    is_rounded = weight.rounded and multiplies(format.name, x)
    if is_rounded and format.name == "fp8":
        tensors["x"], tensors["token"] = to_fp8(x)
    elif is_rounded:
        tensors["x"], tensors["x_scales"], tensors["token"] = to_nvfp4(x)
    elif weight.rounded:
        tensors["x"] = codec(format).rounded(x)
    for name, part in parts.items():
        tensor_name = "row_scale" if name == "row" else name
        tensors[tensor_name] = part.view(torch.uint8) if part.dtype == torch.float8_e4m3fn else part
    shape = shape_of(format.name, is_rounded, rows, x.element_size(), format.group)
    # else a weight is rounded once, from float32
    fits = format.name != "int4" or parts["scales"].dtype == x.dtype
    constants = {
        "NAME": format.name,
        "GROUP": format.group,
        "SPAN": math.gcd(format.group, shape["DEEP"]),
        "ROWS": rows,
        "ROUNDED": is_rounded,
        "PACKED": x.is_cuda and x.element_size() == 2 and fits,
    }
    return tensors, constants | shape | {"WIDEN": not x.is_cuda}
