"""One denoising step on the CPU, ours and the oracle's in turn: time, and memory beyond the loaded model.

    python benchmarks/step_cpu.py [--shape 100m] [--batch 1] [--rounds 5] [--steps 6] [--threads 1] [--dtype float32]
                                  [--experts NAME]

Both run the way their users run them (our engine, its `generate`) on one random model, a shape of `dgemma bench`, with 512 tokens of
prompt. A step lasts from one draft to the next: the pass with self-conditioning, sampling,
acceptance, renoise, stopping. A canvas's first step, which has no self-conditioning, is left out. Sides take turns, and
the median stands for each, as wall clock and as processor time (the fairer one on a machine that is busy). Peaks are
measured in a process per side, which loads the same folder and forgets how high loading itself had reached. The limit is a
step's matrix products at the rate of a 1024-cube product, measured around every turn of ours, since the speed of a virtual machine
changes within a run; the fraction of it is the median of the turns' own. A row goes to benchmarks/results/step_cpu.csv.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from about import ROOT, append, commit, machine
from reference import generate

from dgemma.bench import roofline, shapes
from dgemma.bench.oracle import SMALL_VISION
from dgemma.config import DenoiseConfig, EngineConfig, ModelConfig
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, StepRecord
from dgemma.model.build import build, build_random, count_parameters, pack
from dgemma.weights.layout import inspect
from dgemma.weights.reader import load_into
from dgemma.weights.writer import save

RESULTS = ROOT / "benchmarks" / "results" / "step_cpu.csv"
CONTEXT = 512

Moment = tuple[float, float]  # wall clock and processor time, seconds
Canvas = Callable[[int], Iterator[Moment]]  # seed -> the moment of each draft of one canvas


def now() -> Moment:
    return time.perf_counter(), time.process_time()


def settings(steps: int) -> DenoiseConfig:
    return DenoiseConfig(max_denoising_steps=steps, confidence_threshold=1e-9, eos_token_id=None)


def ours(folder: Path, dtype: torch.dtype, steps: int, batch: int) -> Canvas:
    config = ModelConfig.from_file(folder / "config.json")
    model = build(config)
    load_into(model, inspect(folder, config), "cpu", dtype)
    pack(model)
    prompt, engine = tuple(range(1, CONTEXT + 1)), Engine(model, EngineConfig(prefix_cache=0))

    def canvas(seed: int) -> Iterator[Moment]:
        requests = [
            Request(prompt, config.canvas_length, seed + row, settings(steps)) for row in range(batch)
        ]
        records = (record for record in engine.run(requests) if isinstance(record, StepRecord))
        return (now() for record in records if record.request == 0)

    return canvas


def theirs(folder: Path, dtype: torch.dtype, steps: int, batch: int, experts: str | None) -> Canvas:
    from transformers import DiffusionGemmaForBlockDiffusion

    how = {"experts_implementation": experts} if experts else {}
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=dtype, **how).eval()
    prompt, config = torch.arange(1, CONTEXT + 1).repeat(batch, 1), settings(steps)

    def canvas(seed: int) -> Iterator[Moment]:
        torch.manual_seed(seed)
        return iter(generate(model, prompt, model.config.canvas_length, config, now)[1])

    return canvas


def durations(canvas: Canvas, seed: int) -> list[Moment]:
    """Wall and processor seconds of each step of one canvas but the first."""
    drafts = list(canvas(seed))
    pairs = zip(drafts, drafts[1:], strict=False)
    return [(second[0] - first[0], second[1] - first[1]) for first, second in pairs]


def middle(found: list[Moment]) -> tuple[float, float]:
    """Medians in milliseconds."""
    wall, processor = zip(*found, strict=True)
    return round(statistics.median(wall) * 1e3, 1), round(statistics.median(processor) * 1e3, 1)


def side(name: str, folder: Path, options: argparse.Namespace) -> Canvas:
    dtype = getattr(torch, options.dtype)
    if name == "ours":
        return ours(folder, dtype, options.steps, options.batch)
    return theirs(folder, dtype, options.steps, options.batch, options.experts)


def status(key: str) -> float:
    """MiB of one line of this process's memory status (VmRSS: now, VmHWM: at most)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def measure_memory(name: str, folder: Path, options: argparse.Namespace) -> None:
    """In a process of its own: print MiB at rest with the model loaded, and the most that a canvas needs beyond."""
    canvas = side(name, folder, options)
    durations(canvas, 0)  # lazy imports and thread pools are no part of a step
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    rest = status("VmRSS")
    durations(canvas, 1)
    print(json.dumps({"rest": rest, "peak": status("VmHWM") - rest}))


def write_model(folder: Path, name: str, dtype: torch.dtype) -> int:
    model = build_random(shapes.shape(name), seed=0, gain=1.0)
    save(folder, model.config, DenoiseConfig(), model.state_dict().items(), "{}", dtype=dtype)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"vision_config": SMALL_VISION}))
    return count_parameters(model)


def compare(options: argparse.Namespace) -> dict[str, object]:
    dtype, config = getattr(torch, options.dtype), shapes.shape(options.shape)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        parameters = write_model(folder, options.shape, dtype)
        rows = options.batch * config.canvas_length
        work = roofline.work_of(config, dtype.itemsize, 0, rows, rows, CONTEXT, options.batch)
        rates, fractions = [], []
        sides = {name: side(name, folder, options) for name in ("ours", "theirs")}
        taken: dict[str, list[Moment]] = {name: [] for name in sides}
        for turn in range(options.rounds + 1):
            for name in list(sides)[:: 1 if turn % 2 else -1]:
                before = roofline.matrix_rate(torch.device("cpu"), dtype)
                found = durations(sides[name], turn)
                if turn:  # the first turn warms both up
                    taken[name] += found
                    if name == "ours":
                        rates.append(max(before, roofline.matrix_rate(torch.device("cpu"), dtype)))
                        fractions.append(1e3 * work.flops / rates[-1] / middle(found)[0])
                    print(f"{turn} {name:6} {middle(found)} ms a step, wall and processor", flush=True)
        del sides
        memory = {name: in_its_own_process(name, folder, options) for name in taken}
    times = {name: middle(found) for name, found in taken.items()}
    limit = 1e3 * work.flops / statistics.median(rates)
    return {
        "date": datetime.date.today().isoformat(), "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "commit": commit(), "torch": torch.__version__, "transformers": importlib.metadata.version("transformers"),
        "recipe": f"{parameters / 1e6:.0f} M, batch {options.batch}, context {CONTEXT}, {options.rounds} x {options.steps - 1} steps",
        "dtype": options.dtype, "threads": options.threads, "experts": options.experts or "default",
        "ours_ms": times["ours"][0], "theirs_ms": times["theirs"][0],
        "ours_cpu_ms": times["ours"][1], "theirs_cpu_ms": times["theirs"][1],
        "ratio": round(times["ours"][0] / times["theirs"][0], 3),
        "cpu_ratio": round(times["ours"][1] / times["theirs"][1], 3),
        "ours_peak_mib": round(memory["ours"]["peak"], 1), "theirs_peak_mib": round(memory["theirs"]["peak"], 1),
        "ours_rest_mib": round(memory["ours"]["rest"], 1), "theirs_rest_mib": round(memory["theirs"]["rest"], 1),
        "gflops": round(statistics.median(rates) / 1e9, 1), "limit_ms": round(limit, 1), "of_limit": round(statistics.median(fractions), 3),
    }  # fmt: skip


def in_its_own_process(name: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    passed = [f"--{key}={value}" for key, value in vars(options).items() if value is not None]
    call = [sys.executable, __file__, f"--memory={name}:{folder}", *passed]
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    return json.loads(told.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="100m", help="a shape of `dgemma bench`")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--experts", help="the oracle's experts: eager, batched_mm, grouped_mm; default: its choice"
    )
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        name, _, folder = options.memory.partition(":")
        return measure_memory(name, Path(folder), options)
    row = compare(options)
    for key, value in row.items():
        print(f"{key:16} {value}")
    append(RESULTS, [row])


if __name__ == "__main__":
    main()
