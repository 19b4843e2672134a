"""Batches are a pure function of the step, and look like what generation will meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dgemma.errors import UsageError
from dgemma.train.data import Batches, DataConfig

LINE = 7  # the token that begins with a line break here


def batches(**changes) -> Batches:
    settings = {"vocab_size": 50, "canvas": 16, "blocks": 3, "batch": 4, "bos": 2, "eos": (1,), "pad": 0, "seed": 3}
    rng = np.random.default_rng(0)
    documents = [np.append(rng.integers(5, 50, size=n), 1) for n in (400, 300, 37, 5, 900)]
    for document in documents:
        document[:-1][rng.random(len(document) - 1) < 0.2] = LINE
    line_ends = np.zeros(50, dtype=bool)
    line_ends[LINE] = True
    return Batches(documents, DataConfig(**(settings | changes)), line_ends)


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("clean", "targets", "noisy", "noisier", "pinned"))


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    one, other = batches(), batches()
    for step in (0, 40, 3):
        other[step + 1]
        assert same(one[step], other[step])
    assert not same(one[0], one[1])


def test_every_token_is_read_once_an_epoch() -> None:
    data = batches(batch=1)
    seen = np.concatenate([data._sequence(i)[1:] for i in range(data.per_epoch)])
    everything = np.concatenate(data.documents)
    assert len(everything) - len(seen) < data.config.sequence
    assert (np.bincount(everything, minlength=50) - np.bincount(seen, minlength=50) >= 0).all()


def test_sequences_open_with_bos_and_canvases_continue_them() -> None:
    batch = batches(kept_share=0.0)[5]
    assert (batch.clean[:, 0] == 2).all()
    for n, start in enumerate(batch.starts):
        own, clean = batch.targets[:, n * 16 : (n + 1) * 16], batch.clean[:, start : start + 16]
        for row in range(4):
            ends = (clean[row] == 1).nonzero()
            stop = int(ends[0]) + 1 if len(ends) else 16
            assert torch.equal(own[row, :stop], clean[row, :stop])
            assert (own[row, stop:] == 0).all()


def test_corruption_is_uniform_in_its_level_and_leaves_pins_alone() -> None:
    data = batches(batch=64)
    kept, pinned = [], []
    for step in range(6):
        batch = data[step]
        assert torch.equal(batch.noisy[batch.pinned], batch.targets[batch.pinned])
        level = (batch.noisy != batch.targets).float().view(64, 6, 16)
        free = (~batch.pinned).view(64, 6, 16)
        plain = free.all(-1)
        kept.append(level[plain].mean(-1))
        pinned.append((~plain).float().mean())
    shares = torch.cat(kept)
    assert shares.mean().item() == pytest.approx(0.5 * 49 / 50, abs=0.03)
    assert shares.std().item() == pytest.approx(12**-0.5, abs=0.05)  # t is uniform, one per canvas
    assert torch.stack(pinned).mean().item() == pytest.approx(0.4, abs=0.05)


def test_the_noisier_canvas_has_all_of_the_noise_and_draws_it_anew() -> None:
    changed = fresh = noise = 0
    for step in range(4):
        batch = batches(batch=64, vocab_size=5000)[step]  # so large that noise seldom hits the clean token
        assert torch.equal(batch.noisier[batch.pinned], batch.targets[batch.pinned])
        seen, before = batch.noisy != batch.targets, batch.noisier != batch.targets
        noise, fresh = noise + int(seen.sum()), fresh + int((seen & (batch.noisier != batch.noisy)).sum())
        changed += int((before & ~seen).sum())
        assert (seen & ~before).sum() <= 0.002 * seen.sum()
    assert fresh > 0.998 * noise and changed > 0.1 * noise


def test_tilings_of_a_sequence_begin_in_places_of_their_own() -> None:
    starts = [batches()[step].starts for step in range(20)]
    assert all(len(s) == 6 and 1 <= s[0] <= 16 and 1 <= s[3] <= 16 for s in starts)
    assert all(s[n + 1] - s[n] == 16 for s in starts for n in (0, 1, 3, 4))
    assert sum(s[0] != s[3] for s in starts) > 10


def test_a_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one sequence"):
        Batches([np.arange(5)], batches().config, batches().line_ends)


def test_padded_gaps_hold_their_text_then_filler_then_the_suffix() -> None:
    data = batches(batch=64, kept_share=1.0, gap_share=1.0)
    filled = 0
    for step in range(6):
        batch = data[step]
        for n, start in enumerate(batch.starts):
            clean = batch.clean[:, start : start + 16]
            for row in range(64):
                if 1 in clean[row]:
                    continue
                target, pins = batch.targets[row, n * 16 : (n + 1) * 16], batch.pinned[row, n * 16 : (n + 1) * 16]
                text = target[target != 0]
                assert torch.equal(text, clean[row, : len(text)])
                assert not pins[target == 0].any()
                filled += int((target == 0).any())
    assert filled > 300
