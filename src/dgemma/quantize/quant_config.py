"""What `dgemma quantize` makes of each group of tensors: asked for in words, checked, and described as
compressed-tensors does.

Experts take the format that was asked for, the other groups only eight bits or what they have: in four they
cost quality and steps. Knows names, shapes and headers, no data, and never loads torch. Trap: other
programs call the same modules by other names in front, so the targets of a description are patterns of how
names end, and the vision tower, whose names end alike, is on its ignore list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import ModelConfig
from ..config.formats import PLAIN, REST, Format
from ..errors import UsageError
from ..weights.layout import Layout, inspect
from ..weights.names import expected_tensors, modules

MADE = ("fp8", "nvfp4", "int4")  # of --format
GROUP_SIZES = (32, 64, 128)  # of int4
# word of --keep: (group of names.py, what it may be)
KEPT = {
    "attention": ("attention", (PLAIN, "fp8")),
    "dense": ("dense", (PLAIN, "fp8")),
    "router": ("router", (PLAIN, "fp8")),
    "self_conditioning": ("self_conditioning", (PLAIN, "fp8")),
    "embeddings": ("embedding", (PLAIN, "fp8", "int8")),
}
PATTERNS = {
    "experts": r"re:.*\.layers\.\d+\.experts\.\d+\.(gate|up|down)_proj$",
    "attention": r"re:.*\.layers\.\d+\.self_attn\.[qkvo]_proj$",
    "dense": r"re:.*\.layers\.\d+\.mlp\.(gate|up|down)_proj$",
    "router": r"re:.*\.layers\.\d+\.router\.proj$",
    "self_conditioning": r"re:.*\.self_conditioning\.(gate|up|down)_proj$",
    "embedding": r"re:.*\.embed_tokens$",
}
ALWAYS_IGNORED = ("lm_head", r"re:.*vision_tower\..*", r"re:.*embed_vision\..*")
# Activations of these are multiplied in FP8 with FP8 weights; a router chooses, and an embedding is looked up
ROUNDED = ("experts", "attention", "dense", "self_conditioning")
LAYOUTS = {
    "fp8": "float-quantized",
    "int8": "int-quantized",
    "int4": "pack-quantized",
    "nvfp4": "nvfp4-pack-quantized",
}


def chosen(format: str, keep: Sequence[str] = (), group_size: int | None = None) -> dict[str, Format]:
    """The formats of the groups for --format, every --keep ("attention,dense=fp8,embeddings=int8") and
    --group-size; a group without one keeps its bits. Raises UsageError that names word and fix.
    """
    if format not in MADE:
        raise UsageError(f"--format {format} is not written; formats: {', '.join(MADE)}")
    if group_size is not None and (format != "int4" or group_size not in GROUP_SIZES):
        choice = (
            f"choose {', '.join(map(str, GROUP_SIZES))}"
            if format == "int4"
            else "only int4 has one to choose; leave it out"
        )
        raise UsageError(f"--group-size {group_size} is not written for {format}; {choice}")
    formats = {"experts": Format(format, group_size or 0)}
    if format == "fp8":
        formats |= dict.fromkeys(REST, Format("fp8"))
    named: set[str] = set()
    for words in keep:
        for word, precision in _choices(words):
            group = _kept(word, precision)
            if group in named:
                raise UsageError(f"--keep names '{word}' twice; name each group once")
            named.add(group)
            formats.pop(group, None)
            if precision != PLAIN:
                formats[group] = Format(precision)
    return formats


def _choices(words: str) -> list[tuple[str, str]]:
    """(group, precision) of "attention,dense=fp8,embeddings=int8": a precision is that of all groups since
    the one before.
    """
    choices = []
    names = []
    for part in words.split(","):
        name, separator, precision = (text.strip() for text in part.partition("="))
        names.append(name)
        if separator:
            choices += [(name, precision) for name in names]
            names = []
    if names or not all(name and precision for name, precision in choices):
        raise UsageError(
            f"--keep {words!r} names no precision; write groups=precision, such as attention,dense=fp8"
        )
    return choices


def _kept(word: str, precision: str) -> str:
    if word == "experts":
        raise UsageError("--keep experts makes no sense: what they become is what --format says")
    if word not in KEPT:
        raise UsageError(f"--keep knows no group '{word}'; groups: {', '.join(KEPT)}")
    group, allowed = KEPT[word]
    if precision not in allowed:
        reason = ""
        if precision in ("int4", "nvfp4"):
            reason = f"; four bits cost the {word} quality and steps"
        raise UsageError(f"--keep {word}={precision} is not made{reason}; choose {' or '.join(allowed)}")
    return group


def readable(source: Path) -> Layout:
    """The layout of a folder that can be quantised. Raises UsageError or CheckpointError."""
    if not source.is_dir():
        raise UsageError(
            f"{source}: not a folder of safetensors files; quantise the checkpoint that it was made from"
        )
    layout = inspect(source, ModelConfig.from_file(source / "config.json"))
    if any(stored.format is not None for stored in layout.text.values()) or layout.quantization is not None:
        raise UsageError(
            f"{source}: is in few bits already; quantise the 16-bit checkpoint that it was made from"
        )
    return layout


def check(config: ModelConfig, formats: Mapping[str, Format]) -> None:
    """Raise UsageError where a matrix has no whole groups of its format, and say which format it would
    have.
    """
    for name, target in expected_tensors(config).items():
        format = formats.get(target.group)
        if format is None or not modules(name, target) or format.divides(target.shape[-1]):
            continue
        inputs = target.shape[-1]
        if format.name == "int4":
            fits = [size for size in GROUP_SIZES if inputs % size == 0]
        else:
            fits = []
        fix = "--format fp8"
        if fits:
            fix = f"--group-size {fits[-1]}"
        raise UsageError(
            f"'{name}' has {inputs} inputs, which are no whole groups of {format.group} "
            f"({format.name}); use {fix}"
        )


def describe(formats: Mapping[str, Format]) -> dict[str, Any]:
    """The quantization_config of a folder whose groups are kept in these formats."""
    groups: dict[tuple[Format, bool], list[str]] = {}
    for group in PATTERNS:  # in a fixed order
        if group in formats:
            groups.setdefault((formats[group], formats[group].name == "fp8" and group in ROUNDED), []).append(
                PATTERNS[group]
            )
    layouts = {LAYOUTS[format.name] for format, _ in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "config_groups": {
            f"group_{number}": _group(format, rounded, targets)
            for number, ((format, rounded), targets) in enumerate(groups.items())
        },
        "ignore": [
            *ALWAYS_IGNORED,
            *(pattern for group, pattern in PATTERNS.items() if group not in formats),
        ],
    }


def _group(format: Format, rounded: bool, targets: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": 4 if format.group else 8,
        "type": "int" if format.name.startswith("int") else "float",
        "symmetric": True,
        "strategy": {"int4": "group", "nvfp4": "tensor_group"}.get(format.name, "channel"),
        "group_size": format.group or None,
        "dynamic": False,
    }
    token = {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "strategy": "token",
        "group_size": None,
        "dynamic": True,
    }
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": token if rounded else None,
        "output_activations": None,
        "format": LAYOUTS[format.name],
    }
