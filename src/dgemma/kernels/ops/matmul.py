"""Products with weights [out, in], and the gated MLP; the activation is GELU in its tanh form.

On a CPU a weight may be **packed**: held in the layout that a product reads as it is, with activations
inside: oneDNN's blocked one, or the panels of c/native.py where its C runs. Plain torch lays a weight out
anew at every product (256 x 512 x 65536 in float32: 141 ms, packed 94; 64 rows of an expert: 158 and 217
GFLOP/s). A packed tensor is opaque: it can be multiplied with, and nothing else, so whatever trains, saves
or looks weights up keeps them plain. A weight in few bits (quant/formats.py) is decoded inside its
products, on any device, and one in 16 bits is widened inside them where the CPU has no such products
(widen.py).
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import sizes
from ..c import native
from ..quant.formats import QuantTensor, Weight, product
from ..select import fusable, lacks_avx512, triton_backend, wants_triton
from . import widen

PACKED: tuple[torch.dtype, ...] = tuple(getattr(torch, name) for name in sizes.PACKED)
# elements of a float32 matrix that stays plain: for few rows a call costs more than laying it out
# (8 x 256 by 256 x 128: 12 us, packed 24)
SMALL = 1 << 16
# rows of a table that are packed together: what 256 rows make of them stays in the cache
# (65536 at once: 101 ms, so 88)
PART = 2048
Pair = tuple[Weight, Weight]  # gate and up, packed or decoded apart
Table = Weight | list[Tensor]  # [V, D], or its parts, packed now or by `laid_out`


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor multiply packed weights of a dtype; found out by trying.

    The two operations are torch's compiler's own, so they may be missing one day, and in bfloat16 they refuse
    processors without AVX-512.
    """
    if dtype not in PACKED or wants_triton():
        return False
    try:
        linear(torch.ones((1, 16), dtype=dtype), pack(torch.ones((16, 16), dtype=dtype)))
    except (AttributeError, RuntimeError):
        return False
    return True


def should_pack(dtype: torch.dtype) -> bool:
    """Whether packing pays.

    Without AVX-512 packed products run at the plain ones' rate (Zen 3), and each costs 20 us more.
    """
    return not lacks_avx512() and can_pack(dtype)


def pays_packed(weight: Tensor) -> bool:
    """Whether packing pays for this matrix, on a processor where it pays at all."""
    return weight.dtype != torch.float32 or weight.numel() > SMALL or native.takes(weight)


def pack(weight: Tensor) -> Tensor:
    """weight [out, in], float32 or bfloat16 on a CPU, in the layout that products are fastest with; a
    copy.
    """
    if native.takes(weight):
        return native.panels(weight)
    blocked: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return blocked


def pack_table(weight: Tensor) -> list[Tensor]:
    """weight [V, D], which oneDNN multiplies with in parts, packed."""
    rows = PART
    if native.takes(weight):
        rows = len(weight)
    return [pack(part) for part in weight.split(rows)]


def laid_out(part: Tensor) -> Tensor:
    """A part of a table as it is multiplied with: packed before, or now, for the time of one product."""
    if is_packed(part):
        return part
    return pack(part)


def is_packed(weight: Tensor) -> bool:
    return weight.is_mkldnn or native.in_panels(weight)


def outputs(weight: Tensor) -> int:
    """Rows of a weight, plain or packed."""
    if native.in_panels(weight):
        return native.WIDE * len(weight)
    return len(weight)


def linear(x: Tensor, weight: Weight) -> Tensor:
    """x [..., in] @ weight^T -> [..., out]; weight [out, in] plain, packed or in few bits."""
    if not isinstance(weight, QuantTensor):
        if is_packed(weight):
            return activated(x, weight, "none")
        return widen.product(x, weight)
    rows = x.flatten(0, -2)
    fast = triton_backend("matmul", x)
    multiply = product
    if fast and fast.takes(weight):
        multiply = fast.product
    out: Tensor = multiply(rows, weight).unflatten(0, x.shape[:-1])
    return out


def activated(x: Tensor, weight: Tensor, activation: str, out: Tensor | None = None) -> Tensor:
    """`linear` with a packed weight and "none", "tanh" or "gelu" (in its tanh form) inside the product.

    out [rows, out]: where it goes.
    """
    if native.in_panels(weight):
        return native.product(x, weight, activation, out=out)
    algorithm = ""
    if activation == "gelu":
        algorithm = "tanh"
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, activation, [], algorithm)
    if out is None:
        return result
    return out.copy_(result)


@fusable
def gelu_times(gate: Tensor, up: Tensor) -> Tensor:
    """gelu_tanh(gate) * up, elementwise."""
    return F.gelu(gate, approximate="tanh") * up


def gated(x: Tensor, gate: Weight, up: Weight) -> Tensor:
    """gelu_tanh(gate @ x) * (up @ x); x [..., D], gate and up [F, D], both of one kind -> [..., F]."""
    if isinstance(gate, Tensor) and isinstance(up, Tensor) and native.in_panels(gate):
        return native.product(x, gate, "gated", up)
    if isinstance(gate, Tensor) and gate.is_mkldnn:
        activation = activated(x, gate, "gelu")
        inner: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, activation, up, None, "mul")
        return inner
    return gelu_times(linear(x, gate), linear(x, up))


def gated_mlp(x: Tensor, gate: Weight, up: Weight, down: Weight) -> Tensor:
    """down @ (gelu_tanh(gate @ x) * (up @ x)); x [..., D], gate and up [F, D], down [D, F] -> [..., D]."""
    return linear(gated(x, gate, up), down)
