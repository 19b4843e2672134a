"""The C kernels for tests on any x86-64 Linux with a C compiler: as installed, or, where the processor has no AVX-512, built from the same
sources with each AVX-512 register as two of AVX2 (kernels/c/avx2/immintrin.h).

A module of tests has `DTYPES = dtypes()` and the fixture `native_kernels`, which makes dgemma use them while one of its tests runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import hatch_build
from dgemma.kernels import select
from dgemma.kernels.c import native
from dgemma.kernels.ops import matmul

EMULATED = Path(__file__).parent / "kernels" / "c" / "avx2"
FLAGS = ("-O2", "-std=gnu11", "-march=x86-64-v3", "-Wno-psabi", f"-I{EMULATED}", "-shared", "-fPIC")
skip = pytest.mark.skip("no C kernels: see hatch_build.py")


@functools.cache
def emulated() -> Path | None:
    """A folder with sources and libraries made of them for a processor without AVX-512; None where they can't be made."""
    linux = sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64")
    if not linux or shutil.which("cc") is None or not select.has_instructions("avx2", "fma", "bmi2"):
        return None
    headers = b"".join(path.read_bytes() for path in EMULATED.iterdir())
    folder = (
        Path(tempfile.gettempdir())
        / f"dgemma-avx2-{native.source_hash():08x}-{hatch_build.zlib.crc32(headers):08x}-{os.getuid()}"
    )
    if not folder.exists():  # made under another name first: several processes may be here at once
        own = Path(tempfile.mkdtemp())
        for path in native.SOURCES.glob("*.[ch]"):
            shutil.copy(path, own)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hatch_build, "SOURCES", own)
            patch.setattr(hatch_build, "FLAGS", FLAGS)
            patch.setattr(hatch_build, "KINDS", {"float32": (), "bfloat16": ("-DBF16",)})
            assert hatch_build.build(), "the C kernels do not compile for AVX2"
        with contextlib.suppress(OSError):
            own.rename(folder)
    return folder


def dtypes() -> list[torch.dtype]:
    """In which the C kernels run here, by the processor's own instructions or emulated."""
    return [dtype for dtype in native.NEEDS if native.available(dtype) or emulated()]


@contextlib.contextmanager
def emulation() -> Iterator[None]:
    """dgemma's C kernels are the emulated ones, and this processor seems to have AVX-512."""
    folder = emulated()
    assert folder is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "SOURCES", folder)
        patch.setattr(native, "has_instructions", lambda *names: True)
        patch.setattr(matmul, "lacks_avx512", lambda: False)
        patch.setattr(matmul, "can_pack", lambda dtype: dtype in native.NEEDS)
        native._library.cache_clear()
        yield
    native._library.cache_clear()


@pytest.fixture
def native_kernels() -> Iterator[None]:
    with contextlib.nullcontext() if all(map(native.available, native.NEEDS)) else emulation():
        yield
