"""DiffusionGemma: the embedding, self-conditioning and the two calls, encode() and denoise().

`encode` reads clean tokens causally and writes K and V; `denoise` reads a canvas bidirectionally
against them and returns hidden states. Neither knows steps, temperatures or text. The model has no
mask token and no time input: a canvas starts as random vocabulary ids.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..kernels.norm import rms_norm
from ..kernels.vocab import soft_embedding
from .kv import KVCache
from .layers import GatedMLP, Norm
from .masks import DenoiseContext, EncodeContext
from .stack import Context, Stack

Previous = tuple[Tensor, Tensor]  # the last step's p [B, C, V] and row_sum [B, C]; see kernels/vocab.py


class SelfConditioning(GatedMLP):
    """The gated MLP that turns the last step's expected embedding into a correction of the canvas embedding."""

    def __init__(self, config: ModelConfig):
        super().__init__(config.hidden_size, config.intermediate_size)
        self.pre_norm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, soft: Tensor) -> Tensor:
        return super().forward(self.pre_norm(soft))


class DiffusionGemma(nn.Module):
    """The text model. Parameters carry the names of weights/names.py."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.self_conditioning = SelfConditioning(config)
        self.layers = Stack(config)
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def new_cache(self, batch: int, capacity: int = 0) -> KVCache:
        """An empty cache for `batch` rows; `capacity` tokens are reserved in the full layers."""
        return KVCache(self.config, batch, self.dtype, self.device, capacity)

    def encode(self, ids: Tensor, kv: KVCache, counts: list[int] | None = None) -> Tensor:
        """Read clean tokens after what `kv` holds, and add them to it.

        ids [B, T] int64, right-padded where rows differ: `counts[b]` (default T) of them are real.
        -> hidden [B, T, D] after the final norm, whose head predicts the next token; rows past their count are void.
        """
        counts = counts or [ids.shape[1]] * ids.shape[0]
        context = EncodeContext(kv, counts, ids.shape[1])
        hidden = self.encode_with(ids, self._positions(kv, ids.shape[1]), context)
        context.finish()
        return hidden

    def denoise(
        self, canvas: Tensor, kv: KVCache, previous: Previous | None = None, pins: Tensor | None = None
    ) -> Tensor:
        """One pass over a canvas that continues each row of `kv`, which is only read.

        canvas [B, C] int64; previous: the last step's (p, row_sum), None at a canvas's first step; pins
        [B, C] int64, a token id or -1: a pinned cell is conditioned on its own token. -> hidden [B, C, D].
        """
        soft = None
        if previous is not None:
            soft = soft_embedding(*previous, self.embed.weight, self.config.embedding_scale)
            if pins is not None:
                soft = torch.where(pins[..., None] >= 0, self.embedded(pins.clamp_min(0)), soft)
        context = DenoiseContext(kv, canvas.shape[1])
        return self.denoise_with(canvas, soft, self._positions(kv, canvas.shape[1]), context)

    def encode_with(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        """The encode pass over any context (training runs whole sequences in one)."""
        return self.norm(self.layers.run(self.embedded(ids), positions, context))

    def denoise_with(self, canvas: Tensor, soft: Tensor | None, positions: Tensor, context: Context) -> Tensor:
        """The denoise pass over any context; soft [B, T, D] is the self-conditioning embedding, or None for none."""
        x = self.embedded(canvas)
        if soft is not None:
            x = x + self.self_conditioning(soft)
        x = rms_norm(x, None, self.config.rms_norm_eps)
        return self.norm(self.layers.run(x, positions, context))

    def embedded(self, ids: Tensor) -> Tensor:
        """E[ids] * sqrt(D), the factor rounded to the weight dtype as in the reference."""
        scale = torch.tensor(self.config.embedding_scale, dtype=self.dtype).item()  # on the host: no transfer
        return F.embedding(ids, self.embed.weight) * scale

    def _positions(self, kv: KVCache, width: int) -> Tensor:
        starts = torch.tensor(kv.lengths, device=self.device)
        return starts[:, None] + torch.arange(width, device=self.device)
