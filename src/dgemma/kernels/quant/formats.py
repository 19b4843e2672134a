"""Weights in few bits: QuantTensor, and products that decode it a piece at a time.

A quantised matrix is never decoded as a whole: a product takes some rows of it, decodes them into memory
that stays in the cache, and multiplies. What the codes of a format mean is in its own file (fp8, int8,
nvfp4, int4, ggml), which has

    encode(weight [..., O, I], format) -> parts (ggml has none)      decode(parts, format, dtype) -> [..., O,
    I] without the scale of its row check(parts) -> None or what is wrong with the values of the parts

Trap: `decode` leaves the scale of a row (fp8, int8, nvfp4) out, because it multiplies sums more exactly
than weights: codes and group scales are exact in bfloat16, their product with a float32 is not.
`dequantised` puts it in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.formats import BLOCKS, Format
from ..dtypes import arithmetic, wide
from ..sizes import PIECES
from . import fp8, ggml, int4, int8, nvfp4

DTYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A matrix [O, I], or matrices [E, O, I], in a number format. Parts are as config/formats.py says."""

    format: Format
    shape: tuple[int, ...]
    parts: dict[str, Tensor]
    rounded: bool = False  # products round what they multiply it with to the same kind of numbers

    @property
    def device(self) -> torch.device:
        return self.parts["codes"].device

    @property
    def is_cuda(self) -> bool:
        return self.parts["codes"].is_cuda

    @property
    def row(self) -> Tensor | None:
        """The scales of the rows, [..., O] float32, or None for a format without."""
        return self.parts.get("row")

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> QuantTensor:
        """One matrix of several, some of them, or some rows of one: views of its parts."""
        parts = {name: part[index] for name, part in self.parts.items()}
        shape = self.shape[1:]
        if isinstance(index, slice):
            shape = (len(parts["codes"]), *shape)
        return replace(self, shape=shape, parts=parts)

    def pieces(self, rows: int) -> Iterator[tuple[slice, QuantTensor]]:
        """A matrix [O, I] in runs of `rows` rows."""
        for start in range(0, len(self), rows):
            piece = slice(start, min(len(self), start + rows))
            yield piece, self[piece]

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """[..., O, I] without the scale of its rows."""
        numbers: Tensor = codec(self.format).decode(self.parts, self.format, dtype)
        return numbers

    def dequantised(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix as numbers, [..., O, I] in `dtype`; rounded once, from float32 or wider."""
        whole = self.decoded(wide(dtype))
        if self.row is not None:
            whole = whole * self.row[..., None]
        return whole.to(dtype)

    def to(self, device: torch.device | str) -> QuantTensor:
        return replace(self, parts={name: part.to(device) for name, part in self.parts.items()})


Weight = Tensor | QuantTensor


def bytes_of(weight: Weight | Sequence[Weight] | Sequence[tuple[Weight, Weight]]) -> int:
    """What a weight takes: plain, packed, in few bits, or a list of such."""
    if isinstance(weight, QuantTensor):
        return weight.nbytes
    if isinstance(weight, Tensor):
        return weight.numel() * weight.element_size()
    return sum(bytes_of(part) for part in weight)


def codec(format: Format) -> ModuleType:
    """The module of a format."""
    if format.name in BLOCKS:
        return ggml
    return {"fp8": fp8, "int8": int8, "nvfp4": nvfp4, "int4": int4}[format.name]


def quantise(weight: Tensor, format: Format) -> QuantTensor:
    """weight [..., O, I] in a number format. Raises ValueError where its inputs are no whole groups."""
    if not format.divides(weight.shape[-1]):
        raise ValueError(f"{weight.shape[-1]} inputs are no whole groups of {format}")
    return QuantTensor(format, tuple(weight.shape), codec(format).encode(weight, format))


def empty(format: Format, shape: tuple[int, ...], device: torch.device | str) -> QuantTensor:
    """Unfilled memory for a matrix; on "meta" it takes none."""
    parts = {
        name: torch.empty(size, dtype=DTYPES[dtype], device=device)
        for name, (dtype, size) in format.parts(shape).items()
    }
    return QuantTensor(format, tuple(shape), parts)


def product(x: Tensor, weight: QuantTensor, out: Tensor | None = None) -> Tensor:
    """x [N, I] @ weight [O, I]^T -> [N, O] in x's dtype, the weight decoded a piece at a time."""
    if weight.rounded:
        x = codec(weight.format).rounded(x)
    if out is None:
        out = torch.empty((len(x), len(weight)), dtype=x.dtype, device=x.device)
    x = x.to(arithmetic(x))
    for rows, piece in weight.pieces(_rows(weight)):
        part = F.linear(x, piece.decoded(x.dtype))
        out[:, rows] = part if piece.row is None else part * piece.row
    return out


def mixture(p: Tensor, table: QuantTensor) -> Tensor:
    """p [N, V] @ table [V, D] -> [N, D] in p's dtype, summed in float32 (float64)."""
    total = torch.zeros((len(p), table.shape[1]), dtype=wide(p.dtype), device=p.device)
    kind = arithmetic(p)
    for rows, piece in table.pieces(4 * _rows(table)):
        total += p[:, rows].to(kind) @ piece.dequantised(kind)
    return total.to(p.dtype)


def lookup(ids: Tensor, table: QuantTensor, dtype: torch.dtype) -> Tensor:
    """Rows of a table [V, D]: ids [...] -> [..., D]."""
    flat = ids.flatten()
    parts = {name: _gathered(part, flat) for name, part in table.parts.items()}
    chosen = replace(table, shape=(len(flat), table.shape[1]), parts=parts)
    return chosen.dequantised(dtype).view(*ids.shape, -1)


def _gathered(part: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a part; torch indexes no e4m3, so that goes as bytes."""
    if part.dtype == torch.float8_e4m3fn:
        return part.view(torch.uint8)[rows].view(part.dtype)
    return part[rows]


def _rows(weight: QuantTensor) -> int:
    """Rows of a matrix that are decoded at a time, a multiple of 16."""
    elements = PIECES["cuda" if weight.is_cuda else "cpu"]
    return max(16, elements // weight.shape[1] // 16 * 16)
