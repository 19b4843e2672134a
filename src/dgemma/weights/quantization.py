"""What `quantization_config` (of config.json) or ModelOpt's hf_quant_config.json says about a folder's
weights, as schemes.

Everything is read against an allow-list: a word that is not known here may change what the numbers mean.
Never loads torch. Trap: the tools agree on little. The version of GPTQ's zero points stands in
`checkpoint_format`, a missing one meaning the first; ModelOpt's `ignore` has stars, compressed-tensors' has
regular expressions after "re:".
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import read_json
from ..config.formats import Format
from ..config.reader import Reader, shown
from ..errors import ConfigError
from .schemes import Group, Quantization, Scheme

BESIDE = "hf_quant_config.json"  # where ModelOpt puts its description
# what says nothing about the numbers: how a tool found them, or what it ran on
_HOW = (
    "observer",
    "observer_kwargs",
    "scale_dtype",
    "zp_dtype",
    "damp_percent",
    "damp_auto_increment",
    "true_sequential",
    "static_groups",
    "model_name_or_path",
    "model_file_base_name",
    "meta",
    "mse",
    "act_group_aware",
    "dataset",
    "tokenizer",
    "batch_size",
    "pad_token_id",
    "use_cuda_fp16",
    "use_exllama",
    "disable_exllama",
    "exllama_config",
    "max_input_length",
    "cache_block_outputs",
    "model_seqlen",
    "module_name_preceding_first_block",
    "block_name_to_quantize",
    "lm_head",
    "modules_in_block_to_quantize",
    "producer",
    "version",
    "global_compression_ratio",
    "run_compressed",
    "do_fuse",
    "fuse_max_seq_len",
    "modules_to_fuse",
)


def read_quantization(folder: Path) -> Quantization | None:
    """A folder's description, or None for one that has none.

    Raises ConfigError that names what is not understood.
    """
    config = Path(folder) / "config.json"
    beside = Path(folder) / BESIDE
    raw = None
    if config.exists():
        raw = read_json(config).get("quantization_config")
    quantization = None
    if raw is not None:
        quantization = parse(raw, f"{config}: quantization_config")
    if beside.exists():
        other = _modelopt_file(Reader(read_json(beside), str(beside)))
        if quantization is not None and {group.scheme for group in quantization.groups} != {
            group.scheme for group in other.groups
        }:
            raise ConfigError(
                f"{beside}: describes other weights than quantization_config of "
                "config.json; remove what is wrong"
            )
        return quantization or other
    return quantization


def parse(raw: Any, source: str = "quantization_config") -> Quantization:
    """One `quantization_config`. Raises ConfigError that names the word that is not understood."""
    top = Reader(raw, source)
    method = top.take("quant_method", str)
    if method not in _METHODS:
        raise ConfigError(
            f"{source}: quant_method {shown(method)} is not read; readable: {', '.join(sorted(_METHODS))}"
        )
    quantization = _METHODS[method](top)
    _finish(top)
    for pattern in (
        pattern
        for names in (quantization.ignore, *(group.targets for group in quantization.groups))
        for pattern in names
    ):
        try:
            re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
        except (re.error, RecursionError, OverflowError):
            raise ConfigError(f"{source}: {shown(pattern)} is no regular expression") from None
    return quantization


def _compressed_tensors(top: Reader) -> Quantization:
    _only(top, "quantization_status", "compressed", None)
    _only(top, "transform_config", None, {}, {"config_groups": {}})
    _only(top, "moe_sparsity_config", None, {})
    if (sparse := (top.take("sparsity_config", dict, None) or {}).get("format", "dense")) != "dense":
        raise ConfigError(
            f"{top.source}: the format of sparsity_config is {shown(sparse)}; this build reads only 'dense'"
        )
    whole = top.take("format", str, None)
    notes = _cache_notes(top)
    groups = []
    for name, value in top.take("config_groups", dict).items():
        group = Reader(value, f"{top.source}: config_groups.{name}")
        layout = group.take("format", str, None) or whole
        scheme = _compressed_scheme(layout, Reader(group.take("weights", dict), f"{group.source}.weights"))
        _only(group, "output_activations", None)
        scheme, group_notes = _activations(scheme, group)
        notes += group_notes
        groups.append(Group(_names(group, "targets"), scheme))
        _finish(group)
    if not groups:
        raise ConfigError(f"{top.source}: config_groups is empty")
    return Quantization(top.source, tuple(groups), _names(top, "ignore"), tuple(dict.fromkeys(notes)))


def _compressed_scheme(layout: str | None, weights: Reader) -> Scheme:
    bits = weights.take("num_bits", int, 8)
    kind = weights.take("type", str, "int")
    symmetric = weights.take("symmetric", bool, True)
    strategy = weights.take("strategy", str, None)
    group = weights.take("group_size", int, None)
    strategy = strategy or ("group" if group and group > 0 else "channel" if group else "tensor")
    order = weights.raw.pop("actorder", None)
    _only(weights, "dynamic", False)
    _only(weights, "block_structure", None)
    _finish(weights)
    if order is not None and order is not False and order not in ("weight", "static", "group", "dynamic"):
        raise ConfigError(f"{weights.source}: actorder {shown(order)} is not known")
    if layout == "naive-quantized":  # the same files under an older name
        layout = {"float": "float-quantized", "int": "int-quantized"}.get(kind)
    permuted = order in ("group", "dynamic")
    declared = (layout, kind, bits, strategy)
    if symmetric and declared in (
        ("float-quantized", "float", 8, "channel"),
        ("float-quantized", "float", 8, "tensor"),
    ):
        return Scheme("float-quantized", Format("fp8"), whole=strategy == "tensor")
    if symmetric and declared in (
        ("int-quantized", "int", 8, "channel"),
        ("int-quantized", "int", 8, "tensor"),
    ):
        return Scheme("int-quantized", Format("int8"), whole=strategy == "tensor")
    if (
        symmetric
        and group == 16
        and declared
        in (
            ("nvfp4-pack-quantized", "float", 4, "tensor_group"),
            ("nvfp4-pack-quantized", "float", 4, "group"),
        )
    ):
        return Scheme("nvfp4-pack-quantized", Format("nvfp4"))
    if declared == ("pack-quantized", "int", 4, "group") and group and group > 0 and group % 2 == 0:
        return Scheme("pack-quantized", Format("int4", group, zeros=not symmetric), permuted=permuted)
    said = f"format {shown(layout)} with {shown(kind)} of {bits} bits, strategy {shown(strategy)}"
    raise ConfigError(
        f"{weights.source}: {said}, group_size {group}, symmetric {symmetric} is not read; readable: "
        "float-quantized and int-quantized (8 bits, channel or tensor), pack-quantized (int, 4 bits, group), "
        "nvfp4-pack-quantized (groups of 16)"
    )


def _activations(scheme: Scheme, group: Reader) -> tuple[Scheme, list[str]]:
    """The scheme with what `input_activations` declares; what products here do not round to goes into a
    note.
    """
    raw = group.take("input_activations", dict, None)
    if raw is None:
        return scheme, []
    declared = Reader(raw, f"{group.source}.input_activations")
    kind = declared.take("type", str, "int")
    bits = declared.take("num_bits", int, 8)
    for name in ("strategy", "group_size", "symmetric", "dynamic", "actorder", "block_structure"):
        declared.raw.pop(name, None)
    _finish(declared)
    if {"fp8": ("float", 8), "nvfp4": ("float", 4)}.get(scheme.format.name) == (kind, bits):
        return replace(scheme, rounded=True), []
    return scheme, [
        f"activations in {shown(kind)} of {bits} bits are declared for {scheme}; they are not rounded here"
    ]


def _modelopt(top: Reader) -> Quantization:
    algorithm = top.take("quant_algo", str)
    groups = top.take("config_groups", dict, {})
    scheme = _modelopt_scheme(algorithm, top.source)
    notes = _cache_notes(top)
    targets: list[str] = []
    for name, value in groups.items():
        group = Reader(value, f"{top.source}: config_groups.{name}")
        weights = Reader(group.take("weights", dict), f"{group.source}.weights")
        for key, want in (("num_bits", 4), ("type", "float"), ("group_size", 16)):
            _only(weights, key, want)
        _only(weights, "dynamic", False)
        _finish(weights)
        group.raw.pop("input_activations", None)  # quant_algo says it
        targets += _names(group, "targets")
        _finish(group)
    _only(top, "group_size", 16)
    ignore = _names(top, "ignore") + _names(top, "exclude_modules")
    return Quantization(
        top.source, (Group(tuple(targets) or ("Linear",), scheme),), _globs(ignore), tuple(notes)
    )


def _modelopt_file(top: Reader) -> Quantization:
    inner = Reader(top.take("quantization", dict), f"{top.source}: quantization")
    scheme = _modelopt_scheme(inner.take("quant_algo", str), inner.source)
    notes = _cache_notes(inner)
    _only(inner, "group_size", 16)
    for reader in (top, inner):
        _only(reader, "quant_method", "modelopt", "modelopt_fp4")
    ignore = _globs(_names(inner, "exclude_modules"))
    _finish(inner)
    _finish(top)
    return Quantization(top.source, (Group(("Linear",), scheme),), ignore, tuple(notes))


def _modelopt_scheme(algorithm: str, source: str) -> Scheme:
    if algorithm != "NVFP4":
        raise ConfigError(f"{source}: quant_algo {shown(algorithm)} is not read; readable: NVFP4")
    return Scheme("modelopt", Format("nvfp4"), rounded=True)


def _gptq(top: Reader) -> Quantization:
    version = top.take("checkpoint_format", str, None) or top.take("format", str, None) or "gptq"
    top.raw.pop("format", None)
    if version not in ("gptq", "gptq_v2"):
        raise ConfigError(
            f"{top.source}: checkpoint_format {shown(version)} is not read; readable: gptq, gptq_v2"
        )
    _only(top, "bits", 4)
    _only(top, "is_marlin_format", False)
    _only(top, "pack_dtype", "int32")
    _only(top, "dynamic", None, {})  # settings of single modules
    permuted = top.take("desc_act", bool, False)
    symmetric = top.take("sym", bool, True)
    scheme = Scheme(
        version, Format("int4", _group_size(top), zeros=not symmetric, scale="F16"), permuted=permuted
    )
    return Quantization(top.source, (Group(("Linear",), scheme),))


def _awq(top: Reader) -> Quantization:
    for names, want in ((("bits", "w_bit"), 4), (("zero_point",), True)):
        for name in names:
            _only(top, name, want)
    version = top.take("version", str, "gemm")
    if version.lower() != "gemm":
        raise ConfigError(f"{top.source}: version {shown(version)} is not read; readable: gemm")
    _only(top, "backend", "autoawq", None)
    left = top.take("modules_to_not_convert", list, None) or []
    if not all(isinstance(name, str) for name in left):
        raise ConfigError(f"{top.source}: 'modules_to_not_convert' must be a list of names")
    ignore = tuple(f"re:.*{re.escape(name)}" for name in left)
    scheme = Scheme("awq", Format("int4", _group_size(top), zeros=True, scale="F16"))
    return Quantization(top.source, (Group(("Linear",), scheme),), ignore)


def _group_size(top: Reader) -> int:
    old = top.take("q_group_size", int, None)
    group: int | None = top.take("group_size", int, None) if old is None else old
    if group is None or group <= 0 or group % 2:
        raise ConfigError(
            f"{top.source}: group_size {shown(group)} is not read; an even number of inputs was expected"
        )
    return group


_METHODS = {
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "gptq": _gptq,
    "awq": _awq,
}


def _cache_notes(top: Reader) -> list[str]:
    """A K/V cache in few bits is proposed, not stored: ours keeps the model's own numbers, which is more
    exact.
    """
    proposals = [top.raw.pop(name, None) for name in ("kv_cache_scheme", "kv_cache_quant_algo")]
    if any(proposals):
        return [
            "the checkpoint proposes a K/V cache in few bits; K and V are kept at the model's own precision"
        ]
    return []


def _only(reader: Reader, key: str, *wanted: Any) -> None:
    """A key that may be absent, or have one of some values."""
    if key in reader.raw:
        value = reader.raw.pop(key)
        if not any(type(value) is type(want) and value == want for want in wanted):
            raise ConfigError(
                f"{reader.source}: '{key}' is {shown(value)}; this build reads only {wanted[0]!r}"
            )


def _finish(reader: Reader) -> None:
    for name in _HOW:
        reader.raw.pop(name, None)
    reader.done()


def _names(reader: Reader, key: str) -> tuple[str, ...]:
    names = reader.take(key, list, None) or []
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{reader.source}: '{key}' must be a list of names")
    return tuple(names)


def _globs(names: tuple[str, ...]) -> tuple[str, ...]:
    """ModelOpt's names, which may have stars and stand for all below them."""
    return tuple(f"re:{fnmatch.translate(name)}|{fnmatch.translate(name + '.*')}" for name in names)
