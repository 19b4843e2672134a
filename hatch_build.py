"""Builds the C kernels (src/dgemma/kernels/c) into the package where it is installed: Linux on x86-64 with a C compiler. Anywhere else, and
where that fails, the package is the same without them, and torch's operations run instead.

Also by hand, after a change of the sources: python hatch_build.py
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent / "src" / "dgemma" / "kernels" / "c"
LIBRARY = SOURCES / "kernels.so"
FLAGS = ("-O3", "-std=gnu11", "-march=x86-64-v4", "-mavx512bf16", "-shared", "-fPIC")


def build() -> bool:
    """Whether the library is there now, made from the sources as they are."""
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    files = sorted(SOURCES.glob("*.[ch]"))
    hashed = zlib.crc32(b"".join(path.read_bytes() for path in files))
    with tempfile.TemporaryDirectory(dir=SOURCES) as place:
        made = Path(place) / LIBRARY.name
        command = [os.environ.get("CC", "cc"), *FLAGS, f"-DSOURCE={hashed}u", *[str(path) for path in files if path.suffix == ".c"], "-o", str(made), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            LIBRARY.unlink(missing_ok=True)
            print(f"no C kernels: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
            return False
        made.replace(LIBRARY)  # a process that has the old one open keeps it
    return True


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand
    pass
else:

    class Kernels(BuildHookInterface):  # type: ignore[type-arg]
        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if build():
                build_data["artifacts"].append("src/dgemma/kernels/c/kernels.so")
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform.system().lower()}_{platform.machine().lower()}"


if __name__ == "__main__":
    raise SystemExit(not build())
