"""benchmarks/sampler.py, and what benchmarks keep: rows of settings, of other columns, changes in pairs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import tiny_checkpoint

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """measured(*arguments): the rows that the script adds to one file, all so far."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sampler

    model, table = tiny_checkpoint(tmp_path / "model"), tmp_path / "rows.csv"

    def run(*arguments: str) -> list[dict[str, str]]:
        few = ["--families", "sum", "--count", "2", "--csv", str(table)]
        monkeypatch.setattr(sys, "argv", ["sampler.py", "--model", str(model), *few, *arguments])
        sampler.main()
        with table.open(newline="") as file:
            return list(csv.DictReader(file))

    return run


def test_a_grid_asks_the_train_side_and_presets_the_held_out_one(
    measured: Callable[..., list[dict[str, str]]],
) -> None:
    grid = measured(
        "--temperatures", "0.8:0.4,0.5:0.2", "--bounds", "0.5", "--confidences", "0.1", "--steps", "3"
    )
    assert [(row["t_max"], row["t_min"]) for row in grid] == [("0.8", "0.4"), ("0.5", "0.2")]
    assert {(row["side"], row["answers"], row["entropy_bound"]) for row in grid} == {("train", "2", "0.5")}
    assert float(grid[0]["same"]) == 1
    assert all(float(row["steps"]) <= 3 for row in grid)
    rows = measured("--presets", "exact", "cool", "--widths", "8", "12")
    assert rows[:2] == grid
    found = [(row["preset"], row["canvas_width"], row["side"]) for row in rows[2:]]
    assert found == [(name, width, "test") for name in ("exact", "cool") for width in ("8", "12")]


def test_where_no_prompt_is_left_the_script_says_so(
    measured: Callable[..., list[dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        measured("--longest", "1")
    assert "--longest" in capsys.readouterr().err


def test_rows_of_other_columns_give_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from about import append

    path = tmp_path / "rows.csv"
    append(path, [{"a": 1, "b": 2}])
    append(path, [{"a": 3, "b": 4}])
    assert path.read_text().split() == ["a,b", "1,2", "3,4"]
    append(path, [{"a": 5, "c": 6}])
    assert path.read_text().split() == ["a,c", "5,6"]


def test_changes_are_those_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from formats import changed

    assert changed([10.0, 30.0], [11.0, 33.0], [1.0, 3.0]) == (pytest.approx(0.1), pytest.approx(0.0))
    change, error = changed(
        [10.0, 10.0], [10.0, 12.0]
    )  # differences 0 and 2: their sum's error is sqrt(2 * 2) of 20
    assert change == pytest.approx(0.1) and error == pytest.approx(0.1)
