"""What each preset costs: steps against quality, in gaps, in free text and in single lines, on held-out files.

    python benchmarks/presets.py [--model FOLDER] [--gaps 60] [--texts 12] [--presets exact early ...]

Appends a row per preset to benchmarks/results/presets.csv: share of single-line gaps filled to the letter and of files that still parse, steps
per canvas there, steps per canvas of free continuations, their bits per byte under the causal pass and their share of distinct
tokens (likely text may be mere repetition). Lines are answers that a line break ends, in a canvas that could hold more: their
steps, bits per byte, and the share that is to the letter what exact says.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import math
from pathlib import Path

from about import append, commit, machine
from quality import cases, fill_table
from tune_sampler import causal_nats, written

import dgemma
from dgemma.config.settings import MOST_END_IDS, PRESETS
from dgemma.train.corpus import load

RESULTS = Path(__file__).parent / "results" / "presets.csv"


def line_breaks(model: dgemma.Model, texts: list[str]) -> tuple[int, ...]:
    """The tokens with a line break that these texts use most (98 % of all of them in the shipped model's vocabulary)."""
    tokens = collections.Counter(token for text in texts for token in model.tokenizer.encode(text))
    breaks = [token for token, _ in tokens.most_common() if b"\n" in model.tokenizer.token_bytes(token)]
    return tuple(breaks[:MOST_END_IDS])


def lines(model: dgemma.Model, prompts: list[str], ends: tuple[int, ...], **sampler) -> tuple[dict[str, float], list[str]]:
    """Answers of one line in a whole canvas: their steps and bits per byte, and what they are."""
    found = [model.generate(prompt, model.config.canvas_length, eos_token_id=ends, **sampler) for prompt in prompts]
    pairs = [(prompt, one.text) for prompt, one in zip(prompts, found, strict=True) if one.text]
    nats, size = sum(causal_nats(model, *pair) for pair in pairs), sum(len(text.encode()) for _, text in pairs)
    steps = [count for one in found for count in one.steps]
    row = {"line_steps": sum(steps) / len(steps), "line_bits_per_byte": nats / math.log(2) / max(1, size)}
    return row, [one.text for one in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--gaps", type=int, default=60)
    parser.add_argument("--texts", type=int, default=12)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    options = parser.parse_args()
    model, held_out = dgemma.load(options.model), load().held_out
    gaps = cases(held_out, options.gaps, seed=4)
    prompts = [case.prefix[-600:] for case in cases(held_out, options.texts, seed=5) if case.prefix]
    ends = line_breaks(model, [text[:20_000] for text in list(held_out.values())[:10]])
    one_line, want = [case.prefix[-600:] for case in cases(held_out, 3 * options.texts, seed=6) if case.prefix], None
    rows = []
    for name in options.presets:
        row = {"date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(),
               "model": options.model or "shipped", "preset": name}  # fmt: skip
        found = fill_table(model, gaps, preset=name) | written(model, prompts, preset=name)
        numbers, told = lines(model, one_line, ends, preset=name)
        want = want or (told if name == "exact" else lines(model, one_line, ends)[1])
        found |= numbers | {"line_same": sum(a == b for a, b in zip(told, want, strict=True)) / len(told)}
        kept = ("gaps", "exact", "parses", "parses_empty", "steps_per_canvas", "free_steps", "written_bits_per_byte", "distinct",
                "line_steps", "line_bits_per_byte", "line_same")
        rows.append(row | {key: round(found[key], 3) for key in kept})
        print(rows[-1], flush=True)
    append(RESULTS, rows)


if __name__ == "__main__":
    main()
