"""Tensors from disk to the device, one at a time, into a module that was built without memory.

Host memory holds one tensor at a time (1.5 GB for the published embedding), never a model: each is read into its
own buffer rather than mapped, because a file that shrinks under a mapping kills the process with SIGBUS, where a
short read is an error with a name. Knows no mathematics. Trap: a parameter nobody assigned stays uninitialised
and answers with nonsense, so both lists of names must be equal before the first byte is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import FileIO
from itertools import groupby

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ResourceError
from .headers import TensorInfo
from .layout import Layout, inspect, problems, read_layout

__all__ = ["DTYPES", "Layout", "Progress", "inspect", "load_into", "problems", "read_layout", "stream"]

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, the name being worked on
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def stream(
    layout: Layout, device: str | torch.device, dtype: torch.dtype, progress: Progress | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(model name, tensor) for every text tensor, in file order, as `dtype` on `device`.

    On "meta" nothing is read. Raises CheckpointError that names file and tensor where data ends early, is not
    readable or holds NaN or infinite values (before or after the conversion to `dtype`).
    """
    order = sorted(layout.text.items(), key=lambda item: (item[1].file, item[1].offset))
    if torch.device(device).type == "meta":
        for name, info in order:
            yield name, torch.empty(info.shape, dtype=dtype, device="meta")
        return
    total, done = layout.text_bytes, 0
    for _, group in groupby(order, key=lambda item: item[1].file):
        tensors = list(group)
        with _open(tensors[0][1]) as file:
            for name, info in tensors:
                yield name, _to_device(_read(file, info), info, device, dtype)
                done += info.nbytes
                if progress is not None:
                    progress(done, total, info.name)


def load_into(
    module: nn.Module, layout: Layout, device: str | torch.device, dtype: torch.dtype, progress: Progress | None = None
) -> list[str]:
    """Fill every parameter and buffer of `module` (usually on "meta") from the checkpoint, each exactly once.

    Returns notes: what a user should know and no fault. Raises CheckpointError where names or shapes of module and
    checkpoint differ, or as `stream` does, and ResourceError where the device has no room left.
    """
    if layout.problems:
        raise CheckpointError(layout.problems[0])
    _compare(module, layout)
    scalars: dict[str, Tensor] = {}
    try:
        for name, tensor in stream(layout, device, dtype, progress):
            _assign(module, name, tensor)
            if name.endswith("layer_scalar") and not tensor.is_meta:
                scalars[name] = tensor
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise  # the CPU allocator has no class of its own
        need = sum(info.nbytes // DTYPES[info.dtype].itemsize for info in layout.text.values()) * dtype.itemsize
        raise ResourceError(
            f"{device}: no room for the weights ({need / 2**30:.1f} GiB); `dgemma doctor` says what fits where"
        ) from None
    return layout.notes() + _scalar_notes(scalars)


def _open(info: TensorInfo) -> FileIO:
    try:
        return FileIO(info.file)
    except OSError as error:
        raise CheckpointError(f"{info.file}: not readable ({error.strerror})") from None


def _read(file: FileIO, info: TensorInfo) -> Tensor:
    """One tensor's bytes as they stand in the file, on the host."""
    raw = torch.empty(info.nbytes, dtype=torch.uint8)
    view, have = memoryview(raw.numpy()), 0
    try:
        file.seek(info.offset)
        while have < info.nbytes:  # one read returns at most 2 GiB on Linux
            if not (count := file.readinto(view[have:])):
                raise CheckpointError(f"{info.file}: truncated inside tensor '{info.name}'; fetch it again")
            have += count
    except OSError as error:
        raise CheckpointError(f"{info.file}: tensor '{info.name}' is not readable ({error.strerror})") from None
    return raw.view(DTYPES[info.dtype]).view(info.shape)


def _to_device(tensor: Tensor, info: TensorInfo, device: str | torch.device, dtype: torch.dtype) -> Tensor:
    moved = tensor.to(device=device, dtype=dtype)
    if not _finite(moved):
        cause = "holds NaN or infinite values" if not _finite(tensor) else f"does not fit into {dtype}"
        raise CheckpointError(f"{info.file}: tensor '{info.name}' {cause}")
    return moved


def _finite(tensor: Tensor) -> bool:
    # aminmax carries NaN and infinity out in one pass without temporaries: 10 GB/s on one core, isfinite 0.14
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _compare(module: nn.Module, layout: Layout) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}
    for name, shape in wanted.items():
        if name not in layout.text:
            raise CheckpointError(f"{layout.folder}: the model's '{name}' has no tensor in the checkpoint")
        if layout.text[name].shape != shape:
            info = layout.text[name]
            raise CheckpointError(
                f"{info.file}: tensor '{info.name}' has the shape {list(info.shape)}, the model asks for {list(shape)}"
            )
    for name, info in layout.text.items():
        if name not in wanted:
            raise CheckpointError(f"{info.file}: tensor '{info.name}' would go unused: the model has no '{name}'")


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        tensor = nn.Parameter(tensor, requires_grad=owner._parameters[leaf].requires_grad)
    setattr(owner, leaf, tensor)


def _scalar_notes(scalars: dict[str, Tensor]) -> list[str]:
    """The scalar a layer uses when encoding and when denoising are equal in the published file; say so if not."""
    differ = []
    for name, scalar in scalars.items():
        if name.endswith(".layer_scalar"):
            twin = scalars[name.removesuffix("layer_scalar") + "encoder_layer_scalar"]
            if not torch.equal(scalar, twin):
                differ.append(name.split(".")[1])
    if not differ:
        return []
    return [f"layer_scalar differs between encoder and decoder in layers {', '.join(differ)}; each mode uses its own"]
