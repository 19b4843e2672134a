"""Tensors from disk to the device, one at a time, into a module that was built without memory.

Host memory holds one tensor of the model at a time (1.5 GB for the published embedding), never a model:
each is read into its own buffer rather than mapped, because a file that shrinks under a mapping kills the
process with SIGBUS, where a short read is an error with a name. A tensor in few bits is put together from
its fields (unpack.py). Knows no mathematics. Trap: a parameter nobody assigned stays uninitialised and
answers with nonsense, so both lists of names must be equal before the first byte is read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config.sizes import Progress, disk_size
from ..errors import CheckpointError, ResourceError
from ..kernels.quant import formats
from ..kernels.quant.formats import QuantTensor, Weight, codec, empty
from .headers import TensorInfo
from .layout import Layout, Stored, inspect, problems, read_layout
from .unpack import unpack

__all__ = ["DTYPES", "Layout", "inspect", "load_into", "problems", "read_layout", "stream"]

Mappable = Weight | list[tuple[QuantTensor, QuantTensor]] | list[QuantTensor]  # see mapped.mapped
DTYPES = formats.DTYPES | {
    "I32": torch.int32,
    "I64": torch.int64,
}  # of safetensors' names, as far as they are read


def stream(
    layout: Layout,
    device: str | torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
    rounds: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, Weight]]:
    """(model name, weight) for every text tensor, in file order, on `device`: plain ones as `dtype`, others
    in their format.

    rounds: formats whose products round activations, where the file declares it. On "meta" nothing is read.
    Raises CheckpointError that names file and tensor where data ends early, is not readable or holds NaN or
    infinite numbers or scales (before or after the conversion to `dtype`).
    """
    if only is None:
        wanted = layout.text
    else:
        wanted = {name: layout.text[name] for name in only}
    order = sorted(wanted.items(), key=lambda item: (item[1].file, item[1].offset))
    total = sum(stored.nbytes for stored in wanted.values())
    done = 0
    with Files() as files:
        for name, stored in order:
            weight = (
                _unfilled(stored, dtype)
                if torch.device(device).type == "meta"
                else read(stored, files, device, dtype)
            )
            if isinstance(weight, QuantTensor):
                declared = stored.scheme is not None and stored.scheme.rounded
                weight = replace(weight, rounded=declared and weight.format.name in rounds)
            yield name, weight
            done += stored.nbytes
            if progress is not None and weight.device.type != "meta":
                progress(done, total, stored.name)


def load_into(
    module: nn.Module,
    layout: Layout,
    device: str | torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
    rounds: Collection[str] = (),
    only: Collection[str] | None = None,
) -> list[str]:
    """Fill every parameter and buffer of `module` (usually on "meta") from the checkpoint, each exactly
    once; `only`: some of them.

    Returns notes: what a user should know and no fault. Raises CheckpointError where names or shapes of
    module and checkpoint differ, or as `stream` does, and ResourceError where the device has no room left.
    """
    if layout.problems:
        raise CheckpointError(layout.problems[0])
    _compare(module, layout)
    scalars: dict[str, Tensor] = {}
    try:
        for name, tensor in stream(layout, device, dtype, progress, rounds, only):
            assign(module, name, tensor)
            if name.endswith("layer_scalar") and isinstance(tensor, Tensor) and not tensor.is_meta:
                scalars[name] = tensor
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise  # the CPU allocator has no class of its own
        need = sum(stored.kept(dtype.itemsize) for stored in layout.text.values())
        raise ResourceError(
            f"{device}: no room for the weights ({disk_size(need)}); `dgemma doctor` says what fits where"
        ) from None
    return layout.notes() + _scalar_notes(scalars)


def read(stored: Stored, files: Files, device: str | torch.device, dtype: torch.dtype) -> Weight:
    """One tensor of the model, put together on the host matrix by matrix and then moved."""
    if len(stored.matrices) == 1 and stored.format is None:
        info = stored.matrices[0]["weight"]
        return _to_device(files.read(info).view(stored.shape), info, device, dtype)
    weight = (
        empty(stored.format, stored.shape, "cpu") if stored.format else torch.empty(stored.shape, dtype=dtype)
    )
    rows = math.prod(stored.shape[:-1]) // len(stored.matrices)
    if isinstance(weight, QuantTensor):
        parts = weight.parts
    else:
        parts = {"weight": weight}
    flat = {
        name: part.flatten(0, len(stored.shape) - 2) for name, part in parts.items()
    }  # [all rows, ...]: views
    for number, fields in enumerate(stored.matrices):
        place = {name: part[number * rows : (number + 1) * rows] for name, part in flat.items()}
        raw = {leaf: files.read(info) for leaf, info in fields.items()}
        if stored.format is None:
            place["weight"].copy_(_to_device(raw["weight"], fields["weight"], "cpu", dtype))
        else:
            for name, part in matrix(stored, fields, raw).items():
                place[name].copy_(part)
    return weight.to(device)


def matrix(stored: Stored, fields: dict[str, TensorInfo], raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of one of a tensor's matrices in few bits, their values checked; raw: its fields as they
    stand in the file.
    """
    shape = (math.prod(stored.shape[:-1]) // len(stored.matrices), stored.shape[-1])
    scheme, format = stored.encoding
    try:
        parts = unpack(scheme, shape, raw)
        fault = codec(format).check(parts)
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        info = next(iter(fields.values()))
        if len(fields) > 1:
            name = info.name.rpartition(".")[0]
        else:
            name = info.name
        raise CheckpointError(f"{info.file}: tensor '{name}' is damaged: {fault}; fetch it again")
    return parts


def _unfilled(stored: Stored, dtype: torch.dtype) -> Weight:
    if stored.format is not None:
        return empty(stored.format, stored.shape, "meta")
    return torch.empty(stored.shape, dtype=dtype, device="meta")


class Files(ExitStack):
    """Open shards. Each is opened once; folders of more than 64 are closed and opened again."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[Path, FileIO] = {}

    def read(self, info: TensorInfo) -> Tensor:
        """One tensor as it stands in its file, on the host."""
        if info.file not in self._open:
            if len(self._open) == 64:
                self.close()
                self._open.clear()
            self._open[info.file] = self.enter_context(_open(info))
        return _read(self._open[info.file], info)


def _open(info: TensorInfo) -> FileIO:
    try:
        return FileIO(info.file)
    except OSError as error:
        raise CheckpointError(f"{info.file}: not readable ({error.strerror})") from None


def _read(file: FileIO, info: TensorInfo) -> Tensor:
    """One tensor's bytes as they stand in the file, on the host."""
    raw = torch.empty(info.nbytes, dtype=torch.uint8)
    view: memoryview = raw.numpy().data
    have = 0
    try:
        file.seek(info.offset)
        while have < info.nbytes:  # one read returns at most 2 GiB on Linux
            if not (count := file.readinto(view[have:])):
                raise CheckpointError(f"{info.file}: truncated inside tensor '{info.name}'; fetch it again")
            have += count
    except OSError as error:
        raise CheckpointError(
            f"{info.file}: tensor '{info.name}' is not readable ({error.strerror})"
        ) from None
    return raw.view(DTYPES[info.dtype]).view(info.shape)


def _to_device(tensor: Tensor, info: TensorInfo, device: str | torch.device, dtype: torch.dtype) -> Tensor:
    moved = tensor.to(device=device, dtype=dtype)
    if not finite(moved):
        cause = "holds NaN or infinite values"
        if finite(tensor):
            cause = f"does not fit into {dtype}"
        raise CheckpointError(f"{info.file}: tensor '{info.name}' {cause}")
    return moved


def finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    # aminmax carries NaN and infinity out in one pass without temporaries: 10 GB/s on one core, isfinite 0.14
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _compare(module: nn.Module, layout: Layout) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}
    for name, shape in wanted.items():
        if name not in layout.text:
            raise CheckpointError(f"{layout.folder}: the model's '{name}' has no tensor in the checkpoint")
        if layout.text[name].shape != shape:
            stored = layout.text[name]
            raise CheckpointError(
                f"{stored.file}: tensor '{stored.name}' has the shape {list(stored.shape)}, "
                f"the model asks for {list(shape)}"
            )
    for name, stored in layout.text.items():
        if name not in wanted:
            raise CheckpointError(
                f"{stored.file}: tensor '{stored.name}' would go unused: the model has no '{name}'"
            )


def assign(module: nn.Module, name: str, tensor: Mappable) -> None:
    """Put a tensor in the place of the module's parameter or buffer `name`; a QuantTensor is no parameter
    any more.
    """
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(tensor, QuantTensor | list):  # a list: experts that stand apart in a file (mapped.py)
        owner._parameters.pop(leaf, None)
    elif (parameter := owner._parameters.get(leaf)) is not None:
        tensor = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
    setattr(owner, leaf, tensor)


def _scalar_notes(scalars: dict[str, Tensor]) -> list[str]:
    """The scalar a layer uses when encoding and when denoising are equal in the published file; say so if
    not.
    """
    differ = []
    for name, scalar in scalars.items():
        if name.endswith(".layer_scalar"):
            twin = scalars[name.removesuffix("layer_scalar") + "encoder_layer_scalar"]
            if not torch.equal(scalar, twin):
                differ.append(name.split(".")[1])
    if not differ:
        return []
    return [
        (
            f"layer_scalar differs between encoder and decoder in layers {', '.join(differ)}; "
            "each mode uses its own"
        )
    ]
