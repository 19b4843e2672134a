"""Ways to get this model wrong, one at a time: each is a mistake some engine made, and must fail the parity check."""

from __future__ import annotations

import pytest
import torch

import dgemma.kernels.ops.heads
import dgemma.kernels.ops.moe
import dgemma.model.layers
import dgemma.model.passes
from dgemma.kernels.ops.norm import rms_norm
from tests.model import worlds


def wrong_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass sees one cached token less through its window than it should."""
    first = dgemma.model.passes.Pass._first
    monkeypatch.setattr(
        dgemma.model.passes.Pass, "_first", lambda self, start: min(first(self, start) + 1, start)
    )


def window_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual mistake: a window that moves along with the canvas row."""
    seen = dgemma.model.passes.Pass._seen

    def moving(self, number, sliding, first):
        span, start = self.spans[number], self.starts[number]
        if span.clean or not sliding:
            return seen(self, number, sliding, first)
        row = torch.arange(start, start + span.rows)[:, None]
        key = torch.arange(first, start + span.rows)
        return (key > row - self.config.sliding_window) | (key >= start)

    monkeypatch.setattr(dgemma.model.passes.Pass, "_seen", moving)


def router_on_the_wrong_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router reads what the experts read: the residual normalised with their norm's weight."""
    layer = dgemma.model.layers.Layer
    forward = layer.forward

    def misfed(self, *arguments):
        route = self.router.forward
        monkeypatch.setattr(self.router, "forward", lambda x: route(self.pre_feedforward_layernorm_2(x)))
        try:
            return forward(self, *arguments)
        finally:
            monkeypatch.delattr(self.router, "forward")

    monkeypatch.setattr(layer, "forward", misfed)


def no_norm_on_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def weighted_only(x, weight, eps):
        return x if weight is None else rms_norm(x, weight, eps)

    monkeypatch.setattr(dgemma.kernels.ops.heads, "rms_norm", weighted_only)


def one_scalar_for_both_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = dgemma.model.layers.Layer
    forward = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda self, x, rope, attend, encoding: forward(self, x, rope, attend, False)
    )


def no_scale_per_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = dgemma.kernels.ops.moe.choose
    monkeypatch.setattr(
        dgemma.kernels.ops.moe,
        "choose",
        lambda chances, scale, top_k: choose(chances, torch.ones_like(scale), top_k),
    )


def no_soft_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "soft_capped_logits", lambda hidden, embedding, cap: hidden @ embedding.T)


def no_self_conditioning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "conditioned", lambda world, processed: None)


TWINS = [
    wrong_window, window_per_row, router_on_the_wrong_state, no_norm_on_values, one_scalar_for_both_modes,
    no_scale_per_expert, no_soft_cap, no_self_conditioning,
]  # fmt: skip
