"""Loading with less memory than weights: layers are read from the files, tokens and refusals stay what they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import dgemma
from dgemma.cli.main import app
from dgemma.errors import ResourceError, UsageError
from dgemma.hub.locate import EMBEDDED
from dgemma.kernels.ops.vocab import head, soft_capped_logits
from dgemma.kernels.quant.formats import bytes_of
from dgemma.memory.placement import placement
from dgemma.weights.source import source
from tests.helpers import tiny_checkpoint


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint with experts in INT4."""
    folder = tmp_path_factory.mktemp("few") / "int4"
    done = CliRunner().invoke(
        app, ["quantize", "(embedded)", str(folder), "--format", "int4", "--no-compare"]
    )
    assert done.exit_code == 0, done.output
    return folder


def whole(folder: Path, dtype: str) -> int:
    """Bytes of memory in which everything fits, just."""
    found = source(folder)
    config = found.config()
    plan = placement(config, dtype, "cpu", 10**12, formats=found.layout(config).formats)
    return plan.device_bytes * 4 // 3 + 8  # the margin of a small memory is a quarter


def text(model: dgemma.api.Model) -> str:
    return model.generate("def read(path):", 64, max_denoising_steps=4).text


def two_steps(model: dgemma.api.Model) -> list[torch.Tensor]:
    """A first step and one that starts from its belief: everything that a table which is packed, or only for a product, goes into."""
    net, canvas = model.net, torch.arange(100, 132)[None]
    softcap, heat, uniforms = net.config.final_logit_softcapping, torch.ones(1), torch.full((1, 32, 2), 0.5)
    cache = net.new_cache()
    net.encode(torch.arange(3, 40)[None], [cache])
    first = head(net.denoise(canvas, [cache]), net.table, softcap, heat, uniforms)
    second = net.denoise(canvas, [cache], (first.p, first.row_sum))
    return [first.p, first.entropy, second, soft_capped_logits(second, net.table, softcap)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["int4", "bf16"])
def test_layers_that_stream_give_the_same_text(kind: str, dtype: str, few: Path) -> None:
    folder = few if kind == "int4" else EMBEDDED
    resident = dgemma.load(folder, "cpu", dtype)
    most, want = whole(folder, dtype), text(resident)
    enough = dgemma.load(folder, "cpu", dtype, memory=most)
    assert enough.net.layers.offload is None and text(enough) == want
    tight = dgemma.load(folder, "cpu", dtype, memory=int(0.95 * most))
    assert tight.net.layers.offload is not None and any("layers are read" in note for note in tight.notes)
    assert text(tight) == want
    assert all(
        torch.equal(one, other) for one, other in zip(two_steps(tight), two_steps(resident), strict=True)
    )
    assert (
        tight.engine.scheduler.budget < enough.engine.scheduler.budget * 1.3
    )  # what the embedding's copies leave is theirs


def test_a_model_in_few_bits_has_the_copies_that_were_planned(few: Path) -> None:
    """Counted by what the config says: of a model in few bits a large part are no parameters."""
    model = dgemma.load(few, "cpu", "bfloat16")
    plan = placement(
        model.config, "bfloat16", "cpu", 10**12, formats=source(few).layout(model.config).formats
    ).plan
    parts = (*model.net.packed[0], model.net.packed[1]) if model.net.packed else ()
    copies = [
        part for part in parts if part.is_mkldnn or part.data_ptr() != model.net.embed.weight.data_ptr()
    ]
    assert sum(map(bytes_of, copies)) == plan.packed


def test_a_start_does_not_load_torchs_compiler() -> None:
    """It is 74 MB of Python and more than a second, and a first draw of weights that nobody uses would ask for it."""
    code = (
        "import sys, dgemma; model = dgemma.load(device='cpu'); model.generate('x', 4, max_denoising_steps=2); "
        "print([name for name in ('torch._dynamo', 'sympy', 'triton') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_fault_of_the_text_is_told_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{")
    monkeypatch.setattr("dgemma.api.loading.load_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(dgemma.errors.DgemmaError, match="tokenizer.json"):
        dgemma.load(folder, "cpu")


def test_too_little_memory_is_refused_with_the_numbers(few: Path) -> None:
    with pytest.raises(ResourceError, match="missing even where 6 layers stream"):
        dgemma.load(few, "cpu", "bfloat16", memory="12MB")
    with pytest.raises(UsageError, match="memory is 'much'"):
        dgemma.load(few, "cpu", memory="much")
    with pytest.raises(ResourceError, match="the model needs"):  # nothing streams that is to be trained
        dgemma.load(
            EMBEDDED, "cpu", "bfloat16", memory=int(0.95 * whole(EMBEDDED, "bfloat16")), trainable=True
        )


def test_a_damaged_file_is_refused_when_it_is_mapped(few: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in few.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    found = source(copy)
    layout = found.layout(found.config())
    bad = layout.text["layers.3.experts.down_proj"].matrices[5]["weight_scale"]
    raw = bytearray(bad.file.read_bytes())
    raw[bad.offset : bad.offset + 2] = (
        torch.tensor([float("inf")], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    )
    bad.file.write_bytes(raw)
    with pytest.raises(dgemma.errors.CheckpointError, match="layers.3.experts.5.down_proj.* is damaged"):
        dgemma.load(copy, "cpu", "bfloat16", memory=int(0.9 * whole(copy, "bfloat16")))
