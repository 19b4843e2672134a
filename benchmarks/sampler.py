"""Sampler settings beside their right answers, steps and time: a grid, presets, or widths of the canvas.

    python benchmarks/sampler.py [--model FOLDER] [--count 4] [--families write facts] [--csv FILE]
        [--temperatures 0.8:0.4,0.5:0.2] [--bounds 0.1,0.5] [--confidences 0.005,0.1] [--steps 48]
    python benchmarks/sampler.py --presets [exact early ...]
    python benchmarks/sampler.py --presets exact --widths 16 128 --longest 14 --batch 1

Every setting answers the same prompts of the small world, `--count` of each family. The grid chooses a
checkpoint's generation_config.json, so it asks the **train** side: nothing held out may have a part in
that choice. Presets are asked the held-out side. `--longest` takes only prompts whose right answer has at
most so many tokens, which is what a narrow canvas is for. `same` is the share of answers equal to those
of the first setting, `cpu_ms` the processor's time for one answer, prompts included (`--batch 1` for an
answer alone).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from about import append, what_and_where
from world_prompts import Answer, Case, by_canvas, prompts, same, summary

import dgemma
from dgemma.config import DenoiseConfig
from dgemma.config.settings import PRESETS
from dgemma.train.world import World

Setting = dict[str, Any]  # of DenoiseConfig, by name
SHOWN = (
    "t_max",
    "t_min",
    "entropy_bound",
    "confidence_threshold",
    "max_denoising_steps",
    "canvas_width",
)


def grid(options: argparse.Namespace) -> Iterator[Setting]:
    """All combinations of what the options list."""
    for heat, bound, confidence in itertools.product(
        options.temperatures.split(","), options.bounds.split(","), options.confidences.split(",")
    ):
        t_max, t_min = (float(part) for part in heat.split(":"))
        yield {
            "t_max": t_max,
            "t_min": t_min,
            "entropy_bound": float(bound),
            "confidence_threshold": float(confidence),
            "max_denoising_steps": options.steps,
        }


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """What is measured, in order."""
    chosen = grid(options) if options.presets is None else [{"preset": name} for name in options.presets]
    for setting, width in itertools.product(chosen, options.widths or [None]):
        yield setting if width is None else {**setting, "canvas_width": width}


def measure(
    model: dgemma.Model, cases: Sequence[Case], config: DenoiseConfig, batch: int
) -> tuple[list[Answer], float]:
    """The answers under a setting, and the processor's milliseconds for each."""
    start = time.process_time()
    answers = by_canvas(model, cases, config, batch)
    return answers, 1e3 * (time.process_time() - start) / len(cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=4, help="prompts of each family")
    parser.add_argument("--families", nargs="+", help="default: all")
    parser.add_argument("--longest", type=int, help="tokens that the right answer may have, its end included")
    parser.add_argument(
        "--presets", nargs="*", choices=PRESETS, help="instead of a grid; none named: all of them"
    )
    parser.add_argument(
        "--temperatures", default="0.8:0.4,0.5:0.2,0.3:0.1", help="t_max:t_min, with commas between"
    )
    parser.add_argument("--bounds", default="0.1,0.5")
    parser.add_argument("--confidences", default="0.005,0.1")
    parser.add_argument("--steps", type=int, default=48, help="the most of a canvas, in the grid")
    parser.add_argument("--widths", type=int, nargs="+", help="of the canvas; default: the checkpoint's")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    options = parser.parse_args()
    if options.presets == []:
        options.presets = list(PRESETS)
    side = "train" if options.presets is None else "test"
    model = dgemma.load(options.model)
    cases = prompts(World(1, side), model.tokenizer, options.count, options.families)
    if options.longest is not None:
        cases = [case for case in cases if len(case.answer_ids) <= options.longest]
    if not cases:
        parser.error("no prompt is left; take other --families, or a larger --longest")
    first: list[Answer] = []
    run = {**what_and_where(), "model": options.model or "shipped", "side": side, "batch": options.batch}
    for setting in settings(options):
        config = model.denoise.replace(**setting)
        answers, milliseconds = measure(model, cases, config, options.batch)
        first = first or answers
        row = {"preset": setting.get("preset", "")} | {name: getattr(config, name) for name in SHOWN}
        row |= summary(answers)
        row |= {"same": round(same(answers, first), 4), "cpu_ms": round(milliseconds, 1)}
        print("  ".join(f"{name} {value}" for name, value in row.items() if value != ""), flush=True)
        if options.csv:
            append(options.csv, [{**run, **row}])


if __name__ == "__main__":
    main()
