"""From examples to a checkpoint that loads and writes: the whole of training, in small."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
import tokenizers

import dgemma
from dgemma.config import DenoiseConfig
from dgemma.text.tokenizer import Tokenizer
from dgemma.text.turns import render
from dgemma.train.loop import LoopConfig
from dgemma.train.recipe import TrainingRecipe, export, trainer

RECIPE = TrainingRecipe(vocab_size=2048, hidden=128, layers=3, experts=4, rows=512, canvas=16, causal_steps=0)
LOOP = LoopConfig(steps=3, warmup=1, fused=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    job = trainer(RECIPE, LOOP, folder)
    assert len(list(job.advance(report=1))) == 3
    ends = job.model.config.eos_token_ids
    export(job, folder / "checkpoint", DenoiseConfig(eos_token_id=ends, max_denoising_steps=4))
    return folder


def test_the_exported_checkpoint_loads_and_writes(run: Path) -> None:
    model = dgemma.load(run / "checkpoint")
    assert model.chat_tuned
    assert model.config.canvas_length == 16 and len(model.config.eos_token_ids) == 3
    assert model.generate("def ", max_tokens=20).canvases >= 1
    assert model.fill("def area", "return 1\n").generation.steps


def test_its_chat_template_lays_out_what_is_laid_out_here(run: Path) -> None:
    """As other programs run it, whose tokenizer reads control tokens in a text."""
    tokenizer = Tokenizer.from_file(run / "checkpoint" / "tokenizer.json")
    other = tokenizers.Tokenizer.from_file(str(run / "checkpoint" / "tokenizer.json"))
    template = jinja2.Environment().from_string((run / "checkpoint" / "chat_template.jinja").read_text())
    system = {"role": "system", "content": " Be brief. "}
    turns = [
        {"role": "user", "content": "Hi\n"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "x = 1\n\ny"},
    ]
    for messages in (turns, [system, *turns], turns[:1]):
        for asks in (True, False):
            text = template.render(messages=messages, bos_token="<bos>", add_generation_prompt=asks)
            assert other.encode(text, add_special_tokens=False).ids == render(
                messages, tokenizer, add_generation_prompt=asks
            )


def test_a_run_on_own_files_begins_with_a_checkpoint(run: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    lines = tmp_path / "own.jsonl"
    lines.write_text(json.dumps({"messages": turns}) + "\n")
    start = dgemma.load(run / "checkpoint", "cpu", "float32", trainable=True)
    job = trainer(RECIPE, LOOP, tmp_path / "run", [lines], start=start)
    before = start.net.embed.weight.clone()
    assert job.model.embed.weight.equal(before)
    list(job.advance())
    assert not job.model.embed.weight.equal(before)
    resumed = trainer(RECIPE, LOOP, tmp_path / "run", [lines], start=start)
    assert resumed.step == 3 and resumed.model.embed.weight.equal(job.model.embed.weight)


def test_a_vocabulary_is_learned_from_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("zebra crossing zebra crossing " * 300)
    small = TrainingRecipe(
        vocab_size=290, hidden=128, layers=3, experts=4, rows=256, canvas=16, causal_steps=0
    )
    job = trainer(small, LOOP, tmp_path / "run", [tmp_path / "a.txt"])
    assert job.batches[0].tokens > 50
    assert not dgemma.load(export(job, tmp_path / "checkpoint", DenoiseConfig())).chat_tuned
    words = (tmp_path / "run" / "tokenizer.json").read_text()
    assert "zebra" in words
