"""benchmarks/infill.py: a run that was killed goes on where it was, and nothing is left in the folder that it was started from."""

from __future__ import annotations

import json
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
    monkeypatch.setattr(infill, "commit", lambda: "first")
    return infill


def test_a_killed_run_goes_on_beside_its_results(infill: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, filled = tiny_checkpoint(tmp_path / "model"), infill.fill
    monkeypatch.setattr(sys, "argv", ["infill.py", "--model", str(model), "--gaps", "2", "--kinds", "word"])
    asked = []

    def fill_once(*arguments):
        if asked:
            raise KeyboardInterrupt
        asked.append(arguments)
        return filled(*arguments)

    monkeypatch.setattr(infill, "fill", fill_once)
    with pytest.raises(KeyboardInterrupt):
        infill.main()
    work = infill.RESULTS.with_suffix(".jsonl")
    assert len(work.read_text().splitlines()) == 1 and not infill.RESULTS.exists()
    asked.clear()
    infill.main()  # one gap is left to fill
    first, second = map(json.loads, work.read_text().splitlines())
    assert first["key"][-2] == 0 and second["key"][-2] == 1
    assert len(infill.RESULTS.read_text().splitlines()) == 3  # the columns, and a row of each way
    monkeypatch.setattr(infill, "commit", lambda: "second")
    monkeypatch.setattr(infill, "fill", filled)
    infill.main()  # another commit's gaps are its own
    assert len(work.read_text().splitlines()) == 4 and not [*Path.cwd().iterdir()]
