"""Where and in what numbers a model is to run: device, dtype, and the memory that both leave.

Decided from headers, before any weight is read. Knows sizes and devices, no module. Trap: a card that is
asked for more than it has fails half-way through the weights; so a card is planned even where nobody named a
memory, with what is free on it.
"""

from __future__ import annotations

import torch

from ..config import EngineConfig, ModelConfig
from ..config.formats import DTYPES
from ..config.sizes import disk_size
from ..errors import CheckpointError, ResourceError, UsageError
from ..kernels.select import multiplies, wants_triton
from ..memory.placement import CONTEXT, Placement, bytes_in, placement
from ..memory.plan import estimate_memory, machine
from ..weights.headers import READABLE
from ..weights.layout import Layout
from ..weights.reader import DTYPES as TORCH_DTYPES

_BY_NAME = {name: TORCH_DTYPES[stored] for name, stored in DTYPES.items()}
_UNKNOWN = 2**62  # bytes of a memory that tells nothing about itself


def config_of(layout: Layout) -> ModelConfig:
    """The architecture that a layout was checked against.

    Raises CheckpointError where it was read without one.
    """
    if layout.config is None:
        raise CheckpointError(f"{layout.folder}: its config.json was not read, so nothing can be loaded")
    return layout.config


def choose_device(device: str | torch.device | None) -> torch.device:
    """None: the first CUDA card, else the CPU. Raises UsageError for a device that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise UsageError(f"device {device!r} is not known; use cpu, cuda, cuda:1 ...") from None
    if chosen.type not in ("cpu", "cuda", "meta"):
        raise UsageError(f"device '{device}' is not supported; use cpu, cuda, cuda:1 ...")
    if chosen.type == "cuda" and (chosen.index or 0) >= (cards := torch.cuda.device_count()):
        raise UsageError(f"device '{device}' was asked for, but this torch sees {cards} CUDA cards; use cpu")
    return chosen


def choose_dtype(
    dtype: str | torch.dtype | None, device: torch.device, layout: Layout, budget: int | None
) -> torch.dtype:
    """The requested dtype, or the one that suits the device and its memory.

    budget: bytes; None: what is free. Raises UsageError for a dtype that is not known, ResourceError where a
    CPU has no room for the weights.
    """
    requested = None
    if dtype is not None:
        requested = _known(dtype)
    stored = torch.bfloat16  # what stands beside weights in few bits
    if all(tensor.format is None for tensor in layout.text.values()):
        stored = next((TORCH_DTYPES[name] for name in layout.dtypes if name in READABLE), stored)
    if device.type != "cpu":
        return requested or stored
    # 16-bit products are 5-10x slower than float32 on CPUs without bf16 units, so memory alone decides
    memory = (machine()[0].free or _UNKNOWN) if budget is None else budget
    config = config_of(layout)
    context = min(CONTEXT, config.max_position_embeddings)
    candidates = [torch.float32, stored]
    if requested is not None:
        candidates = [requested]
    for candidate in candidates:
        plan = estimate_memory(config, candidate, context, device="cpu", formats=layout.formats)
        if plan.fits(memory):
            return candidate
    if budget is not None:  # layers stream, or the placement says what is missing
        return requested or stored
    raise ResourceError(
        f"the model needs {disk_size(plan.total)} and this machine has {disk_size(memory)} free; "
        "give memory (--memory SIZE) and layers are read from the files as they are needed"
    )


def _known(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        name = str(dtype).removeprefix("torch.")
    else:
        name = str(dtype)
    if name not in _BY_NAME:
        raise UsageError(f"dtype '{dtype}' is not known; use {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def plan_memory(
    layout: Layout, device: torch.device, dtype: torch.dtype, budget: int | None, *, may_stream: bool
) -> tuple[Placement | None, EngineConfig]:
    """Where the weights go (None: they stay, and nothing limits them), and what that leaves to requests.

    budget: bytes; None: on a card what is free there, on a CPU nothing is planned, because `choose_dtype`
    did. Raises ResourceError that names the numbers.
    """
    if device.type == "meta" or (budget is None and device.type == "cpu"):
        return None, EngineConfig()
    if budget is None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # what torch keeps of models that are gone is free for this one
    place = placement(
        config_of(layout),
        dtype,
        device.type,
        budget,
        index=device.index,
        formats=layout.formats,
        stored=bytes_in(layout),
        may_stream=may_stream,
    )
    if budget is None and not place.streamed:
        return place, EngineConfig()  # the engine takes of what is free once the weights are there
    requests = place.plan.kv + place.plan.work
    return place, EngineConfig(memory=place.memory - place.margin - place.device_bytes + requests)


def rounded_formats(activations: str | None, device: torch.device) -> tuple[str, ...]:
    """The formats whose products round what they multiply with, where a checkpoint declares it."""
    if activations not in (None, "rounded", "16bit"):
        raise UsageError(f"activations '{activations}' is not known; use rounded or 16bit, or leave it out")
    if activations is not None:
        if activations == "rounded":
            return ("fp8", "nvfp4")
        return ()
    if device.type != "cuda" or not wants_triton():
        return ()
    capability = torch.cuda.get_device_capability(device)
    return tuple(name for name in ("fp8", "nvfp4") if multiplies(name, capability))
