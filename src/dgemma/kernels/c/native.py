"""Products, norms, the router, experts, attention and the end of the vocabulary head, written in C for
processors with AVX-512: float32, and bfloat16 where there is a dot product of it.

Torch's own forms are the reference and run everywhere; these replace them where the libraries were built
(hatch_build.py: when the package is installed on Linux and a C compiler is there) and the processor has the
instructions. A weight is laid out **in panels** for them once: a tensor [N/32, K, 32, 1], of bfloat16
[N/32, K/2, 32, 2], of experts [E, ...], which is multiplied with and nothing else. `DGEMMA_KERNELS=torch`
turns them off. Trap: threads are those of the OpenMP that torch has loaded, found by name in the process; a
second one would fight with it for the cores.
"""

from __future__ import annotations

import ctypes
import functools
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..select import CHOICE, has_instructions, triton_backend, wants_torch, wants_triton
from ..sizes import TILE

SOURCES = Path(__file__).parent
NEEDS = {
    torch.float32: ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "bmi2", "fma"),
    torch.bfloat16: ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "bmi2", "fma", "avx512_bf16"),
}
KINDS = {"none": 0, "tanh": 1, "gated": 2}
WIDE = 32  # columns of a panel

_int = ctypes.c_int
_long = ctypes.c_long
_float = ctypes.c_float
_pointer = ctypes.c_void_p
_TAKES: dict[str, list[Any]] = {
    "lay_out": [_pointer] * 2 + [_long] * 4,
    "product": [_pointer] * 4 + [_long] * 4 + [_int],
    "experts": [_pointer] * 9,
    "router": [_pointer] * 6 + [_long] * 4 + [_float] * 2,
    "norm": [_pointer] * 6 + [_long] * 4 + [_float],
    "attention": [_pointer] * 6,
    "settle": [_pointer] * 6 + [_long] * 2,
}


def source_hash() -> int:
    """Of the C files as they are now."""
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]"))))


@functools.cache
def _library(dtype: torch.dtype) -> tuple[ctypes.CDLL, Any] | str:
    """The functions and the OpenMP that runs their loops, or why they can't be had."""
    if dtype not in NEEDS:
        return "no kernel has this dtype"
    if lacking := [name for name in NEEDS[dtype] if not has_instructions(name)]:
        return f"this processor has no {' '.join(lacking)}"
    path = SOURCES / f"{str(dtype).removeprefix('torch.')}.so"
    if not path.exists():
        return "they were not built: installing dgemma does it where Linux has a C compiler"
    try:
        parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, _pointer)
        library = ctypes.CDLL(str(path))
        library.source_hash.restype = ctypes.c_uint32
        if library.source_hash() != source_hash():
            return "they were built from other sources: install dgemma again"
        for name, takes in _TAKES.items():
            getattr(library, name).argtypes = [_pointer, _int, *takes]
    except (OSError, AttributeError) as error:
        return f"they could not be loaded: {error}"
    return library, parallel


def why_not(dtype: torch.dtype) -> str | None:
    """Why this process computes without them; None where it computes with them."""
    if wants_torch() or wants_triton():
        return f"{CHOICE} is set"
    library = _library(dtype)
    if isinstance(library, str):
        return library
    return None


def available(dtype: torch.dtype) -> bool:
    """Whether this process computes with them."""
    return why_not(dtype) is None


def runs(*tensors: Tensor) -> bool:
    """Whether something is computed from these tensors here: of one dtype, on a CPU, with nothing to
    learn.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False
    dtype = tensors[0].dtype
    alike = all(x.dtype == dtype and x.device.type == "cpu" for x in tensors)
    return alike and available(dtype)


def backend(x: Tensor) -> str:
    """What most operations run on for a tensor like x: "triton", "c" or "torch"."""
    if triton_backend("moe", x):
        return "triton"
    if runs(x):
        return "c"
    return "torch"


def _call(name: str, x: Tensor, *arguments: Any) -> None:
    """A function of the library for x's dtype; tensors are passed as their addresses."""
    loaded = _library(x.dtype)
    assert not isinstance(loaded, str)
    library, parallel = loaded
    values = [y.data_ptr() if isinstance(y, Tensor) else y for y in (x, *arguments)]
    getattr(library, name)(parallel, torch.get_num_threads(), *values)


def takes(weight: Tensor) -> bool:
    """Whether a plain weight [..., N, K] can be laid out in panels: both multiples of 32, one of the two
    dense.
    """
    whole = weight.shape[-1] % WIDE == 0 and weight.shape[-2] % WIDE == 0
    return (
        whole
        and 1 in weight.stride()[-2:]
        and (weight.dim() == 2 or weight.is_contiguous())
        and runs(weight.detach())
    )


def panels(weight: Tensor) -> Tensor:
    """weight [N, K] (also another one turned), or [E, N, K], in panels; a copy."""
    if weight.dim() > 2:
        flat = weight.detach().flatten(0, -2)
    else:
        flat = weight.detach()
    rows, inputs = flat.shape
    word = 4 // flat.element_size()
    out = torch.empty((rows // WIDE, inputs // word, WIDE, word), dtype=flat.dtype)
    _call("lay_out", flat, out, rows, inputs, *flat.stride())
    shaped: Tensor = out.unflatten(0, (*weight.shape[:-2], -1))
    return shaped


def in_panels(weight: Tensor) -> bool:
    return weight.dim() > 3


def product(
    x: Tensor, weight: Tensor, kind: str = "none", other: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """x [..., K] times a weight in panels -> [..., N]; kind: "none", "tanh" of it, or "gated":
    gelu_tanh(it) * x times `other`.

    out [rows, N], with dense rows, of x's dtype: where it goes.
    """
    x = x.contiguous()
    inputs = x.shape[-1]
    rows = x.numel() // inputs
    columns = WIDE * len(weight)
    if out is None:
        out = x.new_empty((*x.shape[:-1], columns))
    stride = columns
    if out.dim() > 1:
        stride = out.stride(-2)
    _call("product", x, weight, other, out, rows, inputs, len(weight), stride, KINDS[kind])
    return out


def experts(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """moe.experts of gate_up (gate first) and down in panels: x [N, D] -> [N, D]; weights and index [N,
    k].
    """
    x = x.contiguous()
    half = gate_up.shape[1] // 2
    inner = half * WIDE
    out = torch.empty_like(x)
    scratch = x.new_empty(index.numel() * (inner + x.shape[1]))
    sizes = (_long * 6)(*x.shape, inner, len(gate_up), index.shape[1], 2 * inner * x.shape[1])
    _call(
        "experts",
        x,
        gate_up,
        gate_up[:, half:],
        down,
        weights.float().contiguous(),
        index.contiguous(),
        out,
        scratch,
        sizes,
    )
    return out


def router(
    x: Tensor, proj: Tensor, scale: Tensor, per_expert_scale: Tensor, eps: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """moe.choose_experts of x [N, D], D a multiple of 32."""
    x = x.contiguous()
    rows, width = x.shape
    weights = torch.empty((rows, top_k))
    index = torch.empty((rows, top_k), dtype=torch.int64)
    _call(
        "router",
        x,
        proj.contiguous(),
        scale,
        per_expert_scale.float(),
        weights,
        index,
        rows,
        width,
        len(proj),
        top_k,
        eps,
        width**-0.5,
    )
    return weights, index


def takes_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> bool:
    dense = all(x.stride(-1) == 1 for x in (q, k, v))
    one_mask = visible is None or visible.dim() == 2
    return q.shape[-1] % WIDE == 0 and dense and one_mask and runs(q, k, v)


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """attention.attention with visible [Q, S] or None."""
    batch, heads, rows, width = q.shape
    out = q.new_empty((batch, rows, heads, width))
    sizes = (_long * 15)(
        batch, heads, *k.shape[1:2], rows, *k.shape[2:], *q.stride()[:3], *k.stride()[:3], *v.stride()[:3]
    )
    _call("attention", q, k, v, None if visible is None else visible.contiguous(), out, sizes)
    return out.transpose(1, 2)


def norms(x: Tensor, weight: Tensor | None) -> bool:
    return x.shape[-1] % WIDE == 0 and runs(x if weight is None else weight, x)


def norm(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
    turn: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """norm.rms_norm of x [..., D], or residual + it.

    turn: x is [B, T, H, K], turned after its norm by cos and sin [B or 1, 1, T, K/2].
    """
    x = x.contiguous()
    width = x.shape[-1]
    if residual is not None:
        residual = residual.contiguous()
    cos = sin = None
    heads = positions = 1
    if turn is not None:
        cos, sin = (table.contiguous() for table in turn)
        heads = x.shape[-2]
        positions = cos.numel() // cos.shape[-1]
    out = torch.empty_like(x)
    _call("norm", x, weight, residual, cos, sin, out, x.numel() // width, width, heads, positions, eps)
    return out


def settles(p: Tensor) -> bool:
    return p.shape[-1] % WIDE == 0 and p.is_contiguous() and runs(p)


def settle(p: Tensor, heat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p [R, V] of values turns into 2^(heat * (value - the row's largest)), rounded; heat [R] float32,
    positive.

    -> argmax [R], entropy [R] in nats, sums of p by row [R] and by tile [R, tiles].
    """
    rows, vocab = p.shape
    masses = heat.new_empty((rows, -(-vocab // TILE)))
    row_sum = heat.new_empty(rows)
    entropy = heat.new_empty(rows)
    argmax = torch.empty(rows, dtype=torch.int64)
    _call("settle", p, heat.contiguous(), masses, row_sum, entropy, argmax, rows, vocab)
    return argmax, entropy, row_sum, masses
