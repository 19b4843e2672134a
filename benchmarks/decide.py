"""Typed decisions: ms a request against the number of questions, and against generating an answer (docs/numbers.md).

    python benchmarks/decide.py [--model FOLDER] [--rounds 9]

A state of about 500 tokens, one to sixteen questions of three types in one request. `again`: the same state was read before, so
that the prefix cache has it; `generated` is one short answer to the same state, 16 tokens in a canvas of 16, its prompt cached as well.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import dgemma

QUESTIONS = (
    {"type": "noul", "instructions": "Does it open a file?"},
    {
        "type": "choice",
        "instructions": "What is it?",
        "criteria": {"code": None, "prose": None, "data": None},
    },
    {"type": "score", "instructions": "How hard is it to read?", "criteria": ["easy", "fair", "hard"]},
)


def milliseconds(call: Any, rounds: int, before: Any = None) -> float:
    """The median of some calls; `before` each, something that is not counted."""
    taken = []
    for number in range(rounds + 1):
        if before:
            before(number)
        start = time.perf_counter()
        call(number)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    model = dgemma.load(options.model)
    text = (Path(__file__).parent / "about.py").read_text()[:1600]
    print(f"state of {len(model.tokenizer.encode(text))} tokens")
    for count in (1, 4, 16):
        asked = {str(number): QUESTIONS[number % 3] for number in range(count)}
        first = milliseconds(
            lambda number, asked=asked: model.decide(f"# {len(asked)} {number}\n{text}", asked),
            options.rounds,
        )
        again = milliseconds(
            lambda number, asked=asked: model.decide(text, asked, seed=number), options.rounds
        )
        print(f"{count} questions: {first:.0f} ms, {again:.0f} ms again")
    print(
        f"generated: {milliseconds(lambda number: model.generate(text, 16, seed=number), options.rounds):.0f} ms"
    )


if __name__ == "__main__":
    main()
