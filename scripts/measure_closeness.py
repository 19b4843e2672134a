"""How far the forms of each operation differ: the measured side of the limits in tests/closeness.py.

    python scripts/measure_closeness.py [--seeds 3] [TEST PATHS ...] [options of pytest]

Runs the kernels' tests once per seed, with every seed of theirs moved on, and prints for each operation and dtype the largest
errors of the right forms, and the smallest of the twins that must fail. No limit decides anything meanwhile. Trap: it measures
the forms that run on this machine; a card (DGEMMA_TEST_DEVICE=cuda) or a processor with bf16 units has others.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.tensor  # its annotations name torch.Generator, which Watch stands in for

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import closeness, helpers  # noqa: E402

Errors = dict[tuple[str, str], list[closeness.Limit]]  # by operation and dtype
STRIDE = 1_000_003  # between the seeds of two runs


class Watch:
    """Stands in for the checks of tests/closeness.py and for torch's generators, whose seeds it moves on."""

    def __init__(self) -> None:
        self.right: Errors = defaultdict(list)
        self.twins: Errors = defaultdict(list)
        self.offset = 0

    def assert_close(
        self, got: Any, want: Any, dtype: str = "float32", spread: float = 0.0, *, op: str = "model"
    ) -> None:
        self.right[op, dtype].append(closeness.closeness(got, want))

    def is_close(
        self, got: Any, want: Any, dtype: str = "float32", spread: float = 0.0, *, op: str = "model"
    ) -> bool:
        self.twins[op, dtype].append(closeness.closeness(got, want))
        return closeness.is_close(got, want, dtype, spread, op=op)

    def generator(self, *arguments: Any, real: Any = torch.Generator) -> Any:
        made, watch = real(*arguments), self

        class Moved:
            def manual_seed(self, seed: int) -> torch.Generator:
                seeded: torch.Generator = made.manual_seed(seed + watch.offset)
                return seeded

        return Moved()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("tests", nargs="*", default=["tests/kernels"])
    options, more = parser.parse_known_args()
    watch = Watch()
    helpers.assert_close, helpers.is_close = watch.assert_close, watch.is_close
    torch.Generator = watch.generator  # type: ignore[misc, assignment]
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    for run in range(options.seeds):
        watch.offset = run * STRIDE
        pytest.main([*quiet, *more, *options.tests])
    print(f"{'operation':28}{'dtype':10}{'checks':>7}{'largest':>10}{'RMS':>10}{'twin':>10}{'its RMS':>10}")
    for op, dtype in sorted(watch.right):
        right, twins = watch.right[op, dtype], watch.twins.get((op, dtype), [])
        figures = [max(error.largest for error in right), max(error.rms for error in right)]
        figures += [min(error.largest for error in twins), min(error.rms for error in twins)] if twins else []
        print(f"{op:28}{dtype:10}{len(right):7}" + "".join(f"{figure:10.1e}" for figure in figures))


if __name__ == "__main__":
    main()
