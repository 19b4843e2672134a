"""Training must see what generation sees: blocks in parallel equal canvases one after another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dgemma.kernels.ops.vocab import soft_capped_logits, stats_of
from dgemma.model.build import build_random
from dgemma.model.dgemma import DiffusionGemma
from dgemma.train import objective
from dgemma.train.batches import Batch
from dgemma.train.objective import BalanceLoss, CanvasContext, CleanContext, HeadLoss, cross_entropy, losses
from tests.helpers import tiny_config

CONFIG = tiny_config()
WIDTH = CONFIG.canvas_length


def make(rows: int = 2, canvases: int = 3, length: int = 30) -> tuple[DiffusionGemma, Batch]:
    """Sequences of two lengths, whose canvases begin in places of their own."""
    torch.manual_seed(0)
    model = build_random(CONFIG, dtype=torch.float64)
    clean = torch.randint(CONFIG.vocab_size, (rows, length))
    next_weight = torch.rand(rows, length - 1, dtype=torch.float64)
    next_weight[1, 20:] = 0.0
    starts = torch.randint(4, 18, (rows, canvases))
    targets = torch.randint(CONFIG.vocab_size, (rows, canvases, WIDTH))
    pinned = torch.zeros(targets.shape, dtype=torch.bool)
    pinned[:, :, :3] = True
    noisy, noisier = (
        torch.where(pinned, targets, torch.randint(CONFIG.vocab_size, targets.shape)) for _ in range(2)
    )
    cell_weight = torch.rand(targets.shape, dtype=torch.float64).masked_fill(pinned, 0.0)
    return model, Batch(clean, next_weight, starts, targets, noisy, noisier, pinned, cell_weight)


def sequential(model: DiffusionGemma, batch: Batch, temperature: float | None = None) -> float:
    """The loss of each canvas as the engine would run it: encode what stands before, then denoise.

    With a temperature, the noisier canvases are the step before.
    """
    hidden = torch.stack(
        [
            torch.cat([alone(model, batch, row, n, temperature) for n in range(batch.starts.shape[1])])
            for row in range(len(batch.clean))
        ]
    )
    return cross_entropy(model, hidden, batch.targets.flatten(1), batch.cell_weight.flatten(1)).item()


def alone(model: DiffusionGemma, batch: Batch, row: int, n: int, temperature: float | None) -> torch.Tensor:
    """The hidden states [C, D] of one canvas."""
    kv = [model.new_cache()]
    model.encode(batch.clean[row : row + 1, : batch.starts[row, n]], kv)
    pins = torch.where(batch.pinned[row, n], batch.targets[row, n], -1)[None]
    previous = None
    if temperature is not None:
        first = model.denoise(batch.noisier[row, n][None], kv)
        logits = soft_capped_logits(first, model.embed.weight, CONFIG.final_logit_softcapping) / temperature
        stats = stats_of(logits, torch.full((*pins.shape, 2), 0.5), torch.float64)
        previous = stats.p, stats.row_sum
    return model.denoise(batch.noisy[row, n][None], kv, previous, pins)[0]


def test_canvases_side_by_side_equal_canvases_by_themselves() -> None:
    model, batch = make()
    assert losses(model, batch).canvas.item() == pytest.approx(sequential(model, batch), rel=1e-10)


def test_a_first_guess_equals_the_samplers_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "TEMPERATURES", (0.6, 0.6))
    model, batch = make()
    guessed = losses(model, batch, torch.Generator().manual_seed(0)).canvas.item()
    for temperature, same in ((0.6, True), (1.0, False)):  # the twin that must fail: another temperature
        assert (guessed == pytest.approx(sequential(model, batch, temperature), rel=1e-8)) == same


def test_each_canvas_has_a_temperature_of_its_own() -> None:
    model, batch = make()
    clean = CleanContext(CONFIG, batch.clean.shape[1])
    model.encode_with(batch.clean, torch.arange(batch.clean.shape[1])[None], clean)
    rows = (batch.starts[..., None] + torch.arange(WIDTH)).flatten(1)
    context = CanvasContext(clean, batch.starts, WIDTH)
    one, other = (
        objective.first_guess(model, batch, rows, context, torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    pinned = batch.pinned.flatten(1)
    assert torch.equal(one[pinned], other[pinned])
    moved = (one - other).abs().amax(-1).masked_fill(pinned, 1.0)
    assert (moved > 0).all()


def test_a_canvas_that_sees_too_much_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin that must fail: a clean token of the canvas's own place leaks in."""
    model, batch = make()
    want = sequential(model, batch)
    honest = CanvasContext.__init__
    monkeypatch.setattr(
        CanvasContext, "__init__", lambda self, clean, starts, width: honest(self, clean, starts + 1, width)
    )
    assert losses(model, batch).canvas.item() != pytest.approx(want, rel=1e-10)


def test_next_token_loss_is_that_of_the_encode_pass_by_weight() -> None:
    model, batch = make()
    kv = [model.new_cache(), model.new_cache()]
    hidden = model.encode(batch.clean, kv)
    logits = soft_capped_logits(hidden[:, :-1], model.embed.weight, CONFIG.final_logit_softcapping)
    each = F.cross_entropy(logits.flatten(0, 1), batch.clean[:, 1:].flatten(), reduction="none")
    weight = batch.next_weight.flatten()
    want = (each * weight).sum() / weight.sum()
    assert losses(model, batch).next_token.item() == pytest.approx(want.item(), rel=1e-10)


def test_without_canvases_only_the_causal_pass_learns() -> None:
    model, batch = make(canvases=0)
    found = losses(model, batch)
    assert found.canvas.item() == 0.0 and found.total.item() == found.next_token.item()


def test_head_loss_and_its_gradient_equal_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadLoss, "ROWS", 7)
    torch.manual_seed(0)
    hidden, embedding = torch.randn(20, 8, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64)
    targets = torch.randint(30, (20,))
    weight = torch.rand(20, dtype=torch.float64)
    grads = []
    for loss in (
        lambda h, e: HeadLoss.apply(h, e, targets, weight, 5.0),
        lambda h, e: F.cross_entropy(5.0 * torch.tanh(h @ e.T / 5.0), targets, reduction="none") @ weight,
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
