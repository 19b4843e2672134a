"""The tensors of a GGUF file against what the model asks for: names, types and shapes -> Layout, as a
folder's.

Names are llama.cpp's for `diffusion-gemma`; docs/gguf.md says where each is known from. Values are the
published ones: norms as they multiply, rows of q and k in their order, gate rows before up rows. Blocks
stay blocks: such a tensor is handed on as bytes [..., rows, blocks, bytes of a block]. Knows no data. Trap:
gate and up of the experts may be two tensors; the model wants them expert by expert, so each is cut into
its experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..config import ModelConfig
from ..config.formats import BLOCKS, Format
from .gguf import Gguf
from .gguf_config import EMBEDDING, ROPE_FREQS
from .headers import READABLE, TensorInfo
from .layout import Layout
from .names import Target, expected_tensors
from .schemes import Scheme
from .stored import Stored, copies_note, may_be_equal

READ = (*READABLE, *(name.upper() for name in BLOCKS))
HEAD = "output.weight"
_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.(.+)")
# model name within a layer: name within blk.N
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
    "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
    "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
    "layer_scalar": "layer_output_scale.weight",
    "encoder_layer_scalar": "enc_layer_output_scale.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
}
_ONCE = {
    "embed.weight": EMBEDDING,
    "norm.weight": "output_norm.weight",
    "self_conditioning.pre_norm.weight": "self_cond_pre_norm.weight",
    "self_conditioning.gate_proj.weight": "self_cond_gate.weight",
    "self_conditioning.up_proj.weight": "self_cond_up.weight",
    "self_conditioning.down_proj.weight": "self_cond_down.weight",
}


def gguf_name(model_name: str) -> str:
    """The name in a file of one tensor of the model."""
    if model_name in _ONCE:
        return _ONCE[model_name]
    _, number, name = model_name.split(".", 2)
    return f"blk.{number}.{_LAYER[name]}"


def read_layout(file: Gguf, config: ModelConfig | None) -> Layout:
    """The file's tensors matched with the model's, every fault one line; without a config only the file's
    own faults.
    """
    tensors = {name: _as_bytes(info) for name, info in file.tensors.items()}
    problems = list(file.problems)
    text: dict[str, Stored] = {}
    left = dict(file.tensors)
    copies: tuple[tuple[TensorInfo, TensorInfo], ...] = ()
    for target in expected_tensors(config).values() if config is not None else ():
        stored = _place(file, target, left)
        if isinstance(stored, Stored):
            text[target.model_name] = stored
        else:
            problems.append(f"{file.path}: {stored}")
    if config is not None:
        if not all(layer.is_sliding for layer in config.layers):
            left.pop(ROPE_FREQS, None)  # read by the config
        copies = _copies(left, file.tensors)
        problems += [f"{file.path}: unexpected tensor '{name}': {_why(name)}" for name in left]
    said: tuple[str, ...] = ()
    if copies:
        said = (copies_note([HEAD]),)
    return Layout(
        file.path, config, (file.path,), tensors, text, (), tuple(problems), said=said, copies=copies
    )


def _copies(
    left: dict[str, TensorInfo], tensors: Mapping[str, TensorInfo]
) -> tuple[tuple[TensorInfo, TensorInfo], ...]:
    """The output head where it may be a copy of the embedding, taken out of `left`; copies.py compares
    them.
    """
    head = left.get(HEAD)
    embedding = tensors.get(EMBEDDING)
    if head is None or embedding is None or not may_be_equal(head, embedding):
        return ()
    del left[HEAD]
    return ((_as_bytes(head), _as_bytes(embedding)),)


def _place(file: Gguf, target: Target, left: dict[str, TensorInfo]) -> Stored | str:
    """One tensor of the model, taken out of `left`, or what is wrong with it."""
    name = gguf_name(target.model_name)
    halves = [name.replace("gate_up", half) for half in ("gate", "up")]
    if name.endswith("ffn_gate_up_exps.weight") and name not in left and all(half in left for half in halves):
        return _both(target, *(left.pop(half) for half in halves))
    info = left.pop(name, None)
    if info is None:
        return f"tensor '{name}' is missing"
    return _fault(info, target.shape) or Stored(target.shape, ({"weight": _as_bytes(info)},), *_format(info))


def _both(target: Target, gate: TensorInfo, up: TensorInfo) -> Stored | str:
    """Gate and up of all experts, [E, M, D] each, as the model has them: gate 0, up 0, gate 1 ..."""
    experts, rows, inputs = target.shape
    for info in (gate, up):
        if fault := _fault(info, (experts, rows // 2, inputs)):
            return fault
    if gate.dtype != up.dtype:
        return (
            f"tensor '{gate.name}' is {gate.dtype} and '{up.name}' {up.dtype}; "
            "gate and up must share one type"
        )
    pairs = zip(_experts(gate), _experts(up), strict=True)
    return Stored(target.shape, tuple({"weight": info} for pair in pairs for info in pair), *_format(gate))


def _experts(info: TensorInfo) -> Iterator[TensorInfo]:
    """Each expert's part of a tensor [E, O, I], as a tensor of its own."""
    info = _as_bytes(info)
    size = info.nbytes // info.shape[0]
    return (
        replace(info, shape=info.shape[1:], offset=info.offset + n * size, nbytes=size)
        for n in range(info.shape[0])
    )


def _fault(info: TensorInfo, shape: tuple[int, ...]) -> str | None:
    if info.shape != shape:
        return (
            f"tensor '{info.name}' has the shape {list(info.shape)}, "
            f"the metadata asks for {list(shape)} (inputs last)"
        )
    if info.dtype not in READ:
        return f"tensor '{info.name}' is stored as {info.dtype}; readable: {', '.join(READ)}"
    if info.dtype not in READABLE and len(shape) == 1:
        return (
            f"tensor '{info.name}' is stored as {info.dtype}; "
            f"norms and scales are read in {', '.join(READABLE)}"
        )
    return None


def _format(info: TensorInfo) -> tuple[Format, Scheme] | tuple[None, None]:
    if info.dtype in READABLE:
        return None, None
    return (format := Format(info.dtype.lower())), Scheme("gguf", format)


def _as_bytes(info: TensorInfo) -> TensorInfo:
    """A tensor of blocks as the bytes it is made of; others as they are."""
    if info.dtype.lower() not in BLOCKS:
        return info
    ((dtype, shape),) = Format(info.dtype.lower()).parts(info.shape).values()
    return replace(info, dtype=dtype, shape=shape)


def _why(name: str) -> str:
    """Half a sentence for the error: why a tensor of this name is refused instead of ignored."""
    if name == HEAD:
        return f"the output head is tied to {EMBEDDING}, so another would go unused"
    known = _BLOCK.fullmatch(name)
    if name == ROPE_FREQS or name in _ONCE.values() or (known and known[2] in _LAYER.values()):
        return "the metadata describes no such tensor (layer count, layer kind)"
    return "no part of this model is called so"
