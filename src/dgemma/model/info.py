"""What a loaded model is and how it runs here, for people.

That is its repr, the summary of a run, and what a service says when it starts. Knows the model and the folder
that it came from. Trap: a packed matrix is no parameter any more, so parameters are counted by the config,
not by the modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.sizes import short_count
from ..hub.locate import model_name
from ..kernels.c.native import backend
from ..memory.tensors import weight_bytes
from .build import format_of
from .dgemma import DiffusionGemma

KERNELS = {"c": "in C", "triton": "Triton", "torch": "torch's own"}


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, and how it runs here."""

    name: str  # "(embedded)", a hub name, or the last part of a folder's or file's path
    parameters: int  # of the text model
    device: str  # "CPU", or the card by its number and name
    numbers: str  # "float32", "bfloat16 (experts int4)"
    kernels: str  # what most operations run on: "torch", "c" or "triton"
    context: int  # tokens
    canvas: int  # tokens

    @property
    def size(self) -> str:
        """The parameters in words."""
        return short_count(self.parameters)

    @property
    def place(self) -> str:
        """Where and in what it runs."""
        return f"{self.device}, {self.numbers}"

    @property
    def line(self) -> str:
        """All of it on one line."""
        size = f"{self.size} parameters on {self.place}"
        return f"{self.name}: {size}, context {self.context}, canvas {self.canvas}"


def model_info(net: DiffusionGemma, folder: Path) -> ModelInfo:
    """What a model that was loaded from `folder` is, and how it runs here."""
    config = net.config
    return ModelInfo(
        name=model_name(folder),
        parameters=sum(weight_bytes(config, 1).values()),
        device=device_name(net.device),
        numbers=format_of(net),
        kernels=backend(net.norm.weight),
        context=config.max_position_embeddings,
        canvas=config.canvas_length,
    )


def device_name(device: torch.device) -> str:
    """ "CPU", or a card by its number and name."""
    if device.type == "cuda":
        return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return device.type.upper()
    return device.type
