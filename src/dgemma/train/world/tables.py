"""Families of tables: CSV, JSON and Markdown, each into each, compared cell by cell."""

from __future__ import annotations

from typing import Any

from . import names
from .checks import Check, SameJson, SameTable
from .draw import KEYS, PARAPHRASES, WORDS, Draw
from .example import Example, ask
from .families import family
from .records import typed, written
from .words import COLORS, FRUITS, JOBS, THINGS

FORMS = ("CSV", "JSON", "Markdown")
_COLUMNS = ("name", "age", "city", "job", "color", "count", "item", "fruit", "price")
_HELD = (
    ("city", "count"),
    ("name", "price"),
    ("color", "age"),
)  # sets of columns that the train side never shows
Rows = list[dict[str, Any]]


def _cell(draw: Draw, column: str) -> Any:
    if column in ("age", "count", "price"):
        return draw.number(1, 99)
    if column in ("name", "city"):
        if column == "name":
            return names.person(draw)
        return names.city(draw)
    return draw.pick({"job": JOBS, "color": COLORS, "item": THINGS, "fruit": FRUITS}[column])


def _columns(draw: Draw) -> tuple[str, ...]:
    if draw.held == KEYS:
        draw.shown = True
        return draw.pick(_HELD)
    while True:
        columns = draw.some(_COLUMNS, draw.pick((2, 2, 3)))
        if draw.held == WORDS and not {"name", "city"} & set(columns):
            continue
        if not any(set(held) <= set(columns) for held in _HELD):
            return tuple(columns)


def _rows(draw: Draw) -> Rows:
    columns = _columns(draw)
    return [
        {column: _cell(draw, column) for column in columns}
        for _ in range(draw.pick((1, 2, 2, 3) if len(columns) < 3 else (1, 2, 2)))
    ]


def as_csv(rows: Rows) -> str:
    return "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])


def as_markdown(rows: Rows) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(str, row.values())) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _write(rows: Rows, file_format: str) -> tuple[str, Check]:
    cells = tuple(tuple(map(str, line)) for line in (rows[0], *(row.values() for row in rows)))
    if file_format == "JSON":
        return written(rows), SameJson(rows)
    if file_format == "CSV":
        return as_csv(rows), SameTable(cells, "csv")
    return as_markdown(rows), SameTable(cells, "markdown")


@family("table", weight=3, holdouts=(WORDS, KEYS, PARAPHRASES))
def table(draw: Draw) -> Example:
    rows = _rows(draw)
    source, target = draw.some(FORMS, 2)
    if source == "JSON":
        shown = typed(draw, rows)
    else:
        shown = _write(rows, source)[0]
    answer, check = _write(rows, target)
    named = (
        target
        if target != "Markdown"
        else draw.pick(("a Markdown table", "Markdown", "a markdown table", "a table"))
    )
    said = draw.way(
        "Turn this into {t} | Convert to {t} | Convert this to {t} | Make this {t} | As {t} | To {t} | "
        "Convert from {s} to {t} | Write this as {t} | "
        "Change this {s} to {t} | Convert this {s} to {t} | I need this as {t}"
    )
    return ask(
        draw.below(draw.dress(said).replace("{t}", named).replace("{s}", source), shown), answer, check
    )
