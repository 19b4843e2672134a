"""The one check of whether two tensors are close: relative to the size of what is right, by a limit for each operation and dtype.

    assert_close(got, want, "bfloat16", op="attention")

A limit is twice what was measured over the implementations of an operation (torch, C, Triton in its interpreter) and the
shapes of their tests; docs/log.md says with how many seeds, scripts/measure_closeness.py measures again. Trap: a limit that
suits a whole model hides a kernel's fault, so each operation has its own. "model" is for whole passes, where one near-tie of a router moves a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Limit(NamedTuple):
    """Relative errors: of the worst element, and the RMS of all."""

    largest: float
    rms: float


# (worst, RMS) of the right forms
_MEASURED: dict[str, dict[str, tuple[float, float]]] = {
    "attention": {"float32": (2.0e-5, 2.4e-6), "bfloat16": (7.8e-3, 4.0e-3), "float16": (4.9e-4, 1.7e-4)},
    "product": {"float32": (1.4e-5, 2.8e-6), "bfloat16": (7.8e-3, 3.2e-3)},
    "mlp": {"float32": (1.4e-6, 3.1e-7), "bfloat16": (2.0e-2, 5.3e-3)},
    "experts": {"float32": (1.8e-6, 5.1e-7), "bfloat16": (1.8e-2, 6.7e-3)},
    "norm": {"float32": (4.3e-7, 1.3e-7), "bfloat16": (6.7e-3, 1.9e-3)},
    "heads": {"float32": (3.4e-7, 1.2e-7), "bfloat16": (1.1e-2, 2.5e-3)},
    "rope": {"float32": (5.4e-8, 2.6e-8)},
    "router": {"float32": (2.0e-6, 1.1e-6)},
    "head": {"float32": (2.2e-6, 4.0e-7), "bfloat16": (1.1e-2, 3.8e-3)},
    "product in few bits": {
        "float32": (1.3e-6, 3.3e-7),
        "bfloat16": (1.2e-2, 3.8e-3),
        "float16": (1.0e-3, 3.0e-4),
    },
    "experts in few bits": {
        "float32": (1.9e-6, 4.1e-7),
        "bfloat16": (2.6e-2, 7.4e-3),
        "float16": (2.9e-3, 5.2e-4),
    },
    "experts of rounded inputs": {"float32": (1.6e-6, 2.8e-7)},
}
MANY = 64  # elements: the RMS of fewer is as large as one of them
# another processor sums in another order, or has another root: nothing below these decides
_LEAST = {"float64": Limit(1e-12, 1e-12), "float32": Limit(3e-6, 1e-6)}
# of whole passes; bfloat16: 0.25 was measured on a CPU with bf16 units (AVX512_BF16), less on one without
_MODEL = {
    "float64": Limit(1e-10, 2.5e-11),
    "float32": Limit(1e-4, 2.5e-5),
    "bfloat16": Limit(0.4, 0.1),
    "float16": Limit(0.03, 0.0075),
}
LIMITS: dict[str, dict[str, Limit]] = {"model": _MODEL} | {
    op: {dtype: Limit(2 * largest, 2 * rms) for dtype, (largest, rms) in of_dtypes.items()}
    for op, of_dtypes in _MEASURED.items()
}


def closeness(got: Any, want: Any) -> Limit:
    """(largest relative error, RMS relative error); elements smaller than the RMS are measured against the RMS."""
    got, want = got.double(), want.double()
    assert got.shape == want.shape, f"shapes {tuple(got.shape)} and {tuple(want.shape)}"
    error, rms = (got - want).abs(), want.square().mean().sqrt()
    return Limit(float((error / want.abs().clamp_min(rms)).max()), float(error.square().mean().sqrt() / rms))


def limit_of(op: str, dtype: str, spread: float = 0.0, elements: int = MANY) -> Limit:
    """The limit of an operation, or of a `spread` measured on the reference itself where that is wider.

    A dtype that was not measured has the limit of whole models.
    """
    least = _LEAST.get(dtype, Limit(0.0, 0.0))
    limit = least if dtype == "float64" and op != "model" else LIMITS[op].get(dtype, _MODEL[dtype])
    largest = max(limit.largest, least.largest, spread)
    rms = max(limit.rms, least.rms, spread / 4)
    return Limit(largest, rms if elements >= MANY else largest)


def is_close(got: Any, want: Any, dtype: str = "float32", spread: float = 0.0, *, op: str = "model") -> bool:
    """Whether both errors stay within the limit of an operation."""
    errors, limit = closeness(got, want), limit_of(op, dtype, spread, want.numel())
    return errors.largest <= limit.largest and errors.rms <= limit.rms


def assert_close(
    got: Any, want: Any, dtype: str = "float32", spread: float = 0.0, *, op: str = "model"
) -> None:
    errors, limit = closeness(got, want), limit_of(op, dtype, spread, want.numel())
    message = f"largest relative error {errors.largest:.2e} (limit {limit.largest:.2e})"
    message += f", RMS {errors.rms:.2e} (limit {limit.rms:.2e}): {op} in {dtype}"
    assert errors.largest <= limit.largest and errors.rms <= limit.rms, message
