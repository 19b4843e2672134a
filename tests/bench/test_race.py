"""Both ways of answering, on the same requests: what is counted, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.bench.race import race
from dgemma.bench.workloads import RACED, workloads
from dgemma.cli.main import main
from dgemma.config import DenoiseConfig
from dgemma.engine import autoregressive
from dgemma.engine.engine import Engine
from dgemma.engine.requests import CommitRecord, Request
from tests.helpers import lively_model, tiny_checkpoint, tiny_config

CONFIG = tiny_config("SF")
WIDTH = CONFIG.canvas_length


def test_each_side_counts_what_its_loop_made() -> None:
    engine = Engine(lively_model(CONFIG))
    (workload,) = workloads("race", CONFIG, DenoiseConfig(), tokens=WIDTH + 3, prompt=9)
    requests = workload.requests
    result = race(engine, requests, lambda answers: [len(ids) > 2 for ids in answers])
    canvas, tokens = result.canvas, result.autoregressive
    assert len(requests) == RACED == result.requests
    assert canvas.tokens == tokens.tokens == tokens.passes == RACED * (WIDTH + 3)
    assert canvas.passes == RACED * 2 * 16 and canvas.cells == RACED * 2 * WIDTH
    assert canvas.right == tokens.right == RACED
    assert result.full == pytest.approx((WIDTH + 3) / (2 * WIDTH))
    assert result.ratio == pytest.approx(tokens.seconds / canvas.seconds)
    for request, by_canvas, by_token in zip(requests, canvas.answers, tokens.answers, strict=True):
        assert by_canvas == ids_of(engine.run([request]))
        assert by_token == ids_of(autoregressive.run(engine, request))


def ids_of(records) -> list[int]:
    return [token for record in records if isinstance(record, CommitRecord) for token in record.token_ids]


def test_texts_are_answered_with_the_models_settings_and_their_likeliest_tokens() -> None:
    denoise = DenoiseConfig(eos_token_id=(3,), max_denoising_steps=7)
    (workload,) = workloads("race", CONFIG, denoise, tokens=20, prompts=[[5, 6]])
    assert workload.requests == [Request((5, 6), 20, 0, denoise.replace(temperature=0))]


def test_the_command_prints_both_and_how_they_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts").write_text("ab\n\nba\n")
    folder = str(tiny_checkpoint(tmp_path / "model"))
    told = ["bench", "-m", folder, "-r", "race", "--tokens", "8", "--prompts", str(tmp_path / "prompts")]
    assert main([*told, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["requests"] == 2 and row["canvas"]["tokens"] <= 16 and row["autoregressive"]["tokens"] <= 16
    assert row["ratio"] == pytest.approx(
        row["canvas"]["tokens_per_second"] / row["autoregressive"]["tokens_per_second"]
    )
    assert main(told) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (
        lines[1].startswith("by canvas")
        and lines[2].startswith("token by token")
        and "times as many" in lines[3]
    )
    assert "2 prompts, one at a time" in err


def test_a_race_is_run_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-r", "race", "-r", "short"]) == 2
    assert "run by itself" in capsys.readouterr().err
