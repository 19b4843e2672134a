import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dgemma.errors import CheckpointError
from dgemma.weights.names import expected_tensors
from dgemma.weights.reader import inspect, load_into, stream

from .weights_helpers import StandIn, stand_in, tiny_config, tiny_state, write_folder

UP = "model.decoder.layers.0.mlp.up_proj.weight"


def layout_of(folder, state=None, shards=1):
    return inspect(write_folder(folder, state, shards), tiny_config())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shards", [1, 3])
def test_stream_gives_what_the_library_reads(tmp_path, stored, shards):
    layout = layout_of(tmp_path, tiny_state(dtype=stored), shards)
    library = {}
    for path in layout.files:
        library |= load_file(path)
    names = {target.model_name: name for name, target in expected_tensors(tiny_config()).items()}
    seen = dict(stream(layout, "cpu", stored))
    assert seen.keys() == names.keys()
    assert all(torch.equal(tensor, library[names[name]]) for name, tensor in seen.items())


def test_stream_converts_and_counts(tmp_path):
    layout, reports = layout_of(tmp_path), []
    tensors = dict(stream(layout, "cpu", torch.bfloat16, lambda *report: reports.append(report)))
    state = tiny_state()
    assert torch.equal(tensors["layers.0.mlp.up_proj.weight"], state[UP].to(torch.bfloat16))
    assert len(reports) == len(state) and reports[-1][:2] == (layout.text_bytes, layout.text_bytes)
    assert {name for _, _, name in reports} == set(state)


def test_tensors_do_not_depend_on_the_file_once_read(tmp_path):
    layout = layout_of(tmp_path)
    tensors = dict(stream(layout, "cpu", torch.float32))
    before = tensors["embed.weight"].clone()
    layout.files[0].write_bytes(bytes(layout.files[0].stat().st_size))
    assert torch.equal(tensors["embed.weight"], before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite_name_file_and_tensor(tmp_path, value, dtype):
    state = tiny_state(dtype=dtype)
    state[UP][3, 5] = value
    with pytest.raises(CheckpointError, match=rf"model.safetensors: tensor '{UP}' holds NaN or infinite"):
        list(stream(layout_of(tmp_path, state), "cpu", torch.float32))


def test_values_too_large_for_the_dtype_are_named(tmp_path):
    state = tiny_state(dtype=torch.float64)
    state[UP][0, 0] = 1e300
    layout = layout_of(tmp_path, state)
    with pytest.raises(CheckpointError, match=rf"'{UP}' does not fit into torch.float32"):
        list(stream(layout, "cpu", torch.float32))
    list(stream(layout, "cpu", torch.float64))


def test_a_file_that_shrinks_after_the_check_is_an_error_not_a_crash(tmp_path):
    layout = layout_of(tmp_path)
    os.truncate(layout.files[0], layout.files[0].stat().st_size - 1)
    with pytest.raises(CheckpointError, match="truncated inside tensor"):
        list(stream(layout, "cpu", torch.float32))
    layout.files[0].unlink()
    with pytest.raises(CheckpointError, match="not readable"):
        list(stream(layout, "cpu", torch.float32))


def test_load_into_fills_a_module_exactly(tmp_path):
    module, state = stand_in(), tiny_state()
    assert load_into(module, layout_of(tmp_path), "cpu", torch.float32) == []
    loaded = module.state_dict()
    for name, target in expected_tensors(tiny_config()).items():
        assert torch.equal(loaded.pop(target.model_name), state[name])
    assert loaded == {}
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert isinstance(module.get_buffer("layers.0.layer_scalar"), torch.Tensor)


def test_load_into_the_model(tmp_path):
    build = pytest.importorskip("dgemma.model.build")
    module = build.build(tiny_config(), device="meta")
    load_into(module, layout_of(tmp_path), "cpu", torch.bfloat16)
    tensors = [*module.parameters(), *module.buffers()]
    assert not any(tensor.is_meta for tensor in tensors) and {tensor.dtype for tensor in tensors} == {
        torch.bfloat16
    }
    assert torch.equal(module.layers[0].mlp.up_proj.weight, tiny_state()[UP].to(torch.bfloat16))


def test_meta_reads_nothing(tmp_path):
    layout, module = layout_of(tmp_path), stand_in()
    layout.files[0].unlink()
    load_into(module, layout, "meta", torch.bfloat16)
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in module.parameters())


def test_a_module_that_does_not_match_is_refused_before_reading(tmp_path):
    layout = layout_of(tmp_path)
    layout.files[0].unlink()  # reading would fail with another message
    shapes = {target.model_name: target.shape for target in expected_tensors(tiny_config()).values()}
    more = StandIn(shapes | {"layers.0.mlp.bias": (3,)})
    with pytest.raises(CheckpointError, match="the model's 'layers.0.mlp.bias' has no tensor"):
        load_into(more, layout, "cpu", torch.float32)
    fewer = StandIn({name: shape for name, shape in shapes.items() if name != "norm.weight"})
    with pytest.raises(CheckpointError, match="'model.decoder.norm.weight' would go unused"):
        load_into(fewer, layout, "cpu", torch.float32)
    other = StandIn(shapes | {"norm.weight": (17,)})
    with pytest.raises(
        CheckpointError, match=r"norm.weight' has the shape \[16\], the model asks for \[17\]"
    ):
        load_into(other, layout, "cpu", torch.float32)


def test_trainable_parameters_stay_trainable(tmp_path):
    module = stand_in().requires_grad_(True)
    load_into(module, layout_of(tmp_path), "cpu", torch.float32)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert isinstance(module.get_parameter("embed.weight"), nn.Parameter)


def test_differing_layer_scalars_and_vision_are_noted(tmp_path):
    state = tiny_state() | {"model.encoder.vision_tower.std_bias": torch.zeros(4)}
    state["model.encoder.language_model.layers.1.layer_scalar"] += 0.5
    notes = load_into(stand_in(), layout_of(tmp_path, state), "cpu", torch.float32)
    assert len(notes) == 2 and "vision" in notes[0]
    assert "layer_scalar differs" in notes[1] and "layers 1;" in notes[1]
