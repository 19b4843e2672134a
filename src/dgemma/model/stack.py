"""The stack of layers, run over a context that answers attention. One weight set, both modes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ..config import LayerConfig, ModelConfig
from ..kernels.ops.rope import rope_table
from .layers import Layer


class Context(Protocol):
    """What a pass may see. Decides masks, and whether keys and values are kept."""

    @property
    def encoding(self) -> bool | Tensor:
        """For all rows, or for each [1, T, 1]."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class Arrivals(Protocol):
    """Whoever brings the matrices of layers that are not in memory (streaming.py)."""

    def load_layer(self, number: int) -> None: ...


class Stack(nn.ModuleList):
    """The layers in order; `run` takes the residual stream [B, T, D] through all of them."""

    def __init__(self, config: ModelConfig):
        super().__init__(Layer(config, layer) for layer in config.layers)
        self.config = config
        self.offload: Arrivals | None = None

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[Layer]: ...

    def run(self, x: Tensor, positions: Tensor, context: Context) -> Tensor:
        """x [B, T, D] at positions [B or 1, T] -> [B, T, D], before the final norm."""
        tables: dict[LayerConfig, tuple[Tensor, Tensor]] = {}
        for i, (layer, shape) in enumerate(zip(self, self.config.layers, strict=True)):
            if shape not in tables:
                tables[shape] = self._table(positions, shape, x.dtype)
            if self.offload is not None:
                self.offload.load_layer(i)
            x = layer(x, tables[shape], partial(context.attend, i), context.encoding)
        return x

    @staticmethod
    def _table(positions: Tensor, layer: LayerConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return rope_table(
            positions, layer.rope_theta, layer.head_dim, layer.rotary_dims, layer.rope_divisor, dtype
        )
