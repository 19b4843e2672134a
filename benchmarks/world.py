"""How much of the small world a checkpoint knows: each family and each kind of hold-out, by canvas and token by token.

    python benchmarks/world.py [--model FOLDER] [--count 200] [--families write facts] [--csv [FILE]] [--brief]
        [--markdown]

Three tables: every family on the train side and held out, every kind of hold-out by itself, and the groups of
families that docs/numbers.md has bars for. `parses` is the share of answers in Python that are Python, `full` that of
answers which fill nine tenths of their canvas, with their steps. Gaps are filled by `Model.fill`, which is not told
how wide they are and tries several widths; they are written token by token by no one.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from about import ROOT, append, what_and_where
from world_prompts import Answer, Case, by_canvas, fill, gaps, prompts, token_by_token

import dgemma
from dgemma.train.world import HOLDOUTS, World

FULL = 0.9  # of a canvas's cells
GROUPS = {
    "code": "write complete fix classic docstring change restyle two_code_edits code_talk",
    "JSON, tables": "to_json from_json table",
    "rename, edit": "rename rename_variable edit two_edits reword two_rewordings",
    "tools": "tool_call tool_unused tool_answer",
    "decide": "decide classify",
    "facts, talk": "facts talk",
    "refusal": "refuse",
}
CODE = frozenset(GROUPS["code"].split()) | {"rename"}
COLUMNS = ("name", "answers", "canvas", "token_by_token", "parses", "steps", "full", "steps_full")
Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What a model made of the same prompts both ways."""

    canvas: list[Answer]
    tokens: list[Answer]

    def of(self, keep: Callable[[Answer], bool]) -> Answers:
        return Answers([one for one in self.canvas if keep(one)], [one for one in self.tokens if keep(one)])


def ask(model: dgemma.Model, world: World, count: int, families: Sequence[str] | None) -> Answers:
    """`count` prompts of each family that the world has among `families` (default: all)."""
    names = [name for name in world.families if families is None or name in families]
    cases: list[Case] = prompts(world, model.tokenizer, count, names)
    filled = fill(model, gaps(world, count, names))
    return Answers(by_canvas(model, cases) + filled, token_by_token(model, cases))


def row(name: str, answers: Answers, width: int) -> Row:
    """One line of a table. Shares are of right answers; steps are means over canvases."""
    code = [one for one in answers.canvas if one.example.family in CODE]
    full = [one for one in answers.canvas if not one.example.gap and fullness(one, width) >= FULL]
    return {
        "name": name,
        "answers": len(answers.canvas),
        "canvas": share(one.right for one in answers.canvas),
        "token_by_token": share(one.right for one in answers.tokens),
        "parses": share(parses(one.text) for one in code),
        "steps": mean(steps for one in answers.canvas for steps in one.steps),
        "full": len(full),
        "steps_full": mean(steps for one in full for steps in one.steps),
    }


def fullness(answer: Answer, width: int) -> float:
    """The share of its canvases' cells that an answer fills."""
    return len(answer.token_ids) / (width * len(answer.steps))


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def share(verdicts: Iterator[bool]) -> float | None:
    found = list(verdicts)
    return round(statistics.mean(found), 3) if found else None


def mean(numbers: Iterator[float]) -> float | None:
    found = list(numbers)
    return round(statistics.mean(found), 2) if found else None


def rows(answers: Answers, width: int) -> Iterator[Row]:
    """A line of every family, of every group that is there, and of all together."""
    for name in dict.fromkeys(one.example.family for one in answers.canvas):
        yield row(name, answers.of(lambda one, name=name: one.example.family == name), width)
    for name, families in GROUPS.items():
        members = families.split()
        part = answers.of(lambda one, members=members: one.example.family in members)
        if part.canvas:
            yield row(f"({name})", part, width)
    yield row("(all)", answers, width)


def show(title: str, table: Sequence[Row], markdown: bool) -> None:
    """Print a table, aligned or as Markdown."""
    lines = [COLUMNS, *(tuple("" if one[key] is None else str(one[key]) for key in COLUMNS) for one in table)]
    print(f"\n{'### ' if markdown else ''}{title}\n")
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    for number, line in enumerate(lines):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print(f"| {' | '.join(cells)} |" if markdown else "  ".join(cells).rstrip(), flush=True)
        if markdown and number == 0:
            print(f"|{'---|' * len(COLUMNS)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=200, help="prompts of each family and side")
    parser.add_argument("--families", nargs="+", help="default: all")
    parser.add_argument("--seed", type=int, default=2, help="of the prompts; 0 is what was trained on")
    parser.add_argument("--csv", nargs="?", type=Path, const=ROOT / "benchmarks/results/world.csv")
    parser.add_argument("--brief", action="store_true", help="no table for each kind of hold-out")
    parser.add_argument("--markdown", action="store_true", help="tables as docs/numbers.md has them")
    options = parser.parse_args()
    model = dgemma.load(options.model)
    width = model.denoise.canvas_width or model.config.canvas_length
    about = {**what_and_where(), "model": options.model or "shipped", "seed": options.seed}
    kinds = () if options.brief else HOLDOUTS
    sides = [("train", None), ("test", None), *(("test", kind) for kind in kinds)]
    for side, kind in sides:
        answers = ask(model, World(options.seed, side, kind), options.count, options.families)
        if not answers.canvas:
            continue
        title = "train side" if side == "train" else f"held out: {kind or 'each kind by chance'}"
        table = list(rows(answers, width))
        show(title, table, options.markdown)
        if options.csv:
            append(options.csv, [{**about, "side": side, "holdout": kind or "", **one} for one in table])


if __name__ == "__main__":
    main()
