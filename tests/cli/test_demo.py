"""`dgemma demo`: five parts, plain in a pipe; what a model wrote is run where it may import nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dgemma.cli import demo
from dgemma.cli.main import main
from tests.helpers import tiny_checkpoint


def test_it_shows_five_parts_with_any_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also with one that writes nonsense: then it says that the code does not run."""
    folder = tiny_checkpoint(tmp_path / "model", canvas_length=24)
    assert main(["demo", "--model", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^\d\. (.*)$", shown, re.M) == ["Ask", "Fill a gap", "Edit", "Decide", "Race"]
    assert "\x1b" not in shown
    assert "it does not run" in shown
    assert re.search(r"^positive +\d", shown, re.M) and re.search(r"^[\d.]+ times as fast", shown, re.M)


def test_a_right_answer_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    demo.execute("def squares(numbers):\n    return [n * n for n in numbers]\n")
    assert capsys.readouterr().out == ">>> squares([1, 2, 3, 4, 10])\n[1, 4, 9, 16, 100]\n"
    demo.execute("import os\ndef f(x):\n    return os.getcwd()\n")
    assert "it does not run" in capsys.readouterr().out
