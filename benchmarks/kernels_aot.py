"""Compile the Triton kernels ahead of time for every architecture, without a card, and say what each one needs.

    python benchmarks/kernels_aot.py [--arch 80 86 89 90 100 120 121] [--only REGEX] [--json] [--brief]

Per kernel and architecture: registers, bytes of stack (spills), shared memory, conversions of FP8 numbers, loads of single 8- and
16-bit elements, and which tensor instruction was chosen, read from the machine code by the tools in Triton's own wheel. Rows go to
benchmarks/results/kernels_aot.csv; with --only or --arch they take the place of the old ones, and the others stay. Trap: it must run without TRITON_INTERPRET, which turns kernels into Python functions.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dgemma.kernels.triton import attention as attention_triton
from dgemma.kernels.triton import heads as heads_triton
from dgemma.kernels.triton import matmul as matmul_triton
from dgemma.kernels.triton import moe as moe_triton
from dgemma.kernels.triton import norm as norm_triton
from dgemma.kernels.triton import operands as operands_triton
from dgemma.kernels.triton import rounding as rounding_triton
from dgemma.kernels.triton import router as router_triton
from dgemma.kernels.triton import vocab as vocab_triton

ARCHITECTURES = (80, 86, 89, 90, 100, 120, 121)
RESULTS = Path(__file__).parent / "results" / "kernels_aot.csv"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TENSOR = r"\b(HGMMA|HMMA|QGMMA|QMMA|OMMA|IMMA|UTC[HQO]MMA)\b"


@dataclass(frozen=True)
class Kernel:
    """One way to compile a kernel: names of pointers and their types, other arguments, constants, launch options.

    Launch options may stand among the constants, as operands_triton.shape_of gives them.
    """

    name: str
    function: Any
    pointers: dict[str, str]
    numbers: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3

    def source(self) -> ASTSource:
        kinds = {name: f"*{kind}" for name, kind in self.pointers.items()} | self.numbers
        signature = {name: kinds.get(name, "constexpr") for name in self.function.arg_names}
        aligned = {
            (self.function.arg_names.index(name),): [["tt.divisibility", 16]] for name in self.pointers
        }
        constants = {name: value for name, value in self.constants.items() if name in signature}
        return ASTSource(self.function, signature, constants, aligned)

    @property
    def launch(self) -> dict[str, int]:
        own = {"num_warps": self.warps, "num_stages": self.stages}
        return own | {name: self.constants[name] for name in own if name in self.constants}


def kernels() -> list[Kernel]:
    """Every kernel without weights in few bits, at the shapes of the published model."""
    tables = {"sums": "fp32", "moments": "fp32", "tops": "fp32", "places": "i32"}
    sizes = {"rows": "i32", "vocab": "i32", "tiles": "i32", "cap": "fp32"}
    found = []
    for rows in (16, 64, 128):
        found.append(Kernel(
            f"vocab tiles, {rows} rows", vocab_triton._tiles,
            {"hidden": "bf16", "table": "bf16", "heat": "fp32", "p": "bf16"} | tables, sizes,
            {"width": 2816, "ROWS": rows, "TOKENS": 128, "DEPTH": 64, "WIDEN": False}, warps=8,
        ))  # fmt: skip
    found.append(Kernel(
        "vocab rescale", vocab_triton._rescale, {"heat": "fp32", "p": "bf16", "sums": "fp32", "moments": "fp32", "tops": "fp32"},
        {"vocab": "i32", "tiles": "i32"}, {"TOKENS": 128, "TILES": 2048, "PARTS": 16}, warps=1,
    ))  # fmt: skip
    outputs = {"uniforms": "fp32", "argmax": "i64", "sample": "i64", "entropy": "fp32", "row_sum": "fp32"}
    found.append(Kernel(
        "vocab rows", vocab_triton._rows, {"p": "bf16"} | tables | outputs, {"vocab": "i32", "tiles": "i32"},
        {"TOKENS": 128, "TILES": 2048},
    ))  # fmt: skip
    found += [kernel for rows in (16, 32, 64) for kernel in experts_of(PLAIN, rows)]
    spans = {"keys": "i64", "values": "i64", "table": "i32", "blocks": "i32"}
    for width, group in ((64, 4), (128, 4), (256, 2), (512, 8)):
        shape = attention_triton.shape_of(width)
        constants = {
            "kind": tl.bfloat16,
            "width": width,
            "group": group,
            "ROWS": shape.rows,
            "KEYS": shape.keys,
        }
        found.append(Kernel(
            f"attention, head {width}", attention_triton._attend, {"q": "bf16", "out": "bf16"} | spans,
            {"total": "i32", "window": "i32"}, constants | {"STEPS": 0, "WIDEN": False}, shape.warps, shape.stages,
        ))  # fmt: skip
        block = shape.rows // group
        found.append(Kernel(
            f"attention store, head {width}", attention_triton._store, {"k": "bf16", "v": "bf16"} | spans, {"total": "i32"},
            {"kind": tl.bfloat16, "width": width, "block": block, "ROWS": block},
        ))  # fmt: skip
    return found + around()


@dataclass(frozen=True)
class Weights:
    """A kind of weight that products are compiled for: parts and their types, and from which architectures on."""

    name: str  # in the table
    format: str = "plain"
    parts: tuple[tuple[str, str], ...] = ()
    group: int = 0
    packed: bool = True
    rounded: bool = False
    cards: tuple[int, ...] = ARCHITECTURES
    x: str = "bf16"

    def operands(self, rows: int) -> tuple[dict[str, str], dict[str, Any]]:
        """Types of the pointers, and constants, as operands_triton.operands gives them on a card."""
        size = 4 if self.x == "fp32" else 2
        options = operands_triton.shape_of(self.format, self.rounded, rows, size, self.group)
        pointers = {"x": "u8" if self.rounded else self.x, **dict(self.parts)}
        absent = dict.fromkeys({"x_scales", "token", "scales", "zeros", "row_scale"} - set(pointers))
        constants = {
            "NAME": self.format, "GROUP": self.group, "SPAN": math.gcd(self.group, options["DEEP"]), "PACKED": self.packed,
            "ROUNDED": self.rounded, "ROWS": rows, "WIDEN": False,
        }  # fmt: skip
        return pointers, absent | constants | options


FP8, FP4 = "fp8 x fp8", "nvfp4 x nvfp4"
ROW = ("row_scale", "fp32")
NVFP4 = (("codes", "u8"), ("scales", "u8"), ROW)
INT4 = (("codes", "u8"), ("scales", "bf16"))
TOKEN = ("token", "fp32")
PLAIN = Weights("", parts=(("codes", "bf16"),), packed=False)
WEIGHTS = (
    Weights("fp8", "fp8", (("codes", "u8"), ROW)),
    Weights("nvfp4", "nvfp4", NVFP4, 16),
    Weights("int4", "int4", INT4, 32),
    Weights("int4 of 128 with zeros", "int4", (*INT4, ("zeros", "u8")), 128),
    Weights(
        FP8, "fp8", (("codes", "u8"), ROW, TOKEN), rounded=True, packed=False, cards=(89, 90, 100, 120, 121)
    ),
    Weights(
        FP4, "nvfp4", (*NVFP4, TOKEN, ("x_scales", "u8")), 16, rounded=True, packed=False, cards=(100, 120)
    ),
)
SCARCE = (  # dense products only
    Weights("int8", "int8", (("codes", "i8"), ROW)),
    Weights(
        "int4 with half scales",
        "int4",
        (("codes", "u8"), ("scales", "fp16"), ("zeros", "u8")),
        128,
        packed=False,
    ),
    Weights("int4 in float16", "int4", (("codes", "u8"), ("scales", "fp16")), 32, x="fp16"),
    Weights("nvfp4 in float16", "nvfp4", NVFP4, 16, x="fp16"),
    Weights("nvfp4 in float32", "nvfp4", NVFP4, 16, packed=False, x="fp32"),
)


def named(*words: str) -> str:
    return " ".join(filter(None, words))


def experts_of(weights: Weights, rows: int) -> list[Kernel]:
    routing = {"order": "i64", "owner": "i32", "first": "i32", "last": "i32"}
    pointers, options = weights.operands(rows)
    sizes = {"width": 2816, "depth": 704}
    return [
        Kernel(
            named("experts inner", weights.name) + f", {rows} rows", moe_triton._inner, pointers | {"inner": "bf16"} | routing,
            {"top_k": "i32"}, sizes | moe_triton.paired(options),
        ),
        Kernel(
            named("experts outer", weights.name) + f", {rows} rows", moe_triton._outer,
            pointers | {"out": "bf16", "shares": "fp32"} | routing, {}, sizes | options,
        ),
    ]  # fmt: skip


def product_of(weights: Weights, rows: int, cols: int = 0) -> Kernel:
    """A dense product; cols: cut finer than usual, for products of few blocks."""
    pointers, options = weights.operands(rows)
    options["COLS"] = cols or options["COLS"]
    return Kernel(
        f"product {weights.name}, {rows} x {options['COLS']}", matmul_triton._product, pointers | {"out": weights.x},
        {"rows": "i32"}, options | {"outs": 4096, "width": 2816},
    )  # fmt: skip


def of_weights(architecture: int, brief: bool = False) -> list[Kernel]:
    """Experts and dense products with weights in few bits, for one architecture; brief: one block size of each."""
    found = []
    for weights in (one for one in WEIGHTS if architecture in one.cards):
        usual = operands_triton.rows_of(
            16, 2, not weights.rounded, architecture // 10
        )  # of a step's 256 rows
        found += [
            kernel for rows in ((usual,) if brief else (16, 32, 64)) for kernel in experts_of(weights, rows)
        ]
    for weights in (one for one in (*WEIGHTS, *([] if brief else SCARCE)) if architecture in one.cards):
        shapes = [(16, 0), (16, 64), (64, 0), (64, 64), (128, 0)]  # 128: a prompt
        if weights.x == "fp32":
            shapes = [(16, 0), (32, 0)]
        elif weights.name == FP4:  # matmul_triton.product cuts it no finer
            shapes = [(16, 0), (64, 0), (128, 0)]
        found += [product_of(weights, *shape) for shape in ([(64, 0)] if brief else shapes)]
    outputs, shape = (
        {"x": "bf16", "codes": "u8", "token": "fp32"},
        {"width": 2816, "BLOCK": rounding_triton.BLOCK},
    )
    found.append(Kernel("round to fp8", rounding_triton._fp8, outputs, {}, shape))
    found.append(Kernel("round to nvfp4", rounding_triton._nvfp4, outputs | {"scales": "u8"}, {}, shape))
    return found


def around() -> list[Kernel]:
    """What stands between the products of a layer: norms, heads, the router."""
    found = []
    for name, width, weighted, added in (
        ("norm", 2816, 1, 0),
        ("add norm", 2816, 1, 1),
        ("norm without weight", 256, 0, 0),
    ):
        rows, block, warps = norm_triton.shape_of(width)
        found.append(Kernel(
            name, norm_triton._norm, {"x": "bf16", "residual": "bf16", "weight": "bf16", "out": "bf16"},
            {"rows": "i32", "eps": "fp32"},
            {"width": width, "ROWS": rows, "BLOCK": block, "WEIGHTED": weighted, "ADDED": added, "WIDEN": False}, warps,
        ))  # fmt: skip
    tensors = ("q", "k", "v", "q_weight", "k_weight", "cos", "sin", "q_out", "k_out", "v_out")
    for width, groups in ((256, 8), (512, 2)):
        shape = {
            "heads": 16,
            "groups": groups,
            "half": width // 2,
            "HALF": width // 2,
            "ROWS": 2048 // width,
            "WIDEN": False,
        }
        strides = {"q_stride": 16 * width, "k_stride": groups * width, "v_stride": groups * width}
        found.append(Kernel(
            f"heads of {width}", heads_triton._heads, dict.fromkeys(tensors, "bf16"), {"rows": "i32", "eps": "fp32"},
            shape | strides,
        ))  # fmt: skip
    numbers = {"rows": "i32", "eps": "fp32", "root": "fp32"}
    for rows, deep, warps in ((16, 128, 4), (64, 64, 8)):
        found.append(Kernel(
            f"router scores, {rows} rows", router_triton._score, dict.fromkeys(("x", "proj", "scale", "scores"), "bf16"), numbers,
            {"experts": 128, "width": 2816, "ROWS": rows, "COLS": rows, "DEEP": deep, "WIDEN": False}, warps,
        ))  # fmt: skip
    found.append(Kernel(
        "router choice", router_triton._choose, {"scores": "bf16", "per_expert": "bf16", "weights": "fp32", "index": "i64"},
        {"rows": "i32"}, {"experts": 128, "top_k": 8, "ROWS": 4, "EXPERTS": 128, "CHOICES": 8},
    ))  # fmt: skip
    found.append(Kernel(
        "routing", router_triton._route, {"index": "i64", "order": "i64", "owner": "i32", "first": "i32", "last": "i32"},
        {"total": "i32", "blocks": "i32", "rows": "i32"},
        {"experts": 128, "EXPERTS": 128, "BLOCK": router_triton.BLOCK, "STEPS": 0},
    ))  # fmt: skip
    return found


def resources(kernel: Kernel, architecture: int) -> dict[str, Any]:
    """What the compiled kernel needs of a multiprocessor."""
    built = triton.compile(kernel.source(), target=GPUTarget("cuda", architecture, 32), options=kernel.launch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        call = [TOOLS / "cuobjdump", "-res-usage", file.name]
        usage = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        code = subprocess.run([TOOLS / "nvdisasm", file.name], capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    used = collections.Counter(re.findall(TENSOR, code))
    return {
        "triton": triton.__version__, "arch": f"sm_{architecture}", "kernel": kernel.name, "warps": kernel.launch["num_warps"],
        "registers": int(registers), "stack_bytes": int(stack), "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "shared_bytes": built.metadata.shared,
        "fp8_conversions": len(re.findall(r"\bF2FP?\.[\w.]*E4M3", code)),
        "narrow_loads": len(re.findall(r"\bLDG\.E\.U(?:8|16)\b", code)),
        # the wheel's disassembler knows no sm_121
        "tensor": " ".join(f"{name} x{count}" for name, count in used.items()) if code else "not read",
    }  # fmt: skip


def table(architectures: list[int], brief: bool, only: str) -> Iterator[dict[str, Any]]:
    for architecture in architectures:
        for kernel in kernels() + of_weights(architecture, brief):
            if re.search(only, kernel.name):
                yield resources(kernel, architecture)


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the file, these instead of those of the same kernels; kernels that are no more are left out."""
    kept = list(csv.DictReader(RESULTS.read_text().splitlines())) if RESULTS.exists() else []
    found = {(row["arch"], row["kernel"]): row for row in [*kept, *rows]}
    every = ((f"sm_{arch}", kernel.name) for arch in ARCHITECTURES for kernel in kernels() + of_weights(arch))
    return [found[key] for key in every if key in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--json", action="store_true", help="print the rows, and keep the file as it is")
    parser.add_argument(
        "--brief", action="store_true", help="of weights in few bits only one block size each"
    )
    parser.add_argument("--only", metavar="REGEX", default="", help="kernels whose names it is found in")
    options = parser.parse_args()
    rows = list(table(options.arch, options.brief, options.only))
    if options.json:
        json.dump(rows, sys.stdout)
        return
    every = merged(rows)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(every)
    for row in rows:
        print("  ".join(str(value) for value in row.values()))


if __name__ == "__main__":
    main()
