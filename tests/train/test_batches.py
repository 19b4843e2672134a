"""Batches are a pure function of the step, and look like what generation will meet."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from dgemma.errors import UsageError
from dgemma.train.batches import Batch, BatchConfig, Batches
from dgemma.train.samples import Sample

VOCAB, PAD, LINE, END = 50, 0, 7, 1  # LINE: the token that begins with a line break here


class Numbers:
    """Prompts and answers of random tokens."""

    def __init__(self, gaps: bool = False, fingerprint: str = "numbers"):
        self.gaps = gaps
        self.fingerprint = fingerprint

    def sample(self, seed: int, number: int) -> Sample:
        rng = np.random.default_rng((seed, number))
        prompt, answer = (rng.integers(8, VOCAB, size=rng.integers(2, 30)) for _ in range(2))
        answer[rng.random(len(answer)) < 0.2] = LINE
        ids = [2, *prompt.tolist(), *answer.tolist(), END]
        return Sample(ids, [(1 + len(prompt), len(ids))], self.gaps)


def batches(source: Numbers | None = None, **changes: Any) -> Batches:
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "pad": PAD,
        "rows": 400,
        "pool": 4,
        "widths": (8, 16, 32),
    }
    settings |= {"usual": 16, "seed": 3}
    line_breaks = np.arange(VOCAB) == LINE
    return Batches(source or Numbers(), BatchConfig(**(settings | changes)), line_breaks)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Batch))


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    one, other = batches(), batches()
    for step in (0, 40, 3):
        other[step + 1]
        assert same(one[step], other[step])
    assert not same(one[0], one[1])


def test_no_example_comes_twice() -> None:
    data = batches()
    rows = [tuple(row.tolist()) for step in range(12) for row in data[step].clean]
    assert len(rows) > 40 and len(set(rows)) == len(rows)


def test_steps_take_about_the_same_work() -> None:
    data = batches(rows=2000, pool=16)
    work = [batch.clean.numel() + batch.targets.numel() for batch in map(data.__getitem__, range(16))]
    assert max(work) < 2.5 * min(work) and sum(work) < 1.6 * 16 * 2000


def test_the_first_steps_have_no_canvases() -> None:
    data = batches(causal_steps=4)
    assert [data[step].starts.shape[1] for step in (0, 3, 4)] == [0, 0, BatchConfig.canvases]
    with pytest.raises(UsageError, match="multiple of 4"):
        batches(causal_steps=3)


def test_what_is_written_weighs_more_and_padding_nothing() -> None:
    batch = batches()[1]
    after = batch.clean[:, 1:]
    assert (batch.next_weight[after == END] == 1.0).all()
    assert (batch.next_weight[after == PAD] == 0.0).all()
    assert (batch.next_weight[:, 0] == pytest.approx(0.2)) and batch.tokens == int((after != PAD).sum())


def test_canvases_are_what_is_written_then_padding() -> None:
    seen = 0
    for batch in map(batches(kept_share=0.0).__getitem__, range(8)):
        for row, (ids, starts) in enumerate(zip(batch.clean, batch.starts, strict=True)):
            for n, start in enumerate(starts.tolist()):
                text = ids[start:][ids[start:] != PAD][: batch.targets.shape[-1]]
                own = batch.targets[row, n]
                seen += int((own == END).any())
                assert torch.equal(own[: len(text)], text) and (own[len(text) :] == PAD).all()
    assert seen > 50


def test_corruption_is_uniform_in_its_level_and_leaves_pins_alone() -> None:
    shares, kept = [], []
    for batch in map(batches(pure_share=0.0, kept_share=0.5, rows=4000).__getitem__, range(8)):
        assert torch.equal(batch.noisy[batch.pinned], batch.targets[batch.pinned])
        plain = ~batch.pinned.any(-1)
        shares.append((batch.noisy != batch.targets).float().mean(-1)[plain])
        kept.append((~plain).float().flatten())
    level = torch.cat(shares)
    assert level.mean().item() == pytest.approx(0.5 * 49 / 50, abs=0.04)
    assert level.std().item() == pytest.approx(12**-0.5, abs=0.05)  # t is uniform, one per canvas
    assert torch.cat(kept).mean().item() == pytest.approx(0.5, abs=0.08)


def test_a_share_of_canvases_is_noise_alone() -> None:
    data = batches(pure_share=0.6, kept_share=0.0, vocab_size=5000, rows=4000)
    changed = [
        (batch.noisy != batch.targets).all(-1).float().flatten() for batch in map(data.__getitem__, range(6))
    ]
    assert torch.cat(changed).mean().item() == pytest.approx(0.6, abs=0.06)


def test_the_noisier_canvas_has_all_of_the_noise_and_draws_it_anew() -> None:
    changed = fresh = noise = 0
    data = batches(vocab_size=5000, rows=4000)  # so large that noise seldom hits the clean token
    for batch in map(data.__getitem__, range(4)):
        assert torch.equal(batch.noisier[batch.pinned], batch.targets[batch.pinned])
        seen, before = batch.noisy != batch.targets, batch.noisier != batch.targets
        noise += int(seen.sum())
        fresh += int((seen & (batch.noisier != batch.noisy)).sum())
        changed += int((before & ~seen).sum())
        assert (seen & ~before).sum() <= 0.003 * seen.sum()
    assert fresh > 0.997 * noise and changed > 0.1 * noise


def test_gaps_hold_their_text_then_filler_then_the_suffix() -> None:
    padded = 0
    data = batches(Numbers(gaps=True), gap_share=1.0, rows=2000)
    for batch in map(data.__getitem__, range(6)):
        for row, n in np.ndindex(*batch.starts.shape):
            target, pins = batch.targets[row, n], batch.pinned[row, n]
            start, text = int(batch.starts[row, n]), target[target != PAD]
            assert torch.equal(text, batch.clean[row, start : start + len(text)])
            free = (~pins).nonzero()[:, 0]
            assert len(free) == 0 or len(free) == free[-1] - free[0] + 1
            assert (batch.cell_weight[row, n][pins] == 0).all()
            padded += int((target[~pins] == PAD).any())
    assert padded > 100


def test_the_gap_of_a_sample_is_opened() -> None:
    class Marked(Numbers):
        def sample(self, seed: int, number: int) -> Sample:
            made = super().sample(seed, number)
            middle = (1 + len(made.ids)) // 2
            gap = (middle, min(middle + 2, len(made.ids)))
            return Sample(made.ids, [(1, len(made.ids))], gaps=True, gap=gap)

    opened = total = 0
    data = batches(Marked(gaps=True), gap_share=1.0, rows=2000)
    for batch in map(data.__getitem__, range(6)):
        for row, n in np.ndindex(*batch.starts.shape):
            length = int((batch.clean[row] != PAD).sum())
            first = int((~batch.pinned[row, n]).nonzero()[0]) + int(batch.starts[row, n])
            opened += first == (1 + length) // 2
            total += 1
    assert opened > 0.4 * total
