"""What a narrower canvas does to short answers: steps, time and what the causal pass thinks of the text, on held-out files.

    python benchmarks/short_answers.py [--model FOLDER] [--prompts 60] [--tokens 14]

Each prompt is answered with the default canvas (narrow, because the answer is short) and with a full one. Bits per byte of the
written text under the causal pass is a measure of its likelihood only; read it beside the characters that are right from the start.
Prints one line per width and appends both to benchmarks/results/short_answers.csv.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import sys
import time
from pathlib import Path

import dgemma
from dgemma.train.corpus import load

sys.path.insert(0, str(Path(__file__).parent))
from about import append, commit, machine  # noqa: E402
from quality import cases  # noqa: E402
from tune_sampler import causal_nats  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "short_answers.csv"


def measure(model: dgemma.Model, prompts: list[tuple[str, str]], tokens: int, width: int | None) -> dict[str, float]:
    """Averages over (prompt, what really follows) pairs."""
    steps, nats, size, right, seconds = [], 0.0, 0, [], 0.0
    more = {} if width is None else {"canvas_width": width}
    for prompt, truth in prompts:
        start = time.perf_counter()
        found = model.generate(prompt, max_tokens=tokens, **more)
        seconds += time.perf_counter() - start
        steps += found.steps
        right.append(len(os.path.commonprefix([found.text, truth])))
        if found.text:
            nats += causal_nats(model, prompt, found.text)
            size += len(found.text.encode())
    return {
        "steps_per_canvas": sum(steps) / len(steps), "ms_each": 1e3 * seconds / len(prompts),
        "bits_per_byte": nats / math.log(2) / max(1, size), "right_characters": sum(right) / len(right),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=14)
    options = parser.parse_args()
    model = dgemma.load(options.model)
    found = cases(load().held_out, options.prompts, seed=3)
    prompts = [(case.prefix[-1200:], case.line + case.suffix) for case in found if case.prefix]
    measure(model, prompts[:2], options.tokens, None)
    rows = []
    for name, width in (("default", None), ("full", model.config.canvas_length)):
        row = {"date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "canvas": name,
               "prompts": len(prompts), "tokens": options.tokens}  # fmt: skip
        row |= {key: round(value, 3) for key, value in measure(model, prompts, options.tokens, width).items()}
        rows.append(row)
        print(row, flush=True)
    append(RESULTS, rows)


if __name__ == "__main__":
    main()
