"""A run that was killed and resumed is the run that was not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from dgemma.errors import UsageError
from dgemma.train.loop import LoopConfig, Trainer, initialise
from dgemma.train.muon import orthogonalise
from tests.helpers import tiny_config
from tests.train.test_batches import Numbers, batches

CONFIG = tiny_config(vocab_size=50, canvas_length=16, hidden_size=16)


def run(folder: Path, steps: int, **changes) -> Trainer:
    settings = {"warmup": 2, "fused": False, "save_seconds": 0.0} | changes
    trainer = Trainer(initialise(CONFIG, 0), batches(), LoopConfig(steps=steps, **settings), folder)
    for _ in trainer.advance(report=3):
        pass
    return trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    run(tmp_path / "a", 5)
    resumed, whole = run(tmp_path / "a", 9), run(tmp_path / "b", 9)
    assert resumed.step == whole.step == 9 and resumed.tokens == whole.tokens
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert not torch.equal(weights(resumed), weights(run(tmp_path / "c", 8)))


def test_it_learns_and_reports(tmp_path: Path) -> None:
    run(tmp_path, 60)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["next_token"]) < float(rows[0]["next_token"]) - 0.2
    assert int(rows[-1]["step"]) == 60


def test_a_report_after_a_resume_is_a_mean_over_its_own_steps(tmp_path: Path) -> None:
    run(tmp_path, 5)
    run(tmp_path, 9)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [3, 5, 6, 9]
    assert all(2.0 < float(row["next_token"]) < 5.0 for row in rows)


def test_decay_ends_at_zero_and_keeps_the_state_before_it(tmp_path: Path) -> None:
    config = LoopConfig(steps=10, decay=4, warmup=2)
    assert [config.factor(step) for step in (0, 1, 5, 6, 8, 9)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.25]
    run(tmp_path, 6, decay=3)
    assert (tmp_path / "before-decay.safetensors").exists()


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1)
    other = tiny_config(vocab_size=50, canvas_length=16, layers="SF")
    with pytest.raises(UsageError, match="another model"):
        Trainer(initialise(other, 0), batches(), LoopConfig(steps=2, fused=False), tmp_path)


def test_a_run_with_another_seed_or_text_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1)
    for name, data, config in (
        ("seed", batches(), LoopConfig(steps=2, seed=1, fused=False)),
        ("text", batches(Numbers(fingerprint="others")), LoopConfig(steps=2, fused=False)),
    ):
        with pytest.raises(UsageError, match=f"another {name}"):
            Trainer(initialise(CONFIG, 0), data, config, tmp_path)


@pytest.mark.parametrize("shape", [(12, 12), (6, 12), (24, 8), (3, 10, 6)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.max() < 1.3 and values.mean() > 0.7
