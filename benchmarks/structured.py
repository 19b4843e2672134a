"""How many random satisfiable JSON schemas are answered, on any checkpoint: every reply is validated, every error counted.

    python benchmarks/structured.py [MODEL] [--count 300] [--max-tokens 128]

Prints one line: schemas, valid replies, invalid replies (must be 0), errors (at most 5 %), by kind, steps per canvas. Schemas are those of
the tests (tests/tasks/schemas.py), drawn by Hypothesis, the same at every run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import jsonschema
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dgemma  # noqa: E402
from dgemma.errors import UsageError  # noqa: E402
from tests.tasks.schemas import schemas  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--max-tokens", type=int, default=128)
    asked = parser.parse_args()
    model, found, steps = dgemma.load(asked.model), Counter(), []

    @settings(max_examples=asked.count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=[*HealthCheck])  # fmt: skip
    @given(schemas())
    def each(schema: dict) -> None:
        found["schemas"] += 1
        try:
            got = model.generate("An example:\n", asked.max_tokens, seed=found["schemas"], json_schema=schema)
        except UsageError as error:
            found[f"error: {str(error)[:40]}"] += 1
            return
        steps.extend(got.steps)
        try:
            jsonschema.validate(json.loads(got.text), schema)
            found["valid"] += 1
        except (ValueError, jsonschema.ValidationError):
            found["INVALID"] += 1

    each()
    print(dict(found), f"{sum(steps) / max(1, len(steps)):.1f} steps per canvas")


if __name__ == "__main__":
    main()
