"""What a second turn and an edited one cost on a long history: the prefix cache against reading it all.

    python benchmarks/prefix.py [--model FOLDER] [--history 6000] [--answer 64] [--turn 40]

A prompt of random tokens is answered, then comes again with the answer and a turn behind it. Seconds from the request to its first
draft, in a process that has warmed up; for each history the first turn, the second, and the second in an engine without a cache.
Then the last turn of the first prompt comes in other words, where its start is marked and where only the ends of chunks are.
Appends a row to benchmarks/results/prefix.csv.
"""

from __future__ import annotations

import argparse
import datetime
import random
import time
from pathlib import Path

import torch
from about import append, commit, machine

import dgemma
from dgemma.config import EngineConfig
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, StepRecord, results

RESULTS = Path(__file__).parent / "results" / "prefix.csv"


def first_draft(engine: Engine, request: Request) -> float:
    """Seconds until the first step of a request is told."""
    start = time.perf_counter()
    records = engine.run([request])
    assert isinstance(next(records), StepRecord)
    seconds = time.perf_counter() - start
    records.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--history", type=int, default=6000)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--turn", type=int, default=40)
    options = parser.parse_args()
    model = dgemma.load(options.model)
    draw = random.Random(0)
    config = model.denoise.replace(eos_token_id=None)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(20, model.config.vocab_size) for _ in range(count))

    first_draft(Engine(model.net), Request(tokens(options.history), options.answer, config=config))  # warm
    engine, history = Engine(model.net), tokens(options.history)
    one = Request(history, options.answer, config=config)
    first = first_draft(engine, one)
    answer = results(engine.run([one]), 1)[0].token_ids
    two = Request((*history, *answer, *tokens(options.turn)), options.answer, config=config)
    second = first_draft(engine, two)
    uncached = first_draft(Engine(model.net, EngineConfig(prefix_cache=0)), two)
    turn, edits = options.history - options.turn, []
    for marks in ((turn,), ()):
        engine = Engine(model.net)
        first_draft(engine, Request(history, options.answer, config=config, marks=marks))
        edited = Request((*history[:turn], *tokens(options.turn)), options.answer, config=config, marks=marks)
        edits.append((first_draft(engine, edited), engine.last.clean))
    (marked, read), (unmarked, read_unmarked) = edits
    row = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "threads": torch.get_num_threads(),
        "model": options.model or "shipped", "history": options.history, "answer": options.answer, "turn": options.turn,
        "first_ms": round(1e3 * first, 1), "second_ms": round(1e3 * second, 1), "second_uncached_ms": round(1e3 * uncached, 1),
        "share": round(second / uncached, 4), "edited_ms": round(1e3 * marked, 1), "edited_read": read,
        "edited_unmarked_ms": round(1e3 * unmarked, 1), "edited_unmarked_read": read_unmarked,
    }  # fmt: skip
    print(row)
    append(RESULTS, [row])


if __name__ == "__main__":
    main()
