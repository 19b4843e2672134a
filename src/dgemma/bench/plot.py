"""Measured rows as one SVG file that needs nothing beside it.

It draws steps beside their limits, the parts of a step, and tokens/s under load. Colours are chosen in the
file's own style sheet, for light and for dark pages; the background is the page's. Knows rows as
`dgemma bench --json` prints them, and measures nothing. Trap: names come from users, so every text goes
through `text`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

WIDTH = 720
LEFT = 150
RIGHT = 70
LINE = 16
# Series in a fixed order; ninth and last is grey, for what has no name of its own.
LIGHT = ("#2a78d6", "#eb6834", "#1baf7a", "#eda100", "#e87ba4", "#008300", "#4a3aa7", "#e34948", "#8b8a85")
DARK = ("#3987e5", "#d95926", "#199e70", "#c98500", "#d55181", "#2e9a2e", "#9085e9", "#e66767", "#7d7c77")

# a name, its points, its colour; None: dashed, for what would be
Series = tuple[str, Sequence[tuple[float, float]], int | None]


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Words at a place; what XML cannot hold becomes a question mark."""
    clean = escape("".join(letter if letter.isprintable() else "?" for letter in words))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind or "ink"}">{clean}</text>'


def bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height}" class="{kind}"/>'


def document(parts: Sequence[str], height: float) -> str:
    """The whole file around its drawn parts."""

    style = (
        f".ink{{fill:#222}}.soft{{fill:#666}}.grid{{stroke:#ccc}}.limit{{fill:#b5b4ae}}"
        f".ideal{{stroke:#999;fill:none;"
        f"stroke-dasharray:4 4}}{_rules(LIGHT)}"
        f"@media(prefers-color-scheme:dark){{.ink{{fill:#eee}}.soft{{fill:#aaa}}"
        f".grid{{stroke:#444}}.limit{{fill:#62615c}}{_rules(DARK)}}}"
    )
    box = f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f"<style>{style}</style>", *parts, "</svg>", ""])


def _rules(colours: Sequence[str]) -> str:
    """The style sheet's rules for fills (.f0 ...) and strokes (.s0 ...)."""
    rules = []
    for i, colour in enumerate(colours):
        rules.append(f".f{i}{{fill:{colour}}}")
        rules.append(f".s{i}{{stroke:{colour};fill:none;stroke-width:2}}")
    return "".join(rules)


def lines(series: Sequence[Series], top: float, height: float, across: str) -> list[str]:
    """Axes from zero, a line per series and their names above.

    They take a band of the page from `top` on. across: what x counts.
    """
    every = [point for _, points, _ in series for point in points]
    most = max((x for x, _ in every), default=1.0) or 1.0
    high = max((y for _, y in every), default=1.0) or 1.0
    left = 60.0
    right = WIDTH - 20.0
    base = top + height - 2 * LINE
    peak = top + 2 * LINE

    def x(value: float) -> float:
        return left + (right - left) * value / most

    def y(value: float) -> float:
        return base - (base - peak) * value / high

    entries = [(name, "limit" if colour is None else f"f{colour}") for name, _, colour in series]
    parts = legend(entries, left, top + 10)
    for value in ticks(high):
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>')
        parts.append(text(left - 6, y(value) + 4, f"{value:g}", "end", "soft"))
    for value in ticks(most):
        parts.append(text(x(value), base + LINE, f"{value:g}", "middle", "soft"))
    parts.append(text(right, base + 2 * LINE - 2, across, "end", "soft"))
    for _, points, colour in series:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        kind = "ideal"
        if colour is not None:
            kind = f"s{colour}"
        parts.append(f'<polyline points="{path}" class="{kind}"/>')
    return parts


def ticks(high: float) -> list[float]:
    """Round numbers from 0 to at most `high`, four to six of them."""
    power = 10.0 ** math.floor(math.log10(high))
    steps = (power * part for part in (2.0, 1.0, 0.5, 0.25))
    step = next(step for step in steps if high / step >= 3 - 1e-9)  # 0.6 / 0.2 is a little less than 3
    return [step * i for i in range(int(high / step + 1e-9) + 1)]


def legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> list[str]:
    """A square and a name each, from left to right; `y` is the words' line."""
    parts = []
    for name, kind in entries:
        parts.append(bar(x, y - 9, 10, 10, kind))
        parts.append(text(x + 14, y, name))
        x += 28 + 6.5 * len(name)
    return parts


def draw(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Rows as bars, their parts where they have some, and the workload `load` as a line of tokens/s."""
    parts = [text(12, 22, title)]
    y = 30.0
    operations: list[dict[str, Any]] = next((row["profile"] for row in rows if row.get("profile")), [])
    colours = {part["operation"]: f"f{i}" for i, part in enumerate(operations[:-1])}
    key = list(colours.items()) or [("ms per step", "f0")]
    for start in range(0, len(key), 5):
        y += LINE
        entries = key[start : start + 5]
        if start + 5 >= len(key):
            entries.append(("the machine's limit", "limit"))
        parts += legend(entries, 12, y)
    most = max(_longest(row) for row in rows)
    scale = (WIDTH - LEFT - RIGHT) / most
    for row in rows:
        y += 2.25 * LINE
        parts += _row(row, y, scale, colours)
    loads = [row for row in rows if row["recipe"].startswith("load")]
    if len(loads) > 1:
        measured = [(float(row["requests"]), row["tokens_per_second"]) for row in loads]
        count, rate = measured[0]
        ideal = [(requests, requests * rate / count) for requests, _ in measured]
        series: list[Series] = [
            ("tokens/s of all requests", measured, 0),
            ("the first, so many times", ideal, None),
        ]
        parts += lines(series, y + 2.5 * LINE, 240, "requests at once")
        y += 2.5 * LINE + 240
    return document(parts, y + LINE)


def _longest(row: dict[str, Any]) -> float:
    """The longest bar of a row, in milliseconds."""
    inner = [part["ms"] for part in row.get("profile") or ()]
    longest: float = max(row["step_ms"], row["limit_ms"], *inner)
    return longest


def _row(row: dict[str, Any], y: float, scale: float, colours: dict[str, str]) -> list[str]:
    """A row's two bars: what a step took above the least it could take.

    The upper one is split by operation where that was measured.
    """
    parts = [text(LEFT - 8, y + 8, row["recipe"], "end")]
    x = float(LEFT)
    took = row["step_ms"]
    least = row["limit_ms"]
    if row.get("profile"):
        *inner, step = row["profile"]
        took = step["ms"]
        least = step["limit_ms"]
        for part in inner:
            width = part["ms"] * scale
            # 1: a gap between two colours
            parts.append(bar(x, y - 6, width - 1, 12, colours[part["operation"]]))
            x += width
    else:
        parts.append(bar(x, y - 6, took * scale, 12, "f0"))
    parts.append(text(LEFT + took * scale + 4, y + 4, f"{_number(took)} ms"))
    parts.append(bar(LEFT, y + 7, least * scale, 5, "limit"))
    parts.append(text(LEFT + least * scale + 4, y + 15, _number(least), kind="soft"))
    return parts


def _number(value: float) -> str:
    if value < 999.5:
        return f"{value:.3g}"
    return f"{value:,.0f}"
