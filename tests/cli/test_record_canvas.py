"""scripts/record_canvas.py: a frame per step, all of one size; the file light enough for a README."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .fakes import FakeModel

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "record_canvas.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_canvas", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = FakeModel("one\n", "two")

    def stream_fill(prefix: str, suffix: str, seed: int):
        return FakeModel.stream_fill(model, prefix, suffix, seed=seed, widths=[8, 16])

    model.stream_fill = stream_fill  # type: ignore[method-assign]
    monkeypatch.setattr(module.dgemma, "load", lambda name: model)
    return module


def arguments(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *given: str):
    monkeypatch.setattr(sys, "argv", ["record_canvas", *given])
    return script.arguments()


def test_a_frame_per_step_and_one_for_the_end(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    frames = script.settle(arguments(script, monkeypatch, "--prompt", "say\n", "--columns", "40"))
    shown = [[line.plain for line in lines] for lines in frames]
    assert [lines[0] for lines in shown] == ["say"] * 5
    assert [lines[-1].split(", ")[:2] for lines in shown[:4]] == [
        [f"canvas {c}", f"step {s}/48"] for c in (1, 2) for s in (1, 2)
    ]
    assert shown[1][1] == "az" and shown[3][1:3] == ["one", "az"] and shown[4][1:3] == ["one", "two"]
    gap = tmp_path / "gap.txt"
    gap.write_bytes(b"a\r\n<fill>\r\nb")
    frames = script.settle(arguments(script, monkeypatch, "--fill", str(gap)))
    assert len(frames) == 3 and [line.plain for line in frames[-1]][:3] == ["a", "GAP", "b"]


def test_the_picture(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    if not any(Path(font).is_file() for font in script.FONTS):
        pytest.skip("needs DejaVu Sans Mono")
    monkeypatch.setattr(
        sys, "argv", ["record_canvas", "--prompt", "say\n", "--out", str(tmp_path / "canvas")]
    )
    assert script.main() == 0
    with image.open(tmp_path / "canvas.gif") as moving, image.open(tmp_path / "canvas.png") as still:
        assert moving.n_frames == 5 and moving.size == still.size
        assert len(still.convert("RGB").getcolors(256)) > 3
    monkeypatch.setattr(script, "LARGEST", 10)
    assert script.main() == 1
