"""Builds the C kernels (src/dgemma/kernels/c) into the package where it is installed: Linux on x86-64 with a C compiler. Anywhere else, and
where that fails, the package is the same without them, and torch's operations run instead.

Also by hand, after a change of the sources: python hatch_build.py
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent / "src" / "dgemma" / "kernels" / "c"
FLAGS = ("-O3", "-std=gnu11", "-march=x86-64-v4", "-shared", "-fPIC")
KINDS = {"float32": (), "bfloat16": ("-mavx512bf16", "-DBF16")}


def build() -> list[Path]:
    """The libraries that are there now, made from the sources as they are: one of each kind, or none."""
    for old in SOURCES.glob("*.so"):
        old.unlink()  # a process that has it open keeps it
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        return []
    files = sorted(SOURCES.glob("*.[ch]"))
    hashed = zlib.crc32(b"".join(path.read_bytes() for path in files))
    made = [SOURCES / f"{kind}.so" for kind in KINDS]
    for library, flags in zip(made, KINDS.values(), strict=True):
        named = [str(path) for path in files if path.suffix == ".c"]
        command = [
            os.environ.get("CC", "cc"),
            *FLAGS,
            *flags,
            f"-DSOURCE={hashed}u",
            *named,
            "-o",
            str(library),
            "-lm",
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no C kernels: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
            return []
    return made


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand
    pass
else:

    class Kernels(BuildHookInterface):  # type: ignore[type-arg]
        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if made := build():
                build_data["artifacts"] += [f"src/dgemma/kernels/c/{library.name}" for library in made]
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform.system().lower()}_{platform.machine().lower()}"


if __name__ == "__main__":
    raise SystemExit(not build())
