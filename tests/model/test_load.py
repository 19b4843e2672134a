"""Loading with less memory than weights: layers are read from the files, tokens and refusals stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import dgemma
from dgemma.cli.main import app
from dgemma.errors import ResourceError, UsageError
from dgemma.weights.locate import EMBEDDED
from dgemma.weights.placement import placement
from dgemma.weights.source import source


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint with experts in INT4."""
    folder = tmp_path_factory.mktemp("few") / "int4"
    done = CliRunner().invoke(app, ["quantize", "(embedded)", str(folder), "--format", "int4", "--no-compare"])
    assert done.exit_code == 0, done.output
    return folder


def whole(folder: Path, dtype: str) -> int:
    """Bytes of memory in which everything fits, just."""
    found = source(folder)
    config = found.config()
    plan = placement(config, dtype, "cpu", 10**12, formats=found.layout(config).formats)
    return plan.device_bytes * 8 // 7 + 8  # the margin of a small memory is an eighth


def text(model: dgemma.api.Model) -> str:
    return model.generate("def read(path):", 64, max_denoising_steps=4).text


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["int4", "bf16"])
def test_layers_that_stream_give_the_same_text(kind: str, dtype: str, few: Path) -> None:
    folder = few if kind == "int4" else EMBEDDED
    most, want = whole(folder, dtype), text(dgemma.load(folder, "cpu", dtype))
    enough = dgemma.load(folder, "cpu", dtype, memory=most)
    assert enough.net.layers.arrivals is None and text(enough) == want
    tight = dgemma.load(folder, "cpu", dtype, memory=int(0.95 * most))
    assert tight.net.layers.arrivals is not None and any("layers are read" in note for note in tight.notes)
    assert text(tight) == want
    assert tight.engine.slots.budget < enough.engine.slots.budget * 1.3  # what the embedding's copies leave is theirs


def test_too_little_memory_is_refused_with_the_numbers(few: Path) -> None:
    with pytest.raises(ResourceError, match="missing even where 6 layers stream"):
        dgemma.load(few, "cpu", "bfloat16", memory="20MB")
    with pytest.raises(UsageError, match="memory is 'much'"):
        dgemma.load(few, "cpu", memory="much")
    with pytest.raises(ResourceError, match="the model needs"):  # nothing streams that is to be trained
        dgemma.load(EMBEDDED, "cpu", "bfloat16", memory=int(0.95 * whole(EMBEDDED, "bfloat16")), trainable=True)


def test_a_damaged_file_is_refused_when_it_is_mapped(few: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in few.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    found = source(copy)
    layout = found.layout(found.config())
    bad = layout.text["layers.3.experts.down_proj"].matrices[5]["weight_scale"]
    raw = bytearray(bad.file.read_bytes())
    raw[bad.offset : bad.offset + 2] = torch.tensor([float("inf")], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    bad.file.write_bytes(raw)
    with pytest.raises(dgemma.errors.CheckpointError, match="layers.3.experts.5.down_proj.* is damaged"):
        dgemma.load(copy, "cpu", "bfloat16", memory=int(0.9 * whole(copy, "bfloat16")))
