"""The bench: its arithmetic against sums by hand, its workloads, and one run through the command."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgemma.bench.measure import measure, watch
from dgemma.bench.roofline import OPERATIONS, Machine, Work, total, work_by_operation, work_of
from dgemma.bench.shapes import random_model, shape
from dgemma.bench.workloads import NAMES, workloads
from dgemma.cli.main import main
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine.engine import Engine
from dgemma.errors import UsageError
from dgemma.model.build import build, count_parameters
from tests.helpers import lively_model, tiny_config

CONFIG = dataclasses.replace(tiny_config("SSF"), max_position_embeddings=4096)
SLOW = Machine(1e6, 1e6)


def test_the_work_of_a_pass_is_that_of_its_matrices() -> None:
    """All rows through every matrix that is not an expert, and through top_k of the experts."""
    model = build(CONFIG)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    conditioning = sum(
        p.numel() for n, p in model.named_parameters() if "self_conditioning" in n and p.dim() == 2
    )
    matrices = (
        sum(p.numel() for p in model.parameters() if p.dim() >= 2)
        - experts
        - conditioning
        - model.embed.weight.numel()
    )
    chosen = experts * CONFIG.top_k_experts / CONFIG.num_experts
    one = work_of(CONFIG, 4, clean=0, canvas=8, conditioned=0, context=0, rows=1)
    attention = sum(4 * CONFIG.num_attention_heads * layer.head_dim * 8 * 8 for layer in CONFIG.layers)
    head = 2 * 8 * model.embed.weight.numel()
    assert one.flops == pytest.approx(2 * 8 * (matrices + chosen) + attention + head)
    more = work_of(CONFIG, 4, clean=0, canvas=8, conditioned=8, context=0, rows=1)
    assert more.flops - one.flops == pytest.approx(head + 2 * 8 * conditioning)


def test_with_enough_rows_every_weight_is_read_once() -> None:
    model = build(CONFIG)
    norms = sum(p.numel() for p in model.parameters() if p.dim() < 2)
    work = work_of(CONFIG, 2, clean=500, canvas=0, conditioned=0, context=0, rows=1)
    cached = sum(2 * layer.num_key_value_heads * layer.head_dim * 500 for layer in CONFIG.layers)
    conditioning = sum(
        p.numel() for n, p in model.named_parameters() if "self_conditioning" in n and p.dim() == 2
    )
    assert work.bytes == pytest.approx(
        2 * (count_parameters(model) - norms - conditioning + cached), rel=1e-6
    )
    assert (
        Machine(1e9, 1e6).seconds(Work(1e9, 5e6)) == 5.0 and Machine(1e9, 1e9).seconds(Work(2e9, 1.0)) == 2.0
    )


@given(
    st.integers(0, 700),
    st.integers(0, 300),
    st.booleans(),
    st.integers(0, 3000),
    st.integers(1, 9),
    st.sampled_from((2, 4)),
)
def test_operations_add_up_to_the_pass(
    clean: int, canvas: int, believes: bool, context: int, rows: int, size: int
) -> None:
    """Against the pass summed layer by layer, as it was before it was split."""
    conditioned, tokens = canvas * believes, clean + canvas
    found = dict(work_by_operation(CONFIG, size, clean, canvas, conditioned, context, rows))
    assert tuple(found) == OPERATIONS
    hidden, vocab, top, count = (
        CONFIG.hidden_size,
        CONFIG.vocab_size,
        CONFIG.top_k_experts,
        CONFIG.num_experts,
    )
    conditioning = 3 * hidden * CONFIG.intermediate_size
    flops = 2 * hidden * vocab * (canvas + conditioned) + 2 * conditioning * conditioned
    elements = vocab * hidden + vocab * (canvas + conditioned) + conditioning * (conditioned > 0)
    for layer in CONFIG.layers:
        keys = layer.num_key_value_heads * layer.head_dim
        matrices = hidden * (
            2 * CONFIG.num_attention_heads * layer.head_dim + (2 if layer.is_sliding else 1) * keys
        )
        matrices += 3 * hidden * CONFIG.intermediate_size + hidden * count
        expert = 3 * hidden * CONFIG.moe_intermediate_size
        seen = (min(context, CONFIG.sliding_window - 1) if layer.is_sliding else context) + tokens / rows
        flops += (
            2 * tokens * (matrices + top * expert)
            + 4 * CONFIG.num_attention_heads * layer.head_dim * tokens * seen
        )
        elements += matrices + rows * 2 * keys * seen + count * (1 - (1 - top / count) ** tokens) * expert
    for got in (total(found.values()), work_of(CONFIG, size, clean, canvas, conditioned, context, rows)):
        assert got.flops == pytest.approx(flops, rel=1e-12) and got.bytes == pytest.approx(
            size * elements, rel=1e-12
        )
    less = total(work for name, work in found.items() if name != "projections")
    assert tokens == 0 or less.flops != pytest.approx(flops, rel=1e-12)


def test_a_step_of_the_26b_shape_is_the_one_that_was_derived() -> None:
    work = work_of(shape("diffusiongemma-26b"), 2, 0, 256, 256, 2048, 1)
    assert (work.flops, work.bytes) == pytest.approx((2574618984448.0, 51078124565.7563), rel=1e-12)


def test_the_26b_shape_is_the_published_one() -> None:
    assert count_parameters(build(shape("diffusiongemma-26b"))) == pytest.approx(25.2e9, rel=0.01)
    assert count_parameters(build(shape("140m"))) == pytest.approx(140e6, rel=0.05)
    assert count_parameters(build(shape("1b"))) == pytest.approx(1.1e9, rel=0.1)
    with pytest.raises(UsageError, match="no shape 'x'"):
        shape("x")


def test_random_weights_are_finite_and_lively() -> None:
    model = random_model(CONFIG, "cpu", torch.bfloat16)
    hidden = model.denoise(torch.arange(CONFIG.canvas_length)[None], [model.new_cache()])
    assert hidden.isfinite().all() and hidden.std() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_requests_that_fit(name: str) -> None:
    found = list(
        workloads(
            name, CONFIG, DenoiseConfig(eos_token_id=None), prompts=[[1, 2]], longest=4096, most=4, tokens=32
        )
    )
    assert found and all(request.check(CONFIG) is None for workload in found for request in workload.requests)
    if name == "load":
        assert [len(workload.requests) for workload in found] == [1, 2, 4]
    if name == "short":
        assert found[0].requests[0].max_tokens == 14


def test_fixed16_takes_sixteen_steps_and_its_passes_are_all_seen() -> None:
    model = lively_model(CONFIG, seed=1)
    (workload,) = workloads("fixed16", CONFIG, DenoiseConfig(), tokens=3 * CONFIG.canvas_length, prompt=40)
    engine = Engine(model, EngineConfig(prefill_chunk=16, prefix_cache=0))
    seen = watch(engine, workload, SLOW)
    assert seen.steps == [16] * 3 and seen.tokens == 3 * CONFIG.canvas_length
    assert (
        len(seen.seconds) == engine.passes == 2 + 48
    )  # two chunks alone; the third goes with the first step
    assert (
        sum(load.clean for load in seen.loads) == 40 + 2 * CONFIG.canvas_length
        and sum(load.canvas for load in seen.loads) == 48 * CONFIG.canvas_length
    )


def test_a_row_adds_up() -> None:
    model = lively_model(CONFIG, seed=1)
    *_, workload = workloads("load", CONFIG, DenoiseConfig(), tokens=CONFIG.canvas_length, prompt=40, most=2)
    row = measure(model, workload, SLOW, EngineConfig())
    assert row.requests == 2 and row.steps_per_canvas == 16
    assert row.tokens_per_second == pytest.approx(2 * row.tokens_per_second_each)
    assert 0 < row.step_ms <= row.step_p95_ms and 0 < row.first_draft_ms < row.first_text_ms
    assert row.fraction > 1, "a machine of 1 MFLOP/s is slower than this one"


def test_the_command_prints_saves_and_refuses(tmp_path, capsys) -> None:
    call = [
        "bench",
        "--recipe",
        "short",
        "--recipe",
        "fixed16",
        "--tokens",
        "64",
        "--prompt",
        "32",
        "--threads",
        "1",
    ]
    table, picture = tmp_path / "rows.csv", tmp_path / "rows.svg"
    assert main([*call, "--save", str(table), "--profile"]) == 0
    told = capsys.readouterr().out
    assert "steps/canvas" in told and told.count("everything else") == 2
    assert main([*call, "--save", str(table), "--json", "--profile", "--plot", str(picture)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in rows] == ["short", "fixed16 32+64"] and rows[1]["steps_per_canvas"] == 16
    assert [part["operation"] for part in rows[0]["profile"]] == [*OPERATIONS, "everything else", "step"]
    assert "fixed16 32+64" in picture.read_text() and "conditioning MLP" in picture.read_text()
    assert len(list(csv.DictReader(table.read_text().splitlines()))) == 4
    for wrong in (
        ["-r", "fast"],
        ["--shape", "x"],
        ["--shape", "1b", "-r", "real"],
        ["-r", "real"],
        ["--shape", "1b", "-m", "x"],
        ["--save", str(tmp_path / "nowhere" / "rows.csv")],
        ["--plot", str(tmp_path / "nowhere" / "rows.svg")],
        ["--plot", str(table)],
    ):
        assert main(["bench", *wrong]) == 2, wrong
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
