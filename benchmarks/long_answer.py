"""Whether a step costs the same from the first canvas of a long answer to the last.

    python benchmarks/long_answer.py [--shape 140m] [--dtype float32] [--canvases 16] [--steps 5] [--threads 2]

One request on random weights, a prompt of 512 tokens, every canvas so many steps. A row per canvas goes to
benchmarks/results/long_answer.csv: the median ms of its steps (the first is left out: it carries the commit of the canvas before),
the tokens before it, what the growing context adds to the step by its arithmetic alone, and memory resident by then.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from pathlib import Path

import torch
from about import ROOT, append, commit, machine

from dgemma.bench import roofline, shapes
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, StepRecord

RESULTS = ROOT / "benchmarks" / "results" / "long_answer.csv"
PROMPT = 512


def resident() -> float:
    """MiB of this process now."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="140m")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--canvases", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype, config = getattr(torch, options.dtype), shapes.shape(options.shape)
    model, rate = (
        shapes.random_model(config, "cpu", dtype),
        roofline.measure(torch.device("cpu"), dtype).flops,
    )
    settings = DenoiseConfig(
        max_denoising_steps=options.steps, stability_threshold=options.steps, eos_token_id=None
    )
    request = Request(tuple(range(1, PROMPT + 1)), options.canvases * config.canvas_length, 0, settings)
    times: list[list[float]] = [[] for _ in range(options.canvases)]
    memory, last = [0.0] * options.canvases, time.perf_counter()
    for record in Engine(model, EngineConfig(prefix_cache=0)).run([request]):
        if isinstance(record, StepRecord):
            now = time.perf_counter()
            if record.step > 1:
                times[record.canvas].append(now - last)
            last, memory[record.canvas] = now, resident()
    rows, width = [], config.canvas_length
    least = [
        1e3 * roofline.work_of(config, dtype.itemsize, 0, width, width, PROMPT + n * width, 1).flops / rate
        for n in range(options.canvases)
    ]
    for number, found in enumerate(times):
        rows.append({
            "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "torch": torch.__version__,
            "recipe": f"{options.shape}, {options.dtype}, {options.threads} threads, {options.steps} steps a canvas",
            "canvas": number + 1, "tokens_before": PROMPT + number * width, "step_ms": round(1e3 * statistics.median(found), 1),
            "limit_grew_ms": round(least[number] - least[0], 1), "resident_mib": round(memory[number]),
        })  # fmt: skip
        print(
            "  ".join(
                str(rows[-1][key])
                for key in ("canvas", "tokens_before", "step_ms", "limit_grew_ms", "resident_mib")
            )
        )
    append(RESULTS, rows)


if __name__ == "__main__":
    main()
