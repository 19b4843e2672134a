"""The fields of a published layout as they stand in a file, as the parts of our format (config/formats.py).

One matrix at a time: fields by name, shapes already checked (schemes.py). Knows no file. Values are kept
bit for bit, and a part is a view of its field wherever the layout keeps it as we do, so that a mapped file
stays mapped; GPTQ and AWQ are turned over, which copies. Trap: words of 32 bits hold eight codes, the
lowest bits first, so their bytes are our codes, but AWQ deals the eight out in another order, and GPTQ
packs along the inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..kernels.quant.int4 import MIDDLE
from ..kernels.quant.nvfp4 import packed
from .schemes import Scheme

Tensors = dict[str, Tensor]
Shape = tuple[int, int]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the columns that a word's eight codes belong to, lowest bits first


def unpack(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    """The parts of a matrix [O, I].

    Raises ValueError (half a sentence) where values of the fields do not fit.
    """
    for name, field in fields.items():
        if field.is_floating_point() and field.numel() == 1 and not bool(field.float().isfinite().all()):
            raise ValueError(f"its {name} is NaN or infinite")
    if "weight_shape" in fields and fields["weight_shape"].tolist() != list(shape):
        raise ValueError(
            f"its weight_shape is {fields['weight_shape'].tolist()}, the model asks for {list(shape)}"
        )
    for name in ("g_idx", "weight_g_idx"):
        if name in fields and not torch.equal(
            fields[name], torch.arange(shape[1], dtype=torch.int32) // scheme.format.group
        ):
            raise ValueError(
                f"its {name} sorts the inputs (desc_act), which this build does not read; quantise without it"
            )
    return _LAYOUTS[scheme.layout](scheme, shape, fields)


def _eight_bits(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    return {"codes": fields["weight"], "row": _rows(fields["weight_scale"], shape)}


def _pack_quantized(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    codes = fields["weight_packed"].view(torch.uint8)[:, : shape[1] // 2]
    parts = {"codes": codes, "scales": fields["weight_scale"]}
    if scheme.format.zeros:  # eight rows in a word
        parts["zeros"] = _halves(_turned(fields["weight_zero_point"]).view(torch.uint8))[:, : shape[0]].T
    return parts


def _nvfp4(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    inverse = fields["weight_global_scale"]
    if not bool(inverse.all()):
        raise ValueError("its weight_global_scale is 0")
    row = _rows(inverse.reciprocal(), shape)
    return {"codes": fields["weight_packed"], "scales": fields["weight_scale"], "row": row}


def _modelopt(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    return {
        "codes": fields["weight"],
        "scales": fields["weight_scale"],
        "row": _rows(fields["weight_scale_2"], shape),
    }


def _rows(scale: Tensor, shape: Shape) -> Tensor:
    """A scale of a matrix or of each row as float32 [O]."""
    return scale.flatten().float().expand(shape[0])


def _gptq(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    codes = _turned(fields["qweight"]).view(torch.uint8)[:, : shape[1] // 2]
    zeros = _halves(fields["qzeros"].view(torch.uint8))[:, : shape[0]]
    if scheme.layout == "gptq":  # the first version stores them less one, in four bits
        zeros = (zeros + 1) & 0x0F
    parts = {"codes": codes, "scales": fields["scales"].T}
    if scheme.format.zeros:
        return parts | {"zeros": zeros.T}
    if bool((zeros != MIDDLE).any()):
        raise ValueError(
            f"its zero points are not {MIDDLE}, but the config says 'sym'; is its checkpoint_format right?"
        )
    return parts


def _awq(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    codes, zeros = (_dealt(fields[name])[:, : shape[0]].T for name in ("qweight", "qzeros"))
    return {"codes": packed(codes), "scales": fields["scales"].T, "zeros": zeros}


def _gguf(scheme: Scheme, shape: Shape, fields: Tensors) -> Tensors:
    return {"codes": fields["weight"].view(scheme.format.parts(shape)["codes"][1])}


def _turned(words: Tensor) -> Tensor:
    """A copy with rows and columns exchanged; `contiguous` makes none where one of them is 1, and then bytes
    cannot be seen.
    """
    return words.T.clone(memory_format=torch.contiguous_format)


def _dealt(words: Tensor) -> Tensor:
    """The codes [N, O] uint8 of AWQ's words [N, O/8] int32, in the order of the columns."""
    eights = torch.unflatten(_halves(words.view(torch.uint8)), 1, (-1, 8))
    return torch.empty_like(eights).index_copy_(2, torch.tensor(AWQ_ORDER), eights).flatten(1)


def _halves(both: Tensor) -> Tensor:
    """The codes [..., I] of bytes [..., I/2], the low half first."""
    return torch.stack((both & 0x0F, both >> 4), dim=-1).flatten(-2)


_LAYOUTS: dict[str, Callable[[Scheme, Shape, Tensors], Tensors]] = {
    "float-quantized": _eight_bits,
    "int-quantized": _eight_bits,
    "pack-quantized": _pack_quantized,
    "nvfp4-pack-quantized": _nvfp4,
    "modelopt": _modelopt,
    "gptq": _gptq,
    "gptq_v2": _gptq,
    "awq": _awq,
    "gguf": _gguf,
}
