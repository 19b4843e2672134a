"""benchmarks/infill.py: gaps inside words keep their file, and each kind and way has a row."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import tiny_checkpoint

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def infill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, whose results go elsewhere, started from an empty folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import infill

    results, start = tmp_path / "results" / "infill.csv", tmp_path / "start"
    results.parent.mkdir()
    start.mkdir()
    monkeypatch.chdir(start)
    monkeypatch.setattr(infill, "RESULTS", results)
    return infill


def test_a_gap_inside_a_word_is_the_rest_of_its_line(infill: ModuleType) -> None:
    for example in infill.examples_of("word", seed=0, count=30):
        start, end = example.gap
        assert infill.around(example, example.answer) == example.text
        assert example.text[start - 1].isidentifier() and example.text[start].isidentifier()
        assert "\n" not in example.answer and example.text[end : end + 1] in ("", "\n")
        word = example.check.end
        assert example.check.right(example.answer) and example.check.right(word + " and something else")
        assert not example.check.right(word + "s") and not example.check.right(word[:-1])


def test_what_stands_in_the_files_parses(infill: ModuleType) -> None:
    assert all(infill.parses(example.text) for example in infill.examples_of("gap", seed=0, count=20))
    assert not infill.parses("def f(:")


def test_each_kind_and_way_has_a_row(
    infill: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", ["infill.py", "--model", str(model), "--count", "2"])
    infill.main()
    with infill.RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["gap"], row["widths"]) for row in rows] == [
        (kind, way) for kind in infill.KINDS for way in ("several", "one")
    ]
    assert all(
        row["answers"] == "2" and 1 <= float(row["steps"]) <= float(row["passes"]) <= 6 for row in rows
    )
    assert [row["parses"] == "" for row in rows] == [
        kind == "text_gap" for kind in infill.KINDS for _ in range(2)
    ]
    assert not [*Path.cwd().iterdir()]
