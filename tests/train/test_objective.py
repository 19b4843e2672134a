"""Training must see what generation sees: blocks in parallel equal canvases one after another."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from dgemma.kernels.vocab import soft_capped_logits, stats_of
from dgemma.model.build import build_random
from dgemma.train import objective
from dgemma.train.objective import BalanceLoss, Batch, BlockContext, CleanContext, HeadLoss, cross_entropy, losses
from tests.helpers import tiny_config

CONFIG = tiny_config()
WIDTH = CONFIG.canvas_length


def make(rows: int = 2, blocks: int = 3, first: int = 5):
    torch.manual_seed(0)
    model = build_random(CONFIG, dtype=torch.float64)
    clean = torch.randint(CONFIG.vocab_size, (rows, first + blocks * WIDTH))
    starts = [first + n * WIDTH for n in range(blocks)]
    targets = clean[:, first:].clone()
    noisy = torch.randint(CONFIG.vocab_size, targets.shape)
    pinned = torch.zeros(targets.shape, dtype=torch.bool)
    pinned[:, :3] = True
    noisy = torch.where(pinned, targets, noisy)
    return model, Batch(clean, starts, targets, noisy, pinned)


def sequential(model, batch: Batch, canvas: torch.Tensor, temperature: float | None = None) -> list[torch.Tensor]:
    """The hidden states of each canvas as the engine would run it: encode what stands before, then denoise.

    With a temperature, `canvas` is what a first step from the noisy canvases left, and that step is its previous one.
    """
    hidden = []
    for n, start in enumerate(batch.starts):
        kv = model.new_cache(batch.clean.shape[0])
        model.encode(batch.clean[:, :start], kv)
        own = slice(n * WIDTH, (n + 1) * WIDTH)
        previous = None
        pins = torch.where(batch.pinned[:, own], batch.targets[:, own], -1)
        if temperature is not None:
            first = model.denoise(batch.noisy[:, own], kv)
            logits = soft_capped_logits(first, model.embed.weight, CONFIG.final_logit_softcapping) / temperature
            stats = stats_of(logits, torch.full((*pins.shape, 2), 0.5), torch.float64)
            previous = stats.p, stats.row_sum
        hidden.append(model.denoise(canvas[:, own], kv, previous, pins))
    return hidden


def first_step(model, batch: Batch, seed: int = 0) -> torch.Tensor:
    """The canvases that `losses` reads after its unrolled step with this seed."""
    clean = CleanContext(CONFIG, batch.clean.shape[1])
    model.encode_with(batch.clean, torch.arange(batch.clean.shape[1])[None], clean)
    rows = torch.arange(batch.starts[0], batch.clean.shape[1])[None]
    context = BlockContext(clean, batch.starts, WIDTH)
    return objective.unrolled(model, batch, rows, context, torch.Generator().manual_seed(seed))[0]


def test_blocks_in_parallel_equal_canvases_in_turn() -> None:
    model, batch = make()
    want = cross_entropy(model, torch.cat(sequential(model, batch, batch.noisy), dim=1), batch.targets)
    assert losses(model, batch).canvas.item() == pytest.approx(want.item(), rel=1e-10)


def one_step_at(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    monkeypatch.setattr(objective, "TEMPERATURES", (temperature, temperature))
    monkeypatch.setattr(objective, "MOST_STEPS", 1)
    monkeypatch.setattr(objective, "FROM_NOISE", 0.0)


def test_an_unrolled_step_equals_the_samplers_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    one_step_at(monkeypatch, 0.6)
    model, batch = make()
    canvas = first_step(model, batch)
    found = losses(model, batch, torch.Generator().manual_seed(0)).canvas.item()
    for temperature, same in ((0.6, True), (1.0, False)):  # the twin that must fail: beliefs at another temperature
        want = cross_entropy(model, torch.cat(sequential(model, batch, canvas, temperature), dim=1), batch.targets)
        assert (found == pytest.approx(want.item(), rel=1e-8)) == same


def test_an_unrolled_step_holds_pins_and_accepts_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    one_step_at(monkeypatch, 1e-3)  # so cold that a sample is the argmax
    model, batch = make()
    argmax = soft_capped_logits(torch.cat(sequential(model, batch, batch.noisy), dim=1), model.embed.weight, 30.0).argmax(-1)
    for bounds, everything in (((0.0, 0.0), False), ((1e9, 1e9), True)):
        monkeypatch.setattr(objective, "ENTROPY_BOUNDS", bounds)
        canvas = first_step(model, batch)
        assert torch.equal(canvas[batch.pinned], batch.targets[batch.pinned])
        assert torch.equal(canvas, torch.where(batch.pinned, batch.targets, argmax)) == everything


def test_canvases_that_start_from_noise_forget_their_tokens_but_not_their_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    one_step_at(monkeypatch, 1e-3)
    monkeypatch.setattr(objective, "ENTROPY_BOUNDS", (1e9, 1e9))
    model, batch = make()
    known = first_step(model, batch)
    monkeypatch.setattr(objective, "FROM_NOISE", 1.0)
    forgotten = first_step(model, batch)
    other = dataclasses.replace(batch, noisy=torch.where(batch.pinned, batch.targets, 0))
    assert torch.equal(first_step(model, other), forgotten) and not torch.equal(known, forgotten)
    assert torch.equal(forgotten[batch.pinned], batch.targets[batch.pinned])


def test_a_canvas_that_sees_too_much_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin that must fail: clean tokens of the canvas's own place leak in."""
    model, batch = make()
    want = cross_entropy(model, torch.cat(sequential(model, batch, batch.noisy), dim=1), batch.targets).item()
    honest = BlockContext.__init__
    monkeypatch.setattr(
        BlockContext, "__init__", lambda self, clean, starts, canvas: honest(self, clean, [s + 1 for s in starts], canvas)
    )
    assert losses(model, batch).canvas.item() != pytest.approx(want, rel=1e-10)


def test_next_token_loss_is_that_of_the_encode_pass() -> None:
    model, batch = make()
    kv = model.new_cache(2)
    hidden = model.encode(batch.clean, kv)
    logits = soft_capped_logits(hidden[:, :-1], model.embed.weight, CONFIG.final_logit_softcapping)
    want = F.cross_entropy(logits.flatten(0, 1), batch.clean[:, 1:].flatten())
    assert losses(model, batch).next_token.item() == pytest.approx(want.item(), rel=1e-10)


def test_head_loss_and_its_gradient_equal_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadLoss, "ROWS", 7)
    torch.manual_seed(0)
    hidden, embedding = torch.randn(20, 8, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64)
    targets = torch.randint(30, (20,))
    grads = []
    for loss in (
        lambda h, e: HeadLoss.apply(h, e, targets, 5.0),
        lambda h, e: F.cross_entropy(5.0 * torch.tanh(h @ e.T / 5.0), targets),
    ):
        h, e = hidden.clone().requires_grad_(), embedding.clone().requires_grad_()
        value = loss(h, e)
        (3.0 * value).backward()
        grads.append((value.detach(), h.grad, e.grad))
    for mine, autograd in zip(*grads, strict=True):
        torch.testing.assert_close(mine, autograd)


def test_sliding_bands_equal_one_masked_pass() -> None:
    torch.manual_seed(0)
    width, heads = 300, CONFIG.num_attention_heads
    layer = next(i for i, shape in enumerate(CONFIG.layers) if shape.is_sliding)
    q, k, v = (torch.randn(1, heads, width, 8, dtype=torch.float64) for _ in range(3))
    row, column = torch.arange(width)[:, None], torch.arange(width)
    near = (column <= row) & (column > row - CONFIG.sliding_window)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=near, scale=1.0)
    torch.testing.assert_close(CleanContext(CONFIG, width).attend(layer, q, k, v), want)


def balance_of(scale: float) -> float:
    """The balance term of a model whose routers prefer expert 0 by `scale`."""
    model, batch = make()
    balance = BalanceLoss(model)
    for layer in model.layers:
        layer.router.proj.weight.zero_()
        layer.router.proj.weight[0] = scale
        layer.router.proj.weight.requires_grad_(True)
    with torch.enable_grad():
        losses(model, batch)
    return balance.collect().item()


def test_balance_is_one_when_nobody_is_preferred_and_grows_with_preference() -> None:
    assert balance_of(0.0) == pytest.approx(1.0)
    assert balance_of(50.0) > 1.1
