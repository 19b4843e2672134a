"""Layers whose matrices are not all in the device's memory.

A pass calls `load_layer(i)` before layer i, and they are there. A step needs every expert of every layer, so
what passes through memory is whole layers, in their order, and every request and canvas of a pass shares a
load.

    HostOffload   a CUDA card: the matrices wait in pinned host memory, one run of bytes per layer, and pass
                  through a few buffers on the card; the copy of the next one runs beside the arithmetic of
                  this one.
    MmapOffload   a CPU: the matrices are views of the checkpoint's files, which the system reads when they
                  are touched and may drop again. 16-bit and 32-bit ones are put into the layout of products
                  (kernels/ops/matmul.py) for their layer's time only, so that tokens equal those of a model
                  in memory; those in few bits are multiplied with as they stand.

Norms, routers and scalars are small and stay. Trap: a buffer is free for the next copy when the layer that
used it has been computed, not when it has been launched: both directions wait for events, and an event
belongs to one place in the order of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..kernels.ops.matmul import should_pack
from ..kernels.quant.formats import QuantTensor, Weight
from ..memory.placement import BUFFERS
from ..memory.tensors import ALIGNED
from .layers import Experts, Linear


def matrices(layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where a layer's large weights stand: (module, attribute)."""
    places: list[tuple[nn.Module, str]] = []
    for module in layer.modules():
        if isinstance(module, Linear):
            places.append((module, "weight"))
        elif isinstance(module, Experts):
            places.append((module, "gate_up_proj"))
            places.append((module, "down_proj"))
    return places


class CopyStream(Protocol):
    """A second line of work beside the arithmetic."""

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Copy once `after` (None: at once) has come to pass. -> what has come to pass when it is done."""

    def mark(self) -> Any:
        """What has come to pass when all arithmetic so far is done."""

    def wait(self, event: Any) -> None:
        """Let the arithmetic from here on wait for a copy."""


class CudaCopyStream:
    """Copies on a stream of their own."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        if after is not None:
            self.stream.wait_event(after)
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
            return self.stream.record_event()

    def mark(self) -> Any:
        return torch.cuda.current_stream(self.device).record_event()

    def wait(self, event: Any) -> None:
        torch.cuda.current_stream(self.device).wait_event(event)


class HostOffload:
    """Layers on the host, and `BUFFERS` of them at a time on the device.

    Their number must be a multiple of BUFFERS.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module] | nn.ModuleList,
        streamed: Sequence[int],
        device: torch.device,
        stream: CopyStream | None = None,
    ):
        if len(streamed) % BUFFERS:
            raise ValueError(f"{len(streamed)} layers cannot take turns in {BUFFERS} buffers")
        self.stream = stream or CudaCopyStream(device)
        self.place = {number: place for place, number in enumerate(streamed)}
        self.host = [_gathered(layers[number], device.type == "cuda") for number in streamed]
        size = max(map(len, self.host))
        self.buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(BUFFERS)]
        for place, number in enumerate(streamed):
            _point(layers[number], self.buffers[place % BUFFERS])
        # place -> its copy, from its launch until the layer after it arrives
        self.copied: dict[int, Any] = {}
        self.last: int | None = None  # the place that is computed

    def load_layer(self, number: int) -> None:
        """Layer `number` comes next: its matrices are in their buffer, and the next one's are on their
        way.
        """
        place = self.place.get(number)
        if place is None:
            return
        if place not in self.copied:  # the first pass, or the one before it broke off
            self.copied = {place: self._copy(place)}
        self.stream.wait(self.copied.pop(place))
        following = (place + 1) % len(self.host)
        if following not in self.copied:
            self.copied[following] = self._copy(following)

    def _copy(self, place: int) -> Any:
        """Fill the place's buffer, which was last read by layers before the one that arrives now."""
        source = self.host[place]
        target = self.buffers[place % BUFFERS][: len(source)]
        return self.stream.copy(target, source, self.stream.mark())


def _parts(weight: Weight) -> list[Tensor]:
    if isinstance(weight, QuantTensor):
        return list(weight.parts.values())
    return [weight.detach()]


def _offsets(layer: nn.Module) -> tuple[list[tuple[nn.Module, str, list[int]]], int]:
    """Where each part of each matrix of a layer stands in a run of bytes, and how long that is."""
    places = []
    end = 0
    for module, name in matrices(layer):
        starts = []
        for part in _parts(getattr(module, name)):
            starts.append(end)
            end += -(-part.nbytes // ALIGNED) * ALIGNED
        places.append((module, name, starts))
    return places, end


def _gathered(layer: nn.Module, pinned: bool) -> Tensor:
    """A layer's matrices as one run of bytes on the host."""
    places, size = _offsets(layer)
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
    for module, name, starts in places:
        for start, part in zip(starts, _parts(getattr(module, name)), strict=True):
            _view(host, start, part).copy_(part)
    return host


def _point(layer: nn.Module, buffer: Tensor) -> None:
    """Let a layer's matrices be views of a buffer; what they were before is given up."""
    for module, name, starts in _offsets(layer)[0]:
        weight = getattr(module, name)
        views = [_view(buffer, start, part) for start, part in zip(starts, _parts(weight), strict=True)]
        if isinstance(weight, QuantTensor):
            setattr(module, name, replace(weight, parts=dict(zip(weight.parts, views, strict=True))))
        else:
            setattr(module, name, nn.Parameter(views[0], requires_grad=False))


def _view(run: Tensor, start: int, like: Tensor) -> Tensor:
    return run[start : start + like.nbytes].view(like.dtype).view(like.shape)


class MmapOffload:
    """Layers whose matrices are views of files, on a CPU."""

    def __init__(
        self,
        layers: Sequence[nn.Module] | nn.ModuleList,
        mapped: Sequence[int],
        dtype: torch.dtype,
        expect: Callable[[int], None],
    ):
        """The layers whose numbers are `mapped`.

        dtype: what the model computes in; expect: called with the number of the layer that will be read next.
        """
        self.layers = layers
        self.dtype = dtype
        self.expect = expect
        self.following = dict(zip(mapped, [*mapped[1:], *mapped[:1]], strict=True))
        self.replaced: list[tuple[nn.Module, str, Weight]] = []  # what the layer at work holds views of

    def load_layer(self, number: int) -> None:
        """Layer `number` comes next: its matrices can be multiplied with.

        The one before it holds nothing any more.
        """
        for module, name, weight in self.replaced:
            delattr(module, name)
            setattr(module, name, weight)
        self.replaced = []
        if number not in self.following:
            return
        self.expect(self.following[number])
        layer = self.layers[number]
        for module, name in matrices(layer):
            weight = getattr(module, name)
            if isinstance(weight, nn.Parameter):
                self.replaced.append((module, name, weight))
                setattr(module, name, nn.Parameter(weight.to(self.dtype), requires_grad=False))
        if should_pack(self.dtype):
            for module in layer.modules():
                if isinstance(module, Linear | Experts):
                    module.pack()
