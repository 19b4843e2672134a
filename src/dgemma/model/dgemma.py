"""DiffusionGemma: the embedding, self-conditioning and the two calls, encode() and denoise().

`encode` reads clean tokens causally and keeps K and V; `denoise` reads a canvas bidirectionally against them
and returns hidden states; `both` does the two in one pass. None knows steps, temperatures or text. The model
has no mask token and no time input: a canvas starts as random vocabulary ids.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..kernels.ops.matmul import Table, pack
from ..kernels.ops.norm import rms_norm
from ..kernels.ops.vocab import soft_embedding
from ..kernels.quant.formats import QuantTensor, Weight, lookup
from .kv import KVCache
from .layers import Embedding, GatedMLP, Norm
from .passes import Pass, Span
from .stack import Context, Stack

PrevProbs = tuple[Tensor, Tensor]  # the last step's p [B, C, V] and row_sum [B, C]; see kernels/ops/vocab.py


class Canvases(NamedTuple):
    """Canvases of one width that share a pass with others."""

    ids: Tensor  # [B, C] int64
    kv: Sequence[KVCache]  # what each continues
    # [B, C, D] of `self_conditioning_of`, 0 where a canvas takes its first step; None: all do
    soft: Tensor | None


class SelfConditioning(GatedMLP):
    """The gated MLP that turns the last step's expected embedding into a correction of the canvas
    embedding.
    """

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
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.self_conditioning = SelfConditioning(config)
        self.layers = Stack(config)
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        # `table` and `columns` (None: packed when they are needed), see build.pack
        self.packed: tuple[Table, Tensor | None] | None = None

    @property
    def table(self) -> Table:
        """The embedding [V, D] as the head multiplies with it: plain, packed or in few bits."""
        if self.packed:
            return self.packed[0]
        return self.embed.weight

    @property
    def columns(self) -> Weight:
        """The embedding as self-conditioning mixes it: turned, [D, V], but as it is where it is in few
        bits.
        """
        weight = self.embed.weight
        if self.packed:
            _, columns = self.packed
            if columns is None:
                return pack(weight.T)
            return columns
        if isinstance(weight, QuantTensor):
            return weight
        return weight.T

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty sequence; `capacity` tokens are reserved in the full layers."""
        return KVCache(self.config, self.dtype, self.device, capacity)

    def encode(self, ids: Tensor, kv: Sequence[KVCache], counts: list[int] | None = None) -> Tensor:
        """Read clean tokens after what `kv` holds, and add them to it.

        ids [B, T] int64, right-padded where rows differ: `counts[b]` (default T) of them are real.
        -> hidden [B, T, D] after the final norm, whose head predicts the next token; rows past their count
        are 0.
        """
        counts = counts or [ids.shape[1]] * ids.shape[0]
        is_token = torch.arange(ids.shape[1]) < torch.tensor(counts)[:, None]
        is_token = is_token.to(ids.device)
        spans = [Span(row, count, True) for row, count in zip(kv, counts, strict=True) if count]
        hidden = self._pass(self.embedded(ids[is_token][None]), spans)
        padded = hidden.new_zeros((*ids.shape, hidden.shape[-1]))
        return padded.masked_scatter(is_token[..., None], hidden)

    def denoise(
        self,
        canvas: Tensor,
        kv: Sequence[KVCache],
        prev_probs: PrevProbs | None = None,
        pins: Tensor | None = None,
    ) -> Tensor:
        """One pass over a canvas that continues each row of `kv`, which keeps nothing of it.

        canvas [B, C] int64; prev_probs: the last step's (p, row_sum), None at a canvas's first step; pins
        [B, C] int64, a token id or -1: a pinned cell is conditioned on its own token. -> hidden [B, C, D].
        """
        soft = None
        if prev_probs is not None:
            soft = self.self_conditioning_of(prev_probs, pins)
        spans = [Span(row, canvas.shape[1], False) for row in kv]
        x = self.entering(canvas, soft).flatten(0, 1)[None]
        return self._pass(x, spans).view(*canvas.shape, -1)

    def both(self, clean: Sequence[tuple[KVCache, Tensor]], canvases: Sequence[Canvases]) -> list[Tensor]:
        """Read clean tokens and denoise canvases in one pass; a canvas sees the clean tokens of its own
        sequence.

        clean: sequences and their new ids [T], any number. -> hidden [B, C, D] of each group of canvases.
        """
        x = [self.embedded(ids) for _, ids in clean]
        spans = [Span(row, len(ids), True) for row, ids in clean]
        for group in canvases:
            x.append(self.entering(group.ids, group.soft).flatten(0, 1))
            spans += [Span(row, group.ids.shape[1], False) for row in group.kv]
        hidden = self._pass(torch.cat(x)[None], spans)[0]
        sizes = [group.ids.numel() for group in canvases]
        parts = hidden[hidden.shape[0] - sum(sizes) :].split(sizes)
        return [part.view(*group.ids.shape, -1) for part, group in zip(parts, canvases, strict=True)]

    def self_conditioning_of(self, prev_probs: PrevProbs, pins: Tensor | None = None) -> Tensor:
        """The self-conditioning embedding [B, C, D] of the last step's (p, row_sum).

        Pinned cells get their own token.
        """
        soft = soft_embedding(*prev_probs, self.columns, self.config.embedding_scale)
        if pins is None:
            return soft
        return torch.where(pins[..., None] >= 0, self.embedded(pins.clamp_min(0)), soft)

    def _pass(self, x: Tensor, spans: list[Span]) -> Tensor:
        context = Pass(self.config, spans)
        hidden: Tensor = self.norm(self.layers.run(x, context.positions, context))
        context.finish()
        return hidden

    def encode_with(self, ids: Tensor, positions: Tensor, context: Context) -> Tensor:
        """The encode pass over any context (training runs whole sequences in one)."""
        hidden: Tensor = self.norm(self.layers.run(self.embedded(ids), positions, context))
        return hidden

    def denoise_with(
        self, canvas: Tensor, soft: Tensor | None, positions: Tensor, context: Context
    ) -> Tensor:
        """The denoise pass over any context.

        soft [B, T, D] is the self-conditioning embedding, or None for none.
        """
        hidden: Tensor = self.norm(self.layers.run(self.entering(canvas, soft), positions, context))
        return hidden

    def entering(self, canvas: Tensor, soft: Tensor | None) -> Tensor:
        """What a canvas [B, C] enters the stack as, [B, C, D]."""
        x = self.embedded(canvas)
        if soft is not None:
            x = x + self.self_conditioning(soft)
        return rms_norm(x, None, self.config.rms_norm_eps)

    def embedded(self, ids: Tensor) -> Tensor:
        """E[ids] * sqrt(D), the factor rounded to the weight dtype as in the reference."""
        return self.rows(ids) * _rounded(self.config.embedding_scale, self.dtype)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the embedding, [..., D]: for a head that asks for some tokens alone."""
        weight = self.embed.weight
        if isinstance(weight, QuantTensor):
            return lookup(ids, weight, self.dtype)
        return F.embedding(ids, weight)


@functools.cache
def _rounded(number: float, dtype: torch.dtype) -> float:
    return torch.tensor(number, dtype=dtype).item()
