"""The planner's numbers beside what a card really allocates, and layers that stream to it, in turn.

    python benchmarks/memory_gpu.py [--layout int4] [--memory 8GB] [--folder MODEL] [--steps 4] [--prompt 1024]

Writes the published model in a quantised layout as files without data (sparse_checkpoint.py: no disk used, every weight zero), loads it
whole and then with `memory=`, and runs one request of one canvas each time. Printed and appended to benchmarks/results/memory_gpu.csv:
bytes that the plan says and that the allocator held at most, layers that stay and that stream, ms per step. Traps: zero weights send
all rows to the same few experts, so ms of the whole model are too small, while those of a streamed one are its copies'; on a CPU
(`--device cpu --folder ...`, to try it out) nobody counts allocations, and the peak is empty.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import sparse_checkpoint
import torch
from about import ROOT, append, commit

import dgemma
from dgemma.bench.roofline import name_of, synchronise
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.config.sizes import parse_bytes
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, StepRecord
from dgemma.memory.placement import bytes_in, formats_in, placement
from dgemma.weights.source import source


def planned(folder: Path, device: str, memory: int | None, context: int) -> dict[str, Any]:
    """What the planner says of a folder, a memory and a context, in bytes."""
    found = source(folder)
    config = found.config()
    layout = found.inspect(config)
    place = placement(
        config,
        "bfloat16",
        device,
        memory,
        context=context,
        formats=formats_in(layout),
        stored=bytes_in(layout),
    )
    return {
        "layers": len(config.layers),
        "streamed": len(place.streamed),
        "planned": place.device_bytes,
        "margin": place.margin,
    }


def measured(
    folder: Path, device: torch.device, memory: int | None, steps: int, prompt: int
) -> dict[str, Any]:
    """One canvas of a request after random tokens: the most that was allocated, and the median ms of a step."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    model = dgemma.load(folder, device, "bfloat16", memory=memory)
    synchronise(device)
    loaded, times = time.perf_counter() - began, []
    engine = Engine(model.net, EngineConfig(memory=model.engine.scheduler.budget, prefix_cache=0))
    ids = torch.randint(
        0, model.config.vocab_size, (prompt,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    config = DenoiseConfig(max_denoising_steps=steps, eos_token_id=None, confidence_threshold=1e-9)
    for record in engine.run([Request(tuple(ids), model.config.canvas_length, 0, config)]):
        if isinstance(record, StepRecord):
            times.append(time.perf_counter())
    gaps = [1e3 * (after - before) for before, after in zip(times, times[1:], strict=False)]
    peak = torch.cuda.max_memory_allocated(device) if cuda else None
    return {"peak": peak, "load_s": round(loaded, 1), "step_ms": round(statistics.median(gaps), 2)}


def row(options: argparse.Namespace, folder: Path, memory: str | None) -> dict[str, Any]:
    device, budget = torch.device(options.device), parse_bytes(memory) if memory else None
    plan = planned(folder, device.type, budget, options.prompt + 256)
    found = measured(folder, device, budget, options.steps, options.prompt)
    return {
        "date": datetime.date.today().isoformat(), "machine": name_of(device), "commit": os.environ.get("DGEMMA_COMMIT") or commit(),
        "kernels": os.environ.get("DGEMMA_KERNELS", "torch"), "model": options.layout if options.folder is None else folder.name,
        "memory": memory or "all", "planned_gib": gib(plan["planned"]), "peak_gib": gib(found["peak"]), "margin_gib": gib(plan["margin"]),
        "layers": plan["layers"], "streamed": plan["streamed"], "load_s": found["load_s"], "step_ms": found["step_ms"],
    }  # fmt: skip


def gib(size: int | None) -> float | str:
    return "" if size is None else round(size / 2**30, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", default="int4", choices=sparse_checkpoint.LAYOUTS)
    parser.add_argument("--folder", type=Path, help="a checkpoint instead")
    parser.add_argument("--memory", nargs="+", default=["8GB"], help="to stream in")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "memory_gpu.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or sparse_checkpoint.write(Path(place) / "model", layout=options.layout)
        for memory in (None, *options.memory):
            found = row(options, folder, memory)
            append(options.results, [found])
            print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
