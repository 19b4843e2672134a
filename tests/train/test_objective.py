"""Training must see what generation sees: blocks in parallel equal canvases one after another."""

from __future__ import annotations

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
    noisier = torch.randint(CONFIG.vocab_size, targets.shape)
    noisy, noisier = (torch.where(pinned, targets, drawn) for drawn in (noisy, noisier))
    return model, Batch(clean, starts, targets, noisy, noisier, pinned)


def sequential(model, batch: Batch, temperature: float | None = None) -> torch.Tensor:
    """The hidden states of each canvas as the engine would run it: encode what stands before, then denoise.

    With a temperature, the noisier canvases are the step before.
    """
    hidden = []
    for n, start in enumerate(batch.starts):
        kv = [model.new_cache() for _ in batch.clean]
        model.encode(batch.clean[:, :start], kv)
        own = slice(n * WIDTH, (n + 1) * WIDTH)
        previous = None
        pins = torch.where(batch.pinned[:, own], batch.targets[:, own], -1)
        if temperature is not None:
            first = model.denoise(batch.noisier[:, own], kv)
            logits = soft_capped_logits(first, model.embed.weight, CONFIG.final_logit_softcapping) / temperature
            stats = stats_of(logits, torch.full((*pins.shape, 2), 0.5), torch.float64)
            previous = stats.p, stats.row_sum
        hidden.append(model.denoise(batch.noisy[:, own], kv, previous, pins))
    return torch.cat(hidden, dim=1)


def test_blocks_in_parallel_equal_canvases_in_turn() -> None:
    model, batch = make()
    want = cross_entropy(model, sequential(model, batch), batch.targets)
    assert losses(model, batch).canvas.item() == pytest.approx(want.item(), rel=1e-10)


def test_a_first_guess_equals_the_samplers_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "TEMPERATURES", (0.6, 0.6))
    model, batch = make()
    found = losses(model, batch, torch.Generator().manual_seed(0)).canvas.item()
    for temperature, same in ((0.6, True), (1.0, False)):  # the twin that must fail: a guess at another temperature
        want = cross_entropy(model, sequential(model, batch, temperature), batch.targets)
        assert (found == pytest.approx(want.item(), rel=1e-8)) == same


def test_each_canvas_has_a_temperature_of_its_own() -> None:
    model, batch = make()
    clean = CleanContext(CONFIG, batch.clean.shape[1])
    model.encode_with(batch.clean, torch.arange(batch.clean.shape[1])[None], clean)
    rows = torch.arange(batch.starts[0], batch.clean.shape[1])[None]
    context = BlockContext(clean, batch.starts, WIDTH)
    one, other = (
        objective.first_guess(model, batch, rows, context, torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert torch.equal(one[batch.pinned], other[batch.pinned])
    moved = (one - other).abs().amax(-1).masked_fill(batch.pinned, 1.0).view(2, len(batch.starts), WIDTH)
    assert (moved > 0).all()


def test_a_canvas_that_sees_too_much_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin that must fail: clean tokens of the canvas's own place leak in."""
    model, batch = make()
    want = cross_entropy(model, sequential(model, batch), batch.targets).item()
    honest = BlockContext.__init__
    monkeypatch.setattr(
        BlockContext, "__init__", lambda self, clean, starts, canvas: honest(self, clean, [s + 1 for s in starts], canvas)
    )
    assert losses(model, batch).canvas.item() != pytest.approx(want, rel=1e-10)


def test_next_token_loss_is_that_of_the_encode_pass() -> None:
    model, batch = make()
    kv = [model.new_cache(), model.new_cache()]
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
