"""How often a request gets the same tokens alone and beside others, in each number format.

    python benchmarks/agreement.py [--model NAME] [--requests 8] [--batch 4] [--steps 16] [--dtypes float64 ...]

Prompts are the beginnings of held-out files, 20 to 200 tokens of each, two canvases long. Other row counts let matrix
products round differently; self-conditioning carries that on from step to step, where it grows (a random model: 30
times a step, so that even float64 parts after eight), until a near-tie flips a choice and the canvases differ. The
tests therefore show equality on tiny models and few steps; this prints what a real request meets.
"""

from __future__ import annotations

import argparse
import random

import dgemma
from dgemma.config import EngineConfig
from dgemma.engine.denoise import run
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, results
from dgemma.train.corpus import load


def requests_of(model: dgemma.Model, count: int, steps: int) -> list[Request]:
    draw, files = random.Random(5), sorted(load().held_out.items())
    texts = [text for _, text in draw.sample(files, count)]
    bos = model.tokenizer.special.need("bos")
    settings = model.denoise.replace(max_denoising_steps=steps, eos_token_id=None)
    return [
        Request(
            (bos, *model.tokenizer.encode(text[:2000])[: draw.randint(20, 200)]), 2 * model.config.canvas_length,
            seed=number, config=settings,
        )
        for number, text in enumerate(texts)
    ]  # fmt: skip


def compare(model: dgemma.Model, requests: list[Request], batch: int) -> dict[str, float]:
    """Shares of requests whose tokens, first canvas and step counts are equal, and of equal tokens among all."""
    alone = [results(run(model.net, [request]), 1)[0] for request in requests]
    engine = Engine(model.net, EngineConfig(max_slots=batch))
    beside = results(engine.run(requests), len(requests))
    rows = list(zip(alone, beside, strict=True))
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
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32", "bfloat16"])
    options = parser.parse_args()
    print(f"{options.requests} requests, alone in the plain loop and {options.batch} at a time in the engine, up to {options.steps} steps a canvas")
    for name in options.dtypes:
        model = dgemma.load(options.model, "cpu", name)
        shares = compare(model, requests_of(model, options.requests, options.steps), options.batch)
        print(f"{name:9} " + "   ".join(f"{what} {share:6.1%}" for what, share in shares.items()), flush=True)


if __name__ == "__main__":
    main()
