"""The Triton kernels compile for real cards without one: no spills, shared memory that fits, tensor instructions chosen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels_aot.py"
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99, 121: 99}  # KiB that one block may have
TENSOR = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA", 121: "not read"}


def compiled(architecture: int) -> list[dict]:
    """In a process of its own: here, kernels are the interpreter's."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    call = [sys.executable, str(SCRIPT), "--json", "--arch", str(architecture)]
    return json.loads(subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.parametrize(
    "architecture", [pytest.param(arch, marks=() if arch in (90, 120) else pytest.mark.slow) for arch in SHARED]
)
def test_kernels_fit_their_cards(architecture: int) -> None:
    rows = compiled(architecture)
    assert len(rows) >= 5
    for row in rows:
        assert row["spills"] == row["stack_bytes"] == 0, row
        assert row["shared_bytes"] <= SHARED[architecture] * 1024, row
        assert row["narrow_loads"] == 0 or not row["kernel"].startswith("attention"), row  # K and V by 16 bytes
    assert TENSOR[architecture] in next(row for row in rows if row["kernel"] == "vocab tiles, 128 rows")["tensor"]
