"""The number formats that weights are kept in: which parts a quantised matrix has, and how many bytes that
is.

Arithmetic on names and shapes, for planner, headers and kernels alike; what the numbers mean is in
kernels/quant/<format>.py. A matrix is [..., out, in] and its scales run along `in`. Trap: published layouts
call the same parts by other names, pack them along other axes and invert some scales; weights/unpack.py turns
them into these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import UsageError

# safetensors' names of the dtypes that parts are kept in, and their bytes
BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8}
# of GGUF: elements of a block and its bytes (ggml's block_q8_0, block_q4_K ...), of the types that published
# files are made of
BLOCKS = {
    "q8_0": (32, 34),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
}
# what a model computes in: torch's names, and safetensors' of the same
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
DTYPE_OF = {stored: name for name, stored in DTYPES.items()}
NAMES = ("fp8", "int8", "nvfp4", "int4", *BLOCKS)
GROUPS = {"nvfp4": 16, "int4": 32}  # default elements of a group; int4 may have others
PLAIN = "bf16"  # in a recipe: left as it is
REST = (
    "attention",
    "dense",
)  # groups of tensors (weights/names.py) that a recipe may name apart from the experts


@dataclass(frozen=True)
class Format:
    """One number format. Its parts for a matrix [..., O, I]:

    fp8    codes F8_E4M3 [..., O, I], row F32 [..., O]
    int8   codes I8 [..., O, I], row F32 [..., O]
    nvfp4  codes U8 [..., O, I/2], scales F8_E4M3 [..., O, I/16], row F32 [..., O]
    int4   codes U8 [..., O, I/2], scales [..., O, I/group], and zeros U8 of that shape where `zeros`
    q8_0, q4_k, q6_k ... (BLOCKS)   codes U8 [..., O, blocks of I, bytes of a block]

    The matrix is what the codes stand for, times the scale of their group, times the scale of their row.
    """

    name: str
    group: int = 0  # elements along `in` that share a scale; 0: no such scales
    zeros: bool = False  # int4: a group has a zero point of its own; without it that is 8
    scale: str = "BF16"  # int4: dtype of the scales

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"there is no number format '{self.name}'; formats: {', '.join(NAMES)}")
        if self.name in GROUPS and not self.group:
            object.__setattr__(self, "group", GROUPS[self.name])

    @property
    def has_rows(self) -> bool:
        """Whether every row has a scale of its own."""
        return self.name in ("fp8", "int8", "nvfp4")

    def divides(self, inputs: int) -> bool:
        """Whether a matrix may have so many inputs: whole groups, blocks and bytes."""
        return (
            inputs
            % math.lcm(2 if self.name in GROUPS else 1, self.group or 1, BLOCKS.get(self.name, (1, 0))[0])
            == 0
        )

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> (dtype, shape) of the parts of a matrix [..., O, I]."""
        rows = shape[:-1]
        inputs = shape[-1]
        if self.name in BLOCKS:
            elements, size = BLOCKS[self.name]
            return {"codes": ("U8", (*rows, inputs // elements, size))}
        whole = {"fp8": "F8_E4M3", "int8": "I8"}
        parts = {"codes": (whole[self.name], shape) if self.name in whole else ("U8", (*rows, inputs // 2))}
        if self.group:
            grouped = (*rows, inputs // self.group)
            parts["scales"] = ("F8_E4M3" if self.name == "nvfp4" else self.scale, grouped)
            if self.zeros:
                parts["zeros"] = ("U8", grouped)
        if self.has_rows:
            parts["row"] = ("F32", rows)
        return parts

    def part_bytes(self, shape: tuple[int, ...]) -> list[int]:
        """Bytes of each part of a matrix [..., O, I] in this format."""
        return [BYTES[dtype] * math.prod(size) for dtype, size in self.parts(shape).values()]

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a matrix [..., O, I] in this format."""
        return sum(self.part_bytes(shape))


def quant_config(name: str) -> dict[str, Format]:
    """The formats of the groups of tensors that a name stands for.

    A group that is not in it keeps its 16 bits.

    "bf16": none; "nvfp4", "int4": the experts; "fp8", "int8": experts, attention and dense; "int4+fp8": the
    experts in the first, attention and dense in the second. Router, norms, embedding and self-conditioning
    are in no recipe: in few bits they cost quality, or steps. Raises UsageError.
    """
    experts, plus, rest = name.partition("+")
    known = [PLAIN, *(one for one in NAMES if one not in BLOCKS)]  # blocks are read and never made
    if experts not in known or (plus and rest not in known):
        raise UsageError(
            f"there is no format '{name}'; formats: {', '.join(known)}, or two of them such as int4+fp8"
        )
    if not plus:
        rest = experts
        if experts in GROUPS:
            rest = PLAIN
    chosen = {"experts": experts} | dict.fromkeys(REST, rest)
    return {group: Format(one) for group, one in chosen.items() if one != PLAIN}
