"""The published checkpoint's names, shapes and sizes as sparse files: first contact without its 51.6 GB."""

import json
import os

import pytest
import torch

import dgemma
from dgemma.config import ModelConfig
from dgemma.errors import CheckpointError
from dgemma.kernels.quant.formats import QuantTensor
from dgemma.memory.plan import estimate_memory
from dgemma.weights.names import expected_tensors
from dgemma.weights.reader import inspect, load_into, stream

from .weights_helpers import sparse_checkpoint

TOTAL = 51_647_562_456


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sparse_checkpoint().write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def layout(folder):
    return inspect(folder, ModelConfig.from_file(folder / "config.json"))


def test_files_of_full_size_that_take_no_disk(folder):
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) == 11
    assert sum(path.stat().st_size for path in files) > TOTAL
    assert sum(path.stat().st_blocks * 512 for path in folder.iterdir()) < 2 * 10**6


def test_every_name_is_accounted_for(layout):
    assert len(layout.tensors) == 1047 and layout.total_bytes == TOTAL and layout.dtypes == {"BF16": TOTAL}
    used = [tensor.name for tensor in layout.text.values()] + [tensor.name for tensor in layout.vision]
    assert sorted(used) == sorted(layout.tensors)
    assert len(layout.text) == 691 and len(layout.vision) == 356
    assert "356 vision tensors (1.15 GB)" in layout.notes()[0]


def test_the_model_builds_on_meta_from_it(layout):
    build = pytest.importorskip("dgemma.model.build")
    model = build.build(layout.config, device="meta")
    load_into(model, layout, "meta", torch.bfloat16)
    tensors = [*model.parameters(), *model.buffers()]
    assert len(tensors) == 691 and sum(tensor.numel() for tensor in tensors) == layout.text_bytes // 2
    assert all(tensor.is_meta and tensor.dtype == torch.bfloat16 for tensor in tensors)


def test_its_smallest_tensors_can_be_read(layout):
    text = {name: tensor for name, tensor in layout.text.items() if tensor.nbytes < 10**4}
    small = type(layout)(layout.folder, layout.config, layout.files, layout.tensors, text, ())
    shapes = {target.model_name: target.shape for target in expected_tensors(layout.config).values()}
    read = {name: tuple(tensor.shape) for name, tensor in stream(small, "cpu", torch.bfloat16)}
    assert len(read) > 300 and all(shapes[name] == shape for name, shape in read.items())


def test_twin_one_wrong_shape_among_them_is_found(tmp_path):
    table = [
        (name, (2815,) if name == "model.decoder.layers.17.router.scale" else shape)
        for name, shape in sparse_checkpoint().read_table()
    ]
    folder = sparse_checkpoint().write(tmp_path, table, shards=2)
    with pytest.raises(
        CheckpointError, match=r"model-0000.-of-00002.*: tensor '.*17.router.scale' .*\[2815\]"
    ):
        inspect(folder, ModelConfig.from_file(folder / "config.json"))


def test_twin_a_cut_shard_is_found(tmp_path):
    folder = sparse_checkpoint().write(tmp_path)
    shard = folder / "model-00007-of-00011.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="model-00007-of-00011.safetensors: truncated inside tensor"):
        inspect(folder, ModelConfig.from_file(folder / "config.json"))


# ---- the quantised repositories

# expected: (gigabytes of all files, tensors of the model in few bits)
LAYOUTS = {
    "fp8": (27.2, 265), "nvfp4": (16.45, 265), "modelopt": (18.8, 60), "int4": (18.8, 60), "gptq": (19.3, 60), "awq": (19.2, 60),
}  # fmt: skip


@pytest.fixture(scope="module", params=LAYOUTS)
def quantised(request, tmp_path_factory):
    folder = sparse_checkpoint().write(tmp_path_factory.mktemp(request.param), layout=request.param)
    return request.param, inspect(folder, ModelConfig.from_file(folder / "config.json"))


def test_a_quantised_repository_is_read_whole(quantised):
    name, layout = quantised
    size, matrices = LAYOUTS[name]
    assert layout.total_bytes / 1e9 == pytest.approx(size, abs=0.1) and len(layout.formats) == matrices
    used = [
        info.name for stored in layout.text.values() for fields in stored.matrices for info in fields.values()
    ]
    assert sorted(used + [info.name for info in layout.vision]) == sorted(layout.tensors)
    assert sum(path.stat().st_blocks * 512 for path in layout.folder.iterdir()) < 30 * 10**6


def test_the_model_builds_on_meta_from_a_quantised_repository(quantised):
    name, layout = quantised
    model = dgemma.load(layout.folder, device="meta")
    held = [
        value
        for module in model.net.modules()
        for value in vars(module).values()
        if isinstance(value, QuantTensor)
    ]
    plain = [*model.net.parameters(), *model.net.buffers()]
    assert len(held) == len(layout.formats) and len(held) + len(plain) == 691
    assert all(part.is_meta for weight in held for part in weight.parts.values())
    codes = sum(weight.parts["codes"].nbytes for weight in held)
    leaf = {"fp8": "weight", "modelopt": "weight", "gptq": "qweight", "awq": "qweight"}.get(
        name, "weight_packed"
    )
    stored = [
        fields[leaf] for one in layout.text.values() if one.format is not None for fields in one.matrices
    ]
    assert codes == sum(info.nbytes for info in stored)
    total = sum(weight.nbytes for weight in held) + sum(tensor.nbytes for tensor in plain)
    assert total == sum(one.kept(2) for one in layout.text.values())
    assert total == estimate_memory(layout.config, "bfloat16", 4096, formats=layout.formats).weight_bytes


def test_twin_a_quantised_repository_with_one_field_less_or_misshapen(tmp_path):
    sparse = sparse_checkpoint()
    rows, name = (
        sparse.quantised(sparse.read_table(), "modelopt"),
        "model.decoder.layers.7.experts.127.up_proj.weight_scale",
    )
    for number, (change, message) in enumerate([
        (lambda row: [], f"tensor '{name}' is missing"),
        (lambda row: [(name, (704, 88), "F8_E4M3")], rf"'{name}' has the shape \[704, 88\], but .* so \[704, 176\]"),
        (lambda row: [(name, row[1], "U8")], f"'{name}' is stored as U8"),
    ]):  # fmt: skip
        table = [kept for row in rows for kept in (change(row) if row[0] == name else [row])]
        folder = sparse.write(tmp_path / str(number), table)
        config = json.loads((folder / "config.json").read_text()) | {
            "quantization_config": sparse.description("modelopt")
        }
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            inspect(folder, ModelConfig.from_file(folder / "config.json"))
