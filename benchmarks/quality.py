"""What the shipped checkpoint can do, on files it never saw: one script, one table (docs/numbers.md).

    python benchmarks/quality.py [--model FOLDER] [--gaps 200] [--files 42] [--seed 0]

Prints next-token bits/byte and the diffusion bound over the held-out files, and fills single-line gaps: a line's text
after its indentation is taken out and the model fills the place, not knowing how long the line was. A gap counts as exact
when the text comes back to the letter, as parsing when the file still compiles; the baseline puts nothing there.
Steps per canvas are a mean over every canvas of every width that was tried; passes are those of the batch, which
runs until its slowest row stands.
Rows go to benchmarks/results/quality.csv.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import gzip
import lzma
import random
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dgemma
from about import append, commit, machine
from dgemma.cli.eval import scores
from dgemma.train.corpus import load

RESULTS = Path(__file__).parent / "results" / "quality.csv"
COLUMNS = (
    "date", "machine", "commit", "model", "files", "bytes", "next_token", "bound", "bound_error", "gaps", "exact",
    "parses", "parses_empty", "steps_per_canvas", "passes", "seconds_per_gap", "gzip", "xz_with_train",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    path: str
    prefix: str
    line: str
    suffix: str


def cases(files: dict[str, str], count: int, seed: int) -> list[Case]:
    """`count` single-line gaps, spread over the files by their length; comments and lines under 4 characters left out."""
    found = []
    for path, text in sorted(files.items()):
        if not parses(text):
            continue
        place = 0
        for line in text.splitlines(keepends=True):
            body = line.strip()
            start = place + len(line) - len(line.lstrip())
            if len(body) >= 4 and not body.startswith("#"):
                found.append(Case(path, text[:start], body, text[start + len(body) :]))
            place += len(line)
    return random.Random(seed).sample(found, count)


def parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def fill_one(model: dgemma.Model, case: Case, **sampler) -> dict[str, float]:
    """What became of one gap; steps_per_canvas is the mean over its widths."""
    filled = model.fill(case.prefix, case.suffix, **sampler)
    return {
        "exact": float(filled.text == case.line),
        "parses": float(parses(case.prefix + filled.text + case.suffix)),
        "parses_empty": float(parses(case.prefix + case.suffix)),
        "steps_per_canvas": sum(filled.row_steps) / len(filled.row_steps),
        "passes": float(max(filled.row_steps)),
        "seconds_per_gap": filled.generation.seconds,
    }


def fill_table(model: dgemma.Model, gaps: list[Case], **sampler) -> dict[str, float]:
    """Shares and averages over the gaps."""
    return averages([fill_one(model, case, **sampler) for case in gaps])


def averages(filled: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of what `fill_one` found for each gap."""
    return {"gaps": len(filled)} | {name: statistics.mean(one[name] for one in filled) for name in filled[0]}


def compressors(train: dict[str, str], held_out: dict[str, str]) -> dict[str, float]:
    """For scale: bits per byte of gzip -9, and of xz that has read the whole training text before."""
    read, new = ("\n".join(files[name] for name in sorted(files)).encode() for files in (train, held_out))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]
    both, alone = (len(lzma.compress(text, lzma.FORMAT_RAW, filters=filters)) for text in (read + new, read))
    return {"gzip": 8 * len(gzip.compress(new, 9)) / len(new), "xz_with_train": 8 * (both - alone) / len(new)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--gaps", type=int, default=200)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus, model = load(), dgemma.load(options.model)
    held_out = corpus.held_out
    row: dict[str, object] = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(),
        "model": options.model or "shipped",
    }  # fmt: skip
    if options.files:
        some = dict(sorted(held_out.items())[: options.files])
        total = None
        for _, found in scores(model, some, options.samples, options.seed):
            total = found if total is None else total + found
        row |= {"files": len(some), "bytes": total.text_bytes, "next_token": round(total.next_token, 4),
                "bound": round(total.bound, 4), "bound_error": round(total.bound_error, 4)}  # fmt: skip
        row |= {name: round(value, 4) for name, value in compressors(corpus.train, some).items()}
    if options.gaps:
        table = fill_table(model, cases(held_out, options.gaps, options.seed))
        row |= {name: round(value, 4) for name, value in table.items()}
    for name, value in row.items():
        print(f"{name:18} {value}")
    append(RESULTS, [row], COLUMNS)


if __name__ == "__main__":
    main()
