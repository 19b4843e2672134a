"""Which form of an operation runs: one choice for all of them.

Plain torch is the reference and runs everywhere. Training turns on the same functions compiled into fused
loops by torch.compile (`fuse`): on 2 CPU cores an elementwise chain over [4096, 256] costs 5-7 memory
passes in plain torch; fused, a training step takes 5.3 s of processor time instead of 7.3 s. Generation
keeps the plain form: compiling takes longer than a prompt does. In bfloat16 on a processor that has the
instructions, C (c/native.py) stands in for some of it, unless `DGEMMA_KERNELS=torch` says otherwise.
`DGEMMA_KERNELS=triton` runs an operation's Triton form where it has one (`triton/<op>.py`) and the tensor
is on a card (or Triton in its interpreter). That is no default yet: they are checked in the interpreter and
compiled for every architecture, but no card has run them.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

# the environment variable: "triton", "torch" (nothing but torch's own operations), or nothing
CHOICE = "DGEMMA_KERNELS"

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_fused = False


def wants_triton() -> bool:
    return os.environ.get(CHOICE) == "triton"


def wants_torch() -> bool:
    return os.environ.get(CHOICE) == "torch"


@functools.cache
def lacks_avx512() -> bool:
    """Whether this is an x86 processor without AVX-512 (or one that does not say).

    There 16-bit products are slower than 32-bit ones (ops/widen.py), and packed weights (ops/matmul.py) no
    faster than plain ones.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not has_instructions("avx512bw")


@functools.cache
def has_instructions(*names: str) -> bool:
    """Whether this processor says that it has them all, by Linux's names."""
    try:
        return set(names) <= set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def triton_backend(name: str, tensor: Any) -> ModuleType | None:
    """The module `triton.<name>` where it is to run for this tensor.

    None: the torch form runs, and always where something is to be learned.
    """
    if not wants_triton() or tensor.element_size() > 4 or tensor.requires_grad:
        return None
    if tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        return _module(name)
    return None


@functools.cache
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f".triton.{name}", __package__)
    except ImportError:  # no Triton on this platform
        return None


def multiplies(name: str, capability: tuple[int, int]) -> bool:
    """Whether cards of a CUDA capability multiply a number format as such, and the Triton that is here knows
    how.

    FP8 from sm_89 on. FP4 on sm_100 and sm_120, and on sm_121 from Triton 3.9 on (3.6 and 3.7 have no
    product for it).
    """
    if name == "fp8":
        return capability >= (8, 9)
    if name != "nvfp4":
        return False
    if capability == (12, 1):
        return triton_version() >= (3, 9)
    return capability[0] == 10 or capability == (12, 0)


@functools.cache
def triton_version() -> tuple[int, int]:
    """Major and minor number of the Triton that is installed; (0, 0) without one."""
    try:
        major, minor, *_ = metadata.version("triton").split(".")
    except metadata.PackageNotFoundError:
        return 0, 0
    return int(major), int(minor)


def fuse(on: bool = True) -> None:
    """Run every `fusable` function in its compiled form (needs a C++ compiler on CPU, Triton on CUDA)."""
    global _fused
    _fused = on


def fusable(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Mark a function of tensors, made of elementwise and row-wise operations only, as one that may be
    compiled.
    """

    @functools.cache
    def compiled() -> Callable[_Arguments, _Result]:
        import torch

        torch._dynamo.config.recompile_limit = (
            32  # one form per dtype and kind of argument; batches have many shapes
        )
        return torch.compile(function, dynamic=True)

    @functools.wraps(function)
    def call(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        if _fused:
            return compiled()(*arguments, **named)
        return function(*arguments, **named)

    return call
