"""A model from a checkpoint, where it will run.

All of it is in memory, or layers stream (streaming.py) as a placement says. Knows neither text nor settings.
Trap: what streams must not be packed or moved, so everything about weights' places is done here, in one
order: what stays is read and packed, what passes is pinned or mapped, then the stack gets its offload.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext

import torch

from ..config.sizes import Progress, disk_size
from ..memory.placement import Placement
from ..memory.tensors import STREAMED
from ..weights.copies import check_copies
from ..weights.headers import TensorInfo
from ..weights.layout import Layout
from ..weights.mapped import Maps, map_into
from ..weights.names import expected_tensors
from ..weights.reader import load_into
from .build import build, gives_back_memory, pack
from .dgemma import DiffusionGemma
from .streaming import HostOffload, MmapOffload
from .target import config_of


def load(
    layout: Layout,
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement | None,
    *,
    progress: Progress | None = None,
    rounds: Collection[str] = (),
    trainable: bool = False,
) -> tuple[DiffusionGemma, list[str]]:
    """The model and what a user should know about it.

    placement None: everything stays (also on "meta"). rounds: number formats whose products round
    activations where the file declares it; trainable: keep plain parameters.
    """
    if device.type != "meta":
        check_copies(layout)
    model = build(config_of(layout), "meta", dtype)
    if placement:
        away = _matrices(model, placement.streamed)
    else:
        away = {}
    streamed = {name for names in away.values() for name in names}
    staying = [name for name in layout.text if name not in streamed]
    with gives_back_memory() if away and device.type == "cpu" else nullcontext():
        notes = load_into(model, layout, device, dtype, progress, rounds, staying)
        if not trainable:
            pack(model, away)
        if placement is not None and away:
            notes.append(_stream(model, layout, away, device, placement, progress, rounds))
    return model, notes


def _matrices(model: DiffusionGemma, numbers: Collection[int]) -> dict[int, list[str]]:
    """The model names of what passes through memory, by layer."""
    names: dict[int, list[str]] = {number: [] for number in numbers}
    for target in expected_tensors(model.config).values():
        if target.group not in STREAMED or len(target.shape) < 2:
            continue
        number = int(target.model_name.split(".")[1])
        if number in names:
            names[number].append(target.model_name)
    return names


def _stream(
    model: DiffusionGemma,
    layout: Layout,
    away: dict[int, list[str]],
    device: torch.device,
    placement: Placement,
    progress: Progress | None,
    rounds: Collection[str],
) -> str:
    """Bring what passes through memory into its place, and say so."""
    names = [name for streamed in away.values() for name in streamed]
    share = f"{len(away)} of {len(model.layers)} layers"
    moved = f"{disk_size(placement.moved)} in every step; less memory for weights makes steps slower"
    if device.type == "cpu":
        maps = Maps()
        map_into(model, layout, names, maps, progress)
        infos = {number: _infos(layout, streamed) for number, streamed in away.items()}

        def expect(number: int) -> None:
            maps.expect(infos[number])

        model.layers.offload = MmapOffload(model.layers, [*away], model.dtype, expect)
        return f"{share} are read from the checkpoint's files as they are needed: {moved}"
    load_into(model, layout, "cpu", model.dtype, progress, rounds, names)
    model.layers.offload = HostOffload(model.layers, [*away], device)
    return f"{share} wait in this machine's memory and pass through the card: {moved}"


def _infos(layout: Layout, names: Collection[str]) -> list[TensorInfo]:
    return [info for name in names for fields in layout.text[name].matrices for info in fields.values()]
