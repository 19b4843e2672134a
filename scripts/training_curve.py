"""Draw a run's metrics.csv as docs/training.svg: nats against tokens read, both losses.

python scripts/training_curve.py benchmarks/results/training.csv docs/training.svg
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from dgemma.bench.plot import document, lines

HEIGHT = 360
SERIES = (("next_token", "next token, nats per token", 1), ("canvas", "canvas, nats per position", 0))


def svg(rows: list[dict[str, str]]) -> str:
    """The curve of rows with the columns tokens, next_token and canvas."""
    read = [int(row["tokens"]) / 1e6 for row in rows]
    series = [
        (label, list(zip(read, (float(row[name]) for row in rows), strict=True)), colour)
        for name, label, colour in SERIES
    ]
    return document(lines(series, 16, HEIGHT - 24, "million tokens read"), HEIGHT)


def main(source: str, target: str) -> None:
    with open(source, newline="") as file:
        Path(target).write_text(svg(list(csv.DictReader(file))))


if __name__ == "__main__":
    main(*sys.argv[1:3])
