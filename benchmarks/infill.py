"""Filling gaps of held-out texts of the small world, one width against several (docs/numbers.md).

    python benchmarks/infill.py [--model FOLDER] [--count 200] [--kinds gap text_gap word] [--seed 0]

`gap` is a file of functions without a body, a line, a part of one, a docstring or its end; `text_gap` a
text whose other half says what is missing; `word` the rest of a word and of its line, where an editor's
cursor stands. The model is never told how long a gap is: `several` are the default widths in one batch
(an eighth, a quarter and a half of the canvas), `one` is the half alone, closed by its filler.

A gap counts as exact when its text comes back to the letter, and as right when its check says so: the
file's functions return what they should, or of a word the word is finished as it was. `parses` is of
files only, beside the share that parses with nothing in the gap. Steps are means over every canvas;
passes are those of a batch, which runs until its slowest row stands; `cpu_seconds` are the processor's, a
gap. Rows go to benchmarks/results/infill.csv.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import random
import re
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from about import append, what_and_where
from world_prompts import Answer, fill, gaps, summary

import dgemma
from dgemma.tasks.infill import default_widths
from dgemma.train.world import Example, World
from dgemma.train.world.checks import Check

RESULTS = Path(__file__).parent / "results" / "infill.csv"
KINDS = ("gap", "text_gap", "word")
WORD = re.compile(r"[A-Za-z_]*")


@dataclass(frozen=True)
class SameWord(Check):
    """The answer begins with this end of a word, whatever the line goes on with."""

    end: str

    def right(self, answer: str) -> bool:
        return WORD.match(answer)[0] == self.end


def examples_of(kind: str, seed: int, count: int) -> list[Example]:
    """`count` held-out gaps of a kind."""
    world = World(seed, "test")
    if kind != "word":
        return gaps(world, count, [kind])
    return [inside_word(example, number) for number, example in enumerate(gaps(world, count, ["gap"]))]


def inside_word(example: Example, seed: int) -> Example:
    """The same file with another gap: from inside a word of at least 4 letters to the end of its line."""
    rng = random.Random(seed)
    word = rng.choice([*re.finditer(r"[A-Za-z_]{4,}", example.text)])
    start = rng.randrange(word.start() + 1, word.end())
    end = len(example.text[:start]) + len(example.text[start:].partition("\n")[0])
    check = SameWord(example.text[start : word.end()])
    return dataclasses.replace(
        example, family="word", answer=example.text[start:end], gap=(start, end), check=check
    )


def parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def around(example: Example, text: str) -> str:
    """The whole text with `text` in its gap."""
    start, end = example.gap
    return example.text[:start] + text + example.text[end:]


def row_of(kind: str, answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """What became of the gaps of a kind."""
    is_code = kind != "text_gap"
    row: dict[str, Any] = {"gap": kind, **summary(answers)}
    for name, texts in (
        ("parses", [around(answer.example, answer.text) for answer in answers]),
        ("parses_empty", [around(answer.example, "") for answer in answers]),
    ):
        row[name] = round(statistics.mean(map(parses, texts)), 4) if is_code else ""
    row["empty"] = round(statistics.mean(not answer.text for answer in answers), 4)
    row["characters"] = round(statistics.mean(len(answer.example.answer) for answer in answers), 1)
    row["passes"] = round(statistics.mean(max(answer.steps) for answer in answers), 2)
    row["cpu_seconds"] = round(seconds / len(answers), 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = dgemma.load(options.model)
    widths = default_widths(model.config.canvas_length)
    for kind in options.kinds:
        examples = examples_of(kind, options.seed, options.count)
        for name, tried in (("several", widths), ("one", widths[-1:])):
            start = time.process_time()
            answers = fill(model, examples, tried)
            found = row_of(kind, answers, time.process_time() - start)
            row = {**what_and_where(), "model": options.model or "shipped", "widths": name, **found}
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            append(RESULTS, [row])


if __name__ == "__main__":
    main()
