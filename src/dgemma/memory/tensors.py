"""Bytes of a model's tensors: in memory, in the checkpoint's files, and of layers that pass through a device.

Arithmetic on names and shapes; nothing is read. Trap: a matrix in few bits has several parts, and a card's
buffer begins each at a multiple of ALIGNED.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..config import ModelConfig
from ..config.formats import Format
from ..weights.names import GROUPS, Target, expected_tensors

ALIGNED = 256  # bytes: where a part may begin in a buffer
STREAMED = ("attention", "dense", "experts")  # groups whose matrices pass through
# by group of names.py ("experts") or by a matrix's own name ("layers.0.mlp.up_proj.weight")
Formats = Mapping[str, Format]


@dataclass(frozen=True)
class LayerBytes:
    """What the matrices of one layer take where the layer streams."""

    held: int  # in memory, if they stayed
    in_file: int  # in the checkpoint's files
    laid_out: int  # of what a CPU makes of its plain matrices while it is at work
    run: int  # one after another in a card's buffer


def format_of(target: Target, formats: Formats) -> Format | None:
    """The number format of a tensor; vectors have none."""
    if len(target.shape) < 2:
        return None
    return formats.get(target.model_name) or formats.get(target.group)


def held_bytes(target: Target, size: int, formats: Formats) -> int:
    """Bytes of a tensor in memory, where numbers that are in no format take `size`."""
    format = format_of(target, formats)
    if format:
        return format.nbytes(target.shape)
    return math.prod(target.shape) * size


def divides(config: ModelConfig, formats: Formats) -> bool:
    """Whether every matrix that would be in a format has whole groups of it."""
    return all(format.divides(target.shape[-1]) for target, format in matrices_in_formats(config, formats))


def matrices_in_formats(config: ModelConfig, formats: Formats) -> Iterator[tuple[Target, Format]]:
    """The matrices that are in few bits, each with its format."""
    for target in expected_tensors(config).values():
        if format := format_of(target, formats):
            yield target, format


def copies_of_table(config: ModelConfig) -> int:
    """How many packed copies of the embedding pay, by its share of the model's elements: the head's, and one
    turned for p @ E where that is much of a step (140 M parameters: 18 of 450 ms for 24 % of the memory; 1.1
    B: 2 % for 6 %).
    """
    if 10 * config.vocab_size * config.hidden_size >= sum(weight_bytes(config, 1).values()):
        return 2
    return 1


def weight_bytes(
    config: ModelConfig, bytes_per_element: int, formats: Formats | None = None
) -> dict[str, int]:
    """Bytes of the text weights by group; vision is not loaded, so not counted."""
    groups = dict.fromkeys(GROUPS, 0)
    for target in expected_tensors(config).values():
        groups[target.group] += held_bytes(target, bytes_per_element, formats or {})
    return groups


def layer_bytes(
    config: ModelConfig, size: int, formats: Formats, stored: Mapping[str, int]
) -> list[LayerBytes]:
    """The bytes of each layer, where numbers that are in no format take `size`.

    stored: bytes in the files by model name; without it such numbers are taken to have 16 bits there.
    """
    layers: list[list[Target]] = [[] for _ in config.layers]
    for target in expected_tensors(config).values():
        if target.group in STREAMED and len(target.shape) > 1:
            layers[int(target.model_name.split(".")[1])].append(target)
    return [_of_layer(layer, size, formats, stored) for layer in layers]


def _of_layer(layer: list[Target], size: int, formats: Formats, stored: Mapping[str, int]) -> LayerBytes:
    held = in_file = run = 0
    plain: list[int] = []
    is_converted = False  # on the way from the file
    for target in layer:
        format = format_of(target, formats)
        there = stored.get(target.model_name) or held_bytes(target, 2, formats)
        here = held_bytes(target, size, formats)
        parts = [here]
        if format:
            parts = list(format.part_bytes(target.shape))
        else:
            plain.append(here)
            is_converted |= there != here
        held += here
        in_file += there
        run += sum(-(-part // ALIGNED) * ALIGNED for part in parts)
    laid_out = sum(plain)
    if is_converted:
        laid_out += max(plain)
    return LayerBytes(held, in_file, laid_out, run)
