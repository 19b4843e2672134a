"""One denoising step on a card, ours and the oracle's in turn, in one process and on one copy of the weights.

    python benchmarks/step_gpu.py [--shape diffusiongemma-26b] [--rounds 2] [--steps 16] [--prompt 1024] [--tokens 1024]
                                  [--experts NAME] [--no-compiled] [--device cuda] [--dtype bfloat16] [--results FILE.csv]

The weights are random, made on the device; the oracle is built without any and gets ours, so 51.6 GB serve both. Workload fixed16:
random prompt tokens, sixteen steps for every canvas, no end token. Both run the way their users run them: our engine, its `generate`
with the dynamic cache, and then once more with its static cache, which is what it compiles for. A step lasts from one draft to the
next; a canvas's first step, which reads what came before it, is left out. Medians and 95th percentiles are over all other steps of
all rounds but the first, which warms up with one canvas. A row per side goes to benchmarks/results/step_gpu.csv as soon as it is
known, so that a compilation that fails loses nothing. `DGEMMA_KERNELS=triton ... --device cpu --shape 100m --dtype float32` tries it
out without a card (on a CPU that choice changes nothing but that weights are not packed, and so can be lent). Trap: the static cache
is wrong behind a window, so its figure is about time alone.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from about import ROOT, append, commit
from reference import generate

from dgemma.bench import oracle, roofline, shapes
from dgemma.bench.workloads import workloads
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine.engine import Engine
from dgemma.engine.requests import CommitRecord, Request, StepRecord
from dgemma.model.dgemma import DiffusionGemma

NEVER = 1e-9  # nats: random weights are never so sure, so a canvas takes all its steps


class Run(NamedTuple):
    """One request to its end."""

    steps: list[float]  # seconds of each step but the first of each canvas
    seconds: float
    tokens: list[int]


Side = Callable[[Request], Run]


def ours(model: DiffusionGemma) -> Side:
    engine = Engine(model, EngineConfig(prefix_cache=0))

    def run(request: Request) -> Run:
        drafts, tokens, start = [], [], time.perf_counter()
        for record in engine.run([request]):
            if isinstance(record, StepRecord):
                drafts.append(time.perf_counter())
            elif isinstance(record, CommitRecord):
                tokens += record.token_ids
        return Run(between(drafts, request), time.perf_counter() - start, tokens)

    return run


def theirs(reference: Any, device: torch.device, cache: str | None) -> Side:
    def run(request: Request) -> Run:
        prompt, config = (
            torch.tensor([request.prompt_ids], device=device),
            request.config.replace(confidence_threshold=NEVER),
        )
        start = time.perf_counter()
        output, drafts = generate(
            reference, prompt, request.max_tokens, config, time.perf_counter, cache_implementation=cache
        )
        ids = output if isinstance(output, torch.Tensor) else output.sequences
        tokens = ids[0, len(request.prompt_ids) :].tolist()
        return Run(between(drafts, request), time.perf_counter() - start, tokens)

    return run


def between(drafts: list[float], request: Request) -> list[float]:
    """The seconds from draft to draft within each canvas. Every canvas must have taken all its steps."""
    steps = request.config.max_denoising_steps
    if not drafts or len(drafts) % steps:
        raise RuntimeError(f"{len(drafts)} drafts are no whole number of canvases of {steps} steps")
    return [drafts[i] - drafts[i - 1] for i in range(1, len(drafts)) if i % steps]


def turns(
    sides: dict[str, Side], request: Request, short: Request, rounds: int, vocab: int
) -> dict[str, list[Run]]:
    """Each side's runs but its first, side after side; who begins changes from round to round."""
    taken: dict[str, list[Run]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            run = sides[name](request if turn else short)
            if not run.tokens or not all(0 <= token < vocab for token in run.tokens):
                raise RuntimeError(f"{name} gave tokens that are none")
            if turn:
                taken[name].append(run)
                print(
                    f"round {turn}  {name:22} {1e3 * statistics.median(run.steps):8.2f} ms per step, {run.seconds:6.2f} s",
                    flush=True,
                )
    return taken


def row(name: str, runs: list[Run], about: dict[str, Any], ours_ms: float | None) -> dict[str, Any]:
    steps = sorted(1e3 * seconds for run in runs for seconds in run.steps)
    median = statistics.median(steps)
    return about | {
        "side": name, "step_ms": round(median, 3), "step_p95_ms": round(steps[min(len(steps) - 1, int(0.95 * len(steps)))], 3),
        "steps": len(steps), "tokens_per_second": round(sum(len(run.tokens) for run in runs) / sum(run.seconds for run in runs), 1),
        "times_ours": round(median / ours_ms, 3) if ours_ms else 1.0,
    }  # fmt: skip


def requests_of(model: DiffusionGemma, options: argparse.Namespace) -> tuple[Request, Request]:
    """The recipe's request, and one of a single canvas to warm up with."""
    config = model.config

    def one(tokens: int) -> Request:
        (workload,) = workloads("fixed16", config, DenoiseConfig(), tokens=tokens, prompt=options.prompt)
        asked = workload.requests[0]
        return Request(asked.prompt_ids, tokens, 0, asked.config.replace(max_denoising_steps=options.steps))

    return one(options.tokens), one(config.canvas_length)


def compare(options: argparse.Namespace) -> None:
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model = shapes.random_model(shapes.shape(options.shape), device, dtype)
    asked, vocab = requests_of(model, options), model.config.vocab_size
    reference = willing(model, options, asked[1])
    about = {
        "date": datetime.date.today().isoformat(), "machine": roofline.name_of(device),
        "commit": os.environ.get("DGEMMA_COMMIT") or commit(),
        "torch": torch.__version__, "transformers": importlib.metadata.version("transformers"), "shape": options.shape,
        "dtype": options.dtype, "kernels": os.environ.get("DGEMMA_KERNELS", "torch"), "threads": torch.get_num_threads(),
        "experts": options.experts or "default",
        "recipe": f"fixed{options.steps} {options.prompt}+{options.tokens}, {options.rounds} rounds",
    }  # fmt: skip
    eager = {"dgemma": ours(model), "transformers": theirs(reference, device, None)}
    taken = turns(eager, *asked, options.rounds, vocab)
    first = row("dgemma", taken["dgemma"], about, None)
    keep(options, first, row("transformers", taken["transformers"], about, first["step_ms"]))
    if options.compiled:
        name = "transformers compiled"
        runs = turns({name: theirs(reference, device, "static")}, *asked, options.rounds, vocab)[name]
        keep(options, row(name, runs, about, first["step_ms"]))


def willing(model: DiffusionGemma, options: argparse.Namespace, short: Request) -> Any:
    """The oracle with the experts that were asked for, or its own choice; with its plain ones where that does not run here."""
    reference = oracle.borrow(model, options.experts)
    try:
        theirs(reference, model.device, None)(short)
        return reference
    except RuntimeError as error:
        if options.experts:
            raise
        print(
            f"its own choice of experts does not run here ({str(error).splitlines()[0]}); its plain ones instead",
            flush=True,
        )
        options.experts = "eager"
        return oracle.borrow(model, options.experts)


def keep(options: argparse.Namespace, *rows: dict[str, Any]) -> None:
    append(options.results, rows)
    for one in rows:
        print(f"{one['side']:22} {one['step_ms']:9} ms per step (p95 {one['step_p95_ms']}), {one['tokens_per_second']} tokens/s, "
              f"{one['times_ours']} times ours", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="diffusiongemma-26b", help="a shape of `dgemma bench`")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument(
        "--experts", help="the oracle's experts: eager, batched_mm, grouped_mm; default: its choice"
    )
    parser.add_argument(
        "--no-compiled", dest="compiled", action="store_false", help="leave its compiled form out"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32", "float16"))
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "step_gpu.csv")
    with torch.no_grad():
        compare(parser.parse_args())


if __name__ == "__main__":
    main()
