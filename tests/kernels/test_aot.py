"""The Triton kernels compile for real cards without one: no spills, shared memory that fits, tensor instructions chosen."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dgemma.kernels.select import triton_version

pytest.importorskip("triton")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels_aot.py"
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99, 121: 99}  # KiB that one block may have
FP8 = {
    89: "QMMA",
    90: "QGMMA",
    100: "UTCQMMA",
    120: "QMMA",
    121: "not read",
}  # who multiplies them as such, and with what
FP4 = {100: "UTCOMMA", 120: "OMMA"}
TENSOR = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA", 121: "not read"}

if triton_version() >= (3, 9):  # it has FP4 for sm_121, and a disassembler that reads it
    FP8[121] = "QMMA"
    FP4[121] = "OMMA"
    TENSOR[121] = "HMMA"

# Known faults of newer compilers: (bytes of stack, spilled instructions) of a kernel that Triton 3.6 compiles without any.
NEWER_TRITON = triton_version() >= (3, 7)
SPILLED = {
    ("sm_100", "vocab tiles, 128 rows"): (584, 234),
    ("sm_120", "vocab tiles, 128 rows"): (8, 4),
    ("sm_121", "vocab tiles, 128 rows"): (8, 4),
    ("sm_120", "experts inner int4 of 128 with zeros, 16 rows"): (32, 17),
    ("sm_121", "experts inner int4 of 128 with zeros, 16 rows"): (32, 17),
}


def compiled_here() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def compiled(architecture: int, *options: str) -> list[dict]:
    """In a process of its own: here, kernels are the interpreter's."""
    call = [sys.executable, str(SCRIPT), "--json", "--arch", str(architecture), *options]
    return json.loads(
        subprocess.run(call, capture_output=True, text=True, check=True, env=compiled_here()).stdout
    )


@pytest.mark.parametrize(
    "architecture", [pytest.param(arch, marks=() if arch == 120 else pytest.mark.slow) for arch in SHARED]
)
def test_kernels_fit_their_cards(architecture: int) -> None:
    rows = compiled(architecture, "--brief")
    assert len(rows) >= 5
    for row in rows:
        most_stack, most_spills = (
            SPILLED.get((row["arch"], row["kernel"]), (0, 0)) if NEWER_TRITON else (0, 0)
        )
        assert row["stack_bytes"] <= most_stack and row["spills"] <= most_spills, row
        assert row["shared_bytes"] <= SHARED[architecture] * 1024, row
        assert row["narrow_loads"] == 0 or not row["kernel"].startswith("attention"), (
            row
        )  # K and V by 16 bytes
    found = {row["kernel"]: row for row in rows}
    assert TENSOR[architecture] in found["vocab tiles, 128 rows"]["tensor"]
    for form in ("fp8", "nvfp4", "int4", "int4 of 128 with zeros"):  # decoded from integers
        row = found[f"experts inner {form}, {32 if architecture in (90, 100) else 16} rows"]
        assert row["fp8_conversions"] == 0 and row["tensor"].startswith((TENSOR[architecture], "not read")), (
            row
        )
    assert TENSOR[architecture] in found["product int4, 64 x 128"]["tensor"]
    for form, tensor in (("fp8 x fp8", FP8), ("nvfp4 x nvfp4", FP4)):
        own = {name: row for name, row in found.items() if form in name}
        assert bool(own) == (architecture in tensor)
        for row in own.values():  # no other product, and none of the codes made wider before it
            assert (
                re.fullmatch(rf"{tensor[architecture]} x\d+|not read", row["tensor"])
                and row["fp8_conversions"] == 0
            ), row


def test_what_this_triton_cannot_do_is_left_to_the_decoded_form() -> None:
    """FP8 products before sm_89 and, before Triton 3.9, FP4 ones on sm_121 (select.multiplies); on sm_90 it imitates them."""
    cannot = [("fp8 x fp8", 86)]
    if triton_version() < (3, 9):
        cannot += [("nvfp4 x nvfp4", 90), ("nvfp4 x nvfp4", 121)]
    for form, architecture in cannot:
        weights = f"next(one for one in k.WEIGHTS if one.name == {form!r})"
        code = f"import kernels_aot as k; k.resources(k.product_of({weights}, 64), {architecture})"
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=SCRIPT.parent,
            env=compiled_here(),
        )
        assert ran.returncode != 0 and ("PassManager::run failed" in ran.stderr or "fp8e4nv" in ran.stderr), (
            ran.stderr[-500:]
        )


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SHARED)
def test_all_block_sizes_fit_their_cards(architecture: int) -> None:
    for row in compiled(architecture):
        assert (
            row["spills"] == row["stack_bytes"] == 0 and row["shared_bytes"] <= SHARED[architecture] * 1024
        ), row
