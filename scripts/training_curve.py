"""Draw a run's metrics.csv as docs/training.svg: nats against tokens read, both losses.

    python scripts/training_curve.py benchmarks/results/training.csv docs/training.svg

Plain SVG, no library: the picture is two lines and two axes.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 360, 48, 36, 16
SERIES = (("next_token", "next token, nats per token", "#d9822b"), ("canvas", "canvas, nats per position", "#2b7bd9"))


def svg(rows: list[dict[str, str]]) -> str:
    """The curve of rows with the columns tokens, next_token and canvas."""
    most = max(int(row["tokens"]) for row in rows)
    high = max(float(row["next_token"]) for row in rows)

    def x(tokens: float) -> float:
        return LEFT + (WIDTH - LEFT - 12) * tokens / most

    def y(nats: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * nats / high

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']  # fmt: skip
    for nats in range(int(high) + 1):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y(nats):.1f}" y2="{y(nats):.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(nats) + 4:.1f}" text-anchor="end">{nats}</text>')
    for i in range(6):
        tokens = most * i / 5
        parts.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{tokens / 1e6:.1f} M</text>')
    for place, (name, label, colour) in enumerate(SERIES):
        points = " ".join(f"{x(int(row['tokens'])):.1f},{y(float(row[name])):.1f}" for row in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 20}" y="{TOP + 14 + 16 * place}" text-anchor="end" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(source: str, target: str) -> None:
    with open(source, newline="") as file:
        Path(target).write_text(svg(list(csv.DictReader(file))))


if __name__ == "__main__":
    main(*sys.argv[1:3])
