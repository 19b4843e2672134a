"""What each preset costs: steps against quality, in gaps and in free text, on held-out files.

    python benchmarks/presets.py [--model FOLDER] [--gaps 60] [--texts 12]

Appends a row per preset to benchmarks/results/presets.csv: share of single-line gaps filled to the letter and of files that still parse, steps
per canvas there, steps per canvas of free continuations, their bits per byte under the causal pass and their share of distinct
tokens (likely text may be mere repetition).
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from about import append, commit, machine
from quality import cases, fill_table
from tune_sampler import written

import dgemma
from dgemma.config.settings import PRESETS
from dgemma.train.corpus import load

RESULTS = Path(__file__).parent / "results" / "presets.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--gaps", type=int, default=60)
    parser.add_argument("--texts", type=int, default=12)
    options = parser.parse_args()
    model, held_out = dgemma.load(options.model), load().held_out
    gaps = cases(held_out, options.gaps, seed=4)
    prompts = [case.prefix[-600:] for case in cases(held_out, options.texts, seed=5) if case.prefix]
    rows = []
    for name in PRESETS:
        row = {"date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(),
               "model": options.model or "shipped", "preset": name}  # fmt: skip
        found = fill_table(model, gaps, preset=name) | written(model, prompts, preset=name)
        kept = ("gaps", "exact", "parses", "parses_empty", "steps_per_canvas", "free_steps", "written_bits_per_byte", "distinct")
        rows.append(row | {key: round(found[key], 3) for key in kept})
        print(rows[-1], flush=True)
    append(RESULTS, rows)


if __name__ == "__main__":
    main()
