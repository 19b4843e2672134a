"""Compile the Triton kernels ahead of time for every architecture, without a card, and say what each one needs.

    python benchmarks/kernels_aot.py [--arch 80 86 89 90 100 120 121] [--json]

Per kernel and architecture: registers, bytes of stack (spills), shared memory, loads of single 8- or 16-bit elements, and which
tensor instruction was chosen, read from the machine code by the tools in Triton's own wheel. Rows go to
benchmarks/results/kernels_aot.csv. Trap: it must run without TRITON_INTERPRET, which turns kernels into Python functions.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
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

from dgemma.kernels import attention_triton, heads_triton, moe_triton, norm_triton, router_triton, vocab_triton

ARCHITECTURES = (80, 86, 89, 90, 100, 120, 121)
RESULTS = Path(__file__).parent / "results" / "kernels_aot.csv"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TENSOR = r"\b(HGMMA|HMMA|QGMMA|QMMA|OMMA|IMMA|UTC[HQO]MMA)\b"


@dataclass(frozen=True)
class Kernel:
    """One way to compile a kernel: names of pointers and their types, other arguments, constants, launch options."""

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
        aligned = {(self.function.arg_names.index(name),): [["tt.divisibility", 16]] for name in self.pointers}
        return ASTSource(self.function, signature, self.constants, aligned)


def kernels() -> list[Kernel]:
    """Every kernel at the shapes of the published model."""
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
    routing = {"order": "i64", "owner": "i32", "first": "i32", "last": "i32"}
    for rows in (16, 32, 64):
        shape = {"width": 2816, "depth": 704, "ROWS": rows, "COLS": 64, "DEEP": 64, "WIDEN": False}
        found.append(Kernel(
            f"experts inner, {rows} rows", moe_triton._inner, {"x": "bf16", "table": "bf16", "inner": "bf16"} | routing,
            {"top_k": "i32"}, shape, stages=4,
        ))  # fmt: skip
        found.append(Kernel(
            f"experts outer, {rows} rows", moe_triton._outer,
            {"inner": "bf16", "table": "bf16", "out": "bf16", "shares": "fp32"} | routing, {}, shape, stages=4,
        ))  # fmt: skip
    spans = {"keys": "i64", "values": "i64", "table": "i32", "blocks": "i32"}
    for width, group in ((64, 4), (128, 4), (256, 2), (512, 8)):
        shape = attention_triton.shape_of(width)
        constants = {"kind": tl.bfloat16, "width": width, "group": group, "ROWS": shape.rows, "KEYS": shape.keys}
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


def around() -> list[Kernel]:
    """What stands between the products of a layer: norms, heads, the router."""
    found = []
    for name, width, weighted, added in (("norm", 2816, 1, 0), ("add norm", 2816, 1, 1), ("norm without weight", 256, 0, 0)):
        rows, block, warps = norm_triton.shape_of(width)
        found.append(Kernel(
            name, norm_triton._norm, {"x": "bf16", "residual": "bf16", "weight": "bf16", "out": "bf16"},
            {"rows": "i32", "eps": "fp32"},
            {"width": width, "ROWS": rows, "BLOCK": block, "WEIGHTED": weighted, "ADDED": added, "WIDEN": False}, warps,
        ))  # fmt: skip
    tensors = ("q", "k", "v", "q_weight", "k_weight", "cos", "sin", "q_out", "k_out", "v_out")
    for width, groups in ((256, 8), (512, 2)):
        shape = {"heads": 16, "groups": groups, "half": width // 2, "HALF": width // 2, "ROWS": 2048 // width, "WIDEN": False}
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
    options = {"num_warps": kernel.warps, "num_stages": kernel.stages}
    built = triton.compile(kernel.source(), target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        call = [TOOLS / "cuobjdump", "-res-usage", file.name]
        usage = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        code = subprocess.run([TOOLS / "nvdisasm", file.name], capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    used = collections.Counter(re.findall(TENSOR, code))
    return {
        "triton": triton.__version__, "arch": f"sm_{architecture}", "kernel": kernel.name, "warps": kernel.warps,
        "registers": int(registers), "stack_bytes": int(stack), "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "shared_bytes": built.metadata.shared, "narrow_loads": len(re.findall(r"\bLDG\.E\.U(?:8|16)\b", code)),
        # the wheel's disassembler knows no sm_121
        "tensor": " ".join(f"{name} x{count}" for name, count in used.items()) if code else "not read",
    }  # fmt: skip


def table(architectures: list[int]) -> Iterator[dict[str, Any]]:
    for architecture in architectures:
        for kernel in kernels():
            yield resources(kernel, architecture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--json", action="store_true", help="print the rows, and keep the file as it is")
    options = parser.parse_args()
    rows = list(table(options.arch))
    if options.json:
        json.dump(rows, sys.stdout)
        return
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(str(value) for value in row.values()))


if __name__ == "__main__":
    main()
