"""From source files to a checkpoint that loads and writes: the whole of training, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

import dgemma
from dgemma.config import DenoiseConfig
from dgemma.text.tokenizer import Tokenizer
from dgemma.train.corpus import Corpus
from dgemma.train.forms import conversations, functions
from dgemma.train.loop import LoopConfig
from dgemma.train.recipe import Recipe, export, prepare, trainer

SOURCE = '''def area_{0}(radius, scale={0}):
    """Return the area of circle number {0}.

    The scale is applied last.
    """
    value = 3.14159 * radius * radius
    return value * scale


class Shape_{0}:
    def grow_{0}(self, by):
        """Make it larger by a factor."""
        self.size = self.size * by + {0}
        return self
'''
FILES = {f"shapes/part_{n}.py": SOURCE.format(n) * 3 for n in range(30)}
CORPUS = Corpus(train=FILES, held_out={"other.py": "x = 1\n"})
RECIPE = Recipe(vocab_size=320, hidden=128, layers=3, experts=4, batch=2, blocks=2, canvas=16)


def test_functions_are_found_with_signature_summary_and_source() -> None:
    found = next(functions({"a/b.py": SOURCE.format(7)}))
    assert found.qualified == "a.b.area_7" and found.summary == "Return the area of circle number 7."
    assert found.signature == "def area_7(radius, scale=7):" and found.source.startswith("def area_7(")
    assert not list(functions({"a.py": "def broken(:\n"}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    job = trainer(RECIPE, LoopConfig(steps=3, warmup=1, fused=False), CORPUS, folder)
    assert len(list(job.advance(report=1))) == 3
    export(job, folder / "checkpoint", DenoiseConfig(eos_token_id=(1, 6), max_denoising_steps=4))
    return folder


def test_conversations_are_turns_with_tools_and_edits(run: Path) -> None:
    tokenizer = Tokenizer.from_file(run / "tokenizer.json")
    texts = [tokenizer.decode(ids, skip_special=False) for ids in conversations(FILES, tokenizer, share=1.0)]
    assert len(texts) == 180 and all(text.startswith("<|turn>") and text.endswith("<turn|>\n") for text in texts)
    for sign in ("Write `def", "What does this do?", "Rename the function", "<|tool_call>call:lookup{name:"):
        assert any(sign in text for text in texts)
    assert conversations(FILES, tokenizer, share=1.0) == conversations(FILES, tokenizer, share=1.0)


def test_line_ends_are_the_tokens_that_begin_with_a_line_break(run: Path) -> None:
    _, batches = prepare(RECIPE, CORPUS, run)
    tokenizer = Tokenizer.from_file(run / "tokenizer.json")
    marked = [tokenizer.decode([int(i)]) for i in batches.line_ends.nonzero()[0]]
    assert "\n" in marked and all(text.startswith("\n") for text in marked)


def test_the_exported_checkpoint_loads_and_writes(run: Path) -> None:
    model = dgemma.load(run / "checkpoint")
    assert model.config.canvas_length == 16 and model.config.eos_token_ids == (1, 6)
    assert model.generate("def ", max_tokens=20).canvases >= 1
    assert model.fill("def area", "return 1\n").generation.steps
