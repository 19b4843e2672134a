"""The picture of measured rows is XML that stands alone, names every row, and shows lengths in proportion."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dgemma.bench.plot import draw, ticks

SVG = "{http://www.w3.org/2000/svg}"
CURVE = Path(__file__).resolve().parents[2] / "scripts" / "training_curve.py"


def row(
    recipe: str, ms: float, limit: float, requests: int = 1, rate: float = 100.0, parts: bool = False
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "recipe": recipe,
        "step_ms": ms,
        "limit_ms": limit,
        "requests": requests,
        "tokens_per_second": rate,
    }
    if parts:
        made["profile"] = [
            {"operation": "experts", "ms": 0.75 * ms, "limit_ms": limit},
            {"operation": "everything else", "ms": 0.25 * ms, "limit_ms": None}, {"operation": "step", "ms": ms, "limit_ms": limit},
        ]  # fmt: skip
    return made


def words(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def widths(svg: str, kind: str) -> list[float]:
    """Of the bars of a kind, the squares of legends left out."""
    bars = (bar for bar in ElementTree.fromstring(svg).iter(f"{SVG}rect") if bar.get("class") == kind)
    return [float(bar.get("width")) for bar in bars if bar.get("height") != "10"]


def test_every_row_is_named_and_drawn_in_proportion() -> None:
    svg = draw([row("fixed16", 40.0, 10.0), row("short", 20.0, 5.0)], "a title")
    assert {"a title", "fixed16", "short", "40 ms", "20 ms"} <= set(words(svg))
    took, least = widths(svg, "f0"), widths(svg, "limit")
    assert took == pytest.approx([4 * least[0], 4 * least[1]], abs=0.3) and took[0] == pytest.approx(
        2 * took[1], abs=0.3
    )
    assert (
        "polyline" not in svg
        and "prefers-color-scheme:dark" in svg
        and "href" not in svg
        and "url(" not in svg
    )


def test_load_is_a_line_beside_the_ideal_one() -> None:
    svg = draw([row("load x1", 10, 5, 1, 100.0), row("load x2", 12, 5, 2, 150.0)], "t")
    measured, ideal = (
        [[float(part) for part in point.split(",")] for point in line.get("points").split()]
        for line in ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    )
    assert (
        measured[0] == ideal[0] and measured[1][0] == ideal[1][0] and measured[1][1] > ideal[1][1]
    )  # y grows downwards


def test_parts_are_stacked_and_named() -> None:
    svg = draw([row("fixed16", 40.0, 10.0, parts=True)], "t")
    assert {"experts", "everything else"} <= set(words(svg)) and "ms per step" not in words(svg)
    assert widths(svg, "f0")[0] == pytest.approx(3 * widths(svg, "f1")[0], abs=3)


@given(st.text(max_size=30), st.text(max_size=30))
def test_names_cannot_break_the_file(recipe: str, title: str) -> None:
    svg = draw([row(recipe, 3.0, 1.0)], title)
    assert svg.encode("utf-8")
    assert {"".join(c if c.isprintable() else "?" for c in name) or None for name in (recipe, title)} <= set(
        words(svg)
    )


def test_a_name_that_is_not_escaped_would() -> None:
    broken = draw([row("NAME", 3.0, 1.0)], "t").replace("NAME", "a < b & c")
    with pytest.raises(ElementTree.ParseError):
        ElementTree.fromstring(broken)


@example(0.6)  # 0.6 / 0.2 < 3 in floating point
@given(st.floats(1e-6, 1e9))
def test_ticks_are_round_and_few(high: float) -> None:
    found = ticks(high)
    assert 4 <= len(found) <= 6 and found[0] == 0 and found[-1] <= high * (1 + 1e-6)


def test_the_training_curve_is_drawn_with_it() -> None:
    spec = importlib.util.spec_from_file_location("training_curve", CURVE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    first, last = (
        {"tokens": "0", "next_token": "8", "canvas": "5"},
        {"tokens": "2000000", "next_token": "4", "canvas": "3"},
    )
    svg = script.svg([first, last])
    assert {"next token, nats per token", "canvas, nats per position", "million tokens read"} <= set(
        words(svg)
    )
