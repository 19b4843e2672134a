"""The published layouts of matrices in few bits: which fields each has, their dtypes and shapes, and which
modules have it.

quantization.py makes these from a config; which matrices are quantised is said by the files. Never loads
torch. Trap: the same field name means two things: `weight_scale` is a scale per row in FP8 and one per
group in NVFP4, and NVFP4's scale of a whole matrix is stored inverted by one tool (`weight_global_scale`)
and plain by the other (`weight_scale_2`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..config.formats import Format

FLOATS = ("BF16", "F16", "F32")
ONE = ((1,), (), (1, 1))  # shapes of a scale of a whole matrix
Test = Callable[[str, str], bool]  # of a module's name and kind


@dataclass(frozen=True)
class Field:
    """One tensor of a quantised matrix: the dtypes and shapes it may have, and whether it may be absent."""

    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    needed: bool = True


@dataclass(frozen=True)
class Scheme:
    """How the fields of a published layout stand for a matrix; unpack.py does it."""

    # float-quantized, int-quantized, pack-quantized, nvfp4-pack-quantized, modelopt, gptq, gptq_v2, awq,
    # gguf
    layout: str
    format: Format
    rounded: bool = False  # the file declares that activations are rounded to the same kind of numbers
    whole: bool = False  # fp8 and int8: one scale for the matrix, not one per row
    permuted: bool = False  # inputs were sorted, so the file must say which group each belongs to

    def __str__(self) -> str:
        groups = ""
        if self.format.group:
            groups = f" in groups of {self.format.group}"
        return f"{self.format.name}{groups} ({self.layout})"

    @property
    def scales(self) -> str:
        """The field whose dtype the file chooses."""
        if self.layout in ("gptq", "gptq_v2", "awq"):
            return "scales"
        return "weight_scale"

    def stored(self, dtype: str) -> Format:
        """The format of a matrix whose scales are kept in `dtype`."""
        if self.format.name == "int4":
            return replace(self.format, scale=dtype)
        return self.format

    def fields(self, shape: tuple[int, int]) -> dict[str, Field]:
        """The fields of a matrix [O, I], by name; I is a multiple of what `format.divides` asks for."""
        rows, inputs = shape
        groups = inputs // (self.format.group or inputs)
        eights = -(-inputs // 8)
        if self.layout in ("float-quantized", "int-quantized"):
            return {
                "weight": Field(("F8_E4M3" if self.format.name == "fp8" else "I8",), (shape,)),
                "weight_scale": Field(FLOATS, ONE if self.whole else ((rows, 1), (rows,))),
                "input_scale": Field(FLOATS, ONE, needed=False),
            }
        if self.layout == "pack-quantized":
            zeros = (
                {"weight_zero_point": Field(("I32",), ((-(-rows // 8), groups),))}
                if self.format.zeros
                else {}
            )
            return zeros | {
                "weight_packed": Field(("I32",), ((rows, eights),)),
                "weight_scale": Field(FLOATS, ((rows, groups),)),
                "weight_shape": Field(("I64", "I32"), ((2,),), needed=False),
                "weight_g_idx": Field(("I32",), ((inputs,),), needed=self.permuted),
            }
        if self.layout in ("nvfp4-pack-quantized", "modelopt"):
            names = {"modelopt": ("weight", "weight_scale_2", "input_scale")}
            codes, whole, activations = names.get(
                self.layout, ("weight_packed", "weight_global_scale", "input_global_scale")
            )
            return {
                codes: Field(("U8",), ((rows, inputs // 2),)),
                "weight_scale": Field(("F8_E4M3",), ((rows, groups),)),
                whole: Field(("F32",), ONE),
                activations: Field(("F32",), ONE, needed=False),
            }
        if self.layout == "awq":
            order = {}
        else:
            order = {"g_idx": Field(("I32",), ((inputs,),), needed=self.permuted)}
        if self.layout == "awq":
            packed = (inputs, -(-rows // 8))
        else:
            packed = (eights, rows)
        return order | {
            "qweight": Field(("I32",), (packed,)),
            "qzeros": Field(("I32",), ((groups, -(-rows // 8)),)),
            "scales": Field(FLOATS, ((groups, rows),)),
        }


@dataclass(frozen=True)
class Group:
    """Modules that share a scheme. targets: names of classes or modules, or regular expressions after
    "re:".
    """

    targets: tuple[str, ...]
    scheme: Scheme


@dataclass(frozen=True)
class Quantization:
    """A folder's whole description. `ignore` is spelled as targets are."""

    source: str
    groups: tuple[Group, ...]
    ignore: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def scheme_of(self, module: str, kind: str) -> Scheme | None:
        """What the numbers of a module mean (kind: "Linear" or "Embedding"): names go before patterns,
        these before kinds.
        """
        for number in range(3):
            for group, names in zip(self.groups, self._targets, strict=True):
                if names[number](module, kind):
                    return group.scheme
        return None

    def ignores(self, module: str, kind: str) -> bool:
        return any(test(module, kind) for test in self._ignored)

    @functools.cached_property
    def _targets(self) -> list[tuple[Test, Test, Test]]:
        return [_tests(group.targets) for group in self.groups]

    @functools.cached_property
    def _ignored(self) -> tuple[Test, Test, Test]:
        return _tests(self.ignore)


def _tests(targets: tuple[str, ...]) -> tuple[Test, Test, Test]:
    """Whether one of `targets` is the name of a module, a pattern that fits it, or its kind."""
    names = frozenset(targets)
    patterns = [re.compile(target.removeprefix("re:")) for target in targets if target.startswith("re:")]
    return (
        lambda module, kind: module in names,
        lambda module, kind: any(pattern.match(module) for pattern in patterns),
        lambda module, kind: kind in names,
    )
