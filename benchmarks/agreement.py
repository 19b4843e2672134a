"""How often a request gets the same tokens alone and beside others, in each number format.

    python benchmarks/agreement.py [--model NAME] [--requests 8] [--batch 4] [--steps 16] [--threads 1] [--dtypes float64 ...]

Prompts are held-out ones of the small world, of any family; answers are two canvases long and do not end before. Each is answered
alone in the plain loop, then beside others in the engine, in several mixes; a row per number format and mix goes to
results/agreement.csv. Other row counts let matrix products round differently; self-conditioning carries that on from step to step, where it grows (a random model: 30
times a step, so that even float64 parts after eight), until a near-tie flips a choice and the canvases differ. The
tests therefore show equality on tiny models and few steps; this prints what a real request meets.
"""

from __future__ import annotations

import argparse
import datetime
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from about import append, commit, machine
from world_prompts import prompts

import dgemma
from dgemma.config import EngineConfig
from dgemma.engine.denoise import run
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, Result, results
from dgemma.train.world import World

RESULTS = Path(__file__).parent / "results" / "agreement.csv"


def requests_of(model: dgemma.Model, count: int, steps: int) -> list[Request]:
    cases = random.Random(5).sample(prompts(World(5, "test"), model.tokenizer, 1 + count // 30), count)
    settings = model.denoise.replace(max_denoising_steps=steps, eos_token_id=None)
    longest = 2 * model.config.canvas_length
    return [Request(case.prompt_ids, longest, number, settings) for number, case in enumerate(cases)]


@dataclass(frozen=True)
class Mix:
    """How requests meet in the engine."""

    chunk: int = 512
    joins: bool = False  # they come one by one, while others are at work
    cached: bool = False  # two thirds of each prompt were read before, for another request


MIXES = {
    "chunks of 16": Mix(16), "chunks of 64": Mix(64), "chunks of 512": Mix(512), "joining between passes": Mix(joins=True),
    "cached prefixes": Mix(cached=True), "all of it, chunks of 64": Mix(64, True, True),
}  # fmt: skip


def beside(model: dgemma.Model, requests: list[Request], batch: int, mix: Mix) -> list[Result]:
    """The requests in one engine, `batch` at a time at most; commits share their passes with next canvases."""
    engine, draw = Engine(model.net, EngineConfig(max_slots=batch, prefill_chunk=mix.chunk)), random.Random(7)
    for request in requests if mix.cached else ():
        begun = request.prompt_ids[: 2 * len(request.prompt_ids) // 3]
        list(engine.run([Request(begun, 1, config=request.config.replace(max_denoising_steps=1))]))
    waiting, tickets, told = list(enumerate(requests)), {}, []
    while waiting or not engine.idle:
        while waiting and (not mix.joins or engine.idle or draw.random() < 0.2):
            index, request = waiting.pop(0)
            tickets[engine.submit(request)] = index
        engine.advance()
        for ticket, index in tickets.items():
            told += [record.of(index) for record in engine.poll(ticket)]
    return results(told, len(requests))


def compare(alone: list[Result], others: list[Result]) -> dict[str, float]:
    """Shares of requests whose tokens, first canvas and step counts are equal, and of equal tokens among all."""
    rows = list(zip(alone, others, strict=True))
    tokens = [pair for a, b in rows for pair in zip(a.token_ids, b.token_ids, strict=False)]
    return {
        "equal requests": sum(a.token_ids == b.token_ids for a, b in rows) / len(rows),
        "equal first canvas": sum(a.canvases[0] == b.canvases[0] for a, b in rows) / len(rows),
        "equal tokens": sum(a == b for a, b in tokens) / len(tokens),
        "equal steps": sum(a.steps == b.steps for a, b in rows) / len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.requests} requests, alone in the plain loop and {options.batch} at a time in the engine, up to {options.steps} steps a canvas"
    )
    rows = []
    for name in options.dtypes:
        model = dgemma.load(options.model, "cpu", name)
        requests = requests_of(model, options.requests, options.steps)
        alone = [results(run(model.net, [request]), 1)[0] for request in requests]
        for title, mix in MIXES.items():
            shares = compare(alone, beside(model, requests, options.batch, mix))
            print(
                f"{name:9} {title:24} "
                + "   ".join(f"{what} {share:6.1%}" for what, share in shares.items()),
                flush=True,
            )
            rows.append({
                "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "torch": torch.__version__,
                "model": options.model or "shipped", "requests": options.requests, "batch": options.batch, "steps": options.steps,
                "dtype": name, "mix": title, **{what.replace(" ", "_"): round(share, 4) for what, share in shares.items()},
            })  # fmt: skip
    append(RESULTS, rows)


if __name__ == "__main__":
    main()
