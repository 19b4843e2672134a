"""A run that was killed and resumed is the run that was not."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from dgemma.errors import ResourceError, UsageError
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
        ("number of causal steps", batches(causal_steps=64), LoopConfig(steps=2, fused=False)),
    ):
        with pytest.raises(UsageError, match=f"another {name}"):
            Trainer(initialise(CONFIG, 0), data, config, tmp_path)


@pytest.mark.parametrize("shape", [(12, 12), (6, 12), (24, 8), (3, 10, 6)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.max() < 1.3 and values.mean() > 0.7


@pytest.mark.parametrize("by", ["library", "system"])
def test_a_disk_that_fills_up_is_one_line_and_the_last_save_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    run(tmp_path, 3)
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(*_: object) -> None:
        (tmp_path / "state.tmp").write_bytes(b"half")
        if by == "library":
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dgemma.train.loop.save_file", full)
        with pytest.raises(
            ResourceError, match=f"{tmp_path}: No space left on device, .* are free; make room, and give"
        ):
            run(tmp_path, 5)
    assert (tmp_path / "state.safetensors").read_bytes() == before and not (tmp_path / "state.tmp").exists()
    assert run(tmp_path, 5).step == 5


def test_a_state_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    replaced: list[bool] = []
    fsync, replace = os.fsync, os.replace

    def put(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def name(new: Path, path: Path) -> None:
        replaced.append(Path(new).stat().st_ino in synced)
        replace(new, path)

    monkeypatch.setattr("os.fsync", put)
    monkeypatch.setattr("os.replace", name)
    run(tmp_path, 2, decay=1)
    assert len(replaced) >= 2 and all(replaced) and tmp_path.stat().st_ino in synced
