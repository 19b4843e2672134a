import json
import os

import pytest
import torch
from safetensors.torch import save_file

from dgemma.config import ModelConfig
from dgemma.errors import CheckpointError
from dgemma.weights import copies
from dgemma.weights.layout import INDEX, inspect, problems, read_layout
from dgemma.weights.names import expected_tensors
from dgemma.weights.reader import load_into

from .weights_helpers import raw_file, stand_in, tiny_config, tiny_state, write_folder

UP = "model.decoder.layers.0.mlp.up_proj.weight"
SHARD2 = "model-00002-of-00003.safetensors"


def one_problem(folder) -> str:
    found = problems(folder, tiny_config())
    assert len(found) == 1 and "\n" not in found[0], found
    with pytest.raises(CheckpointError) as caught:
        inspect(folder, tiny_config())
    assert str(caught.value) == found[0]
    return found[0]


def edit_index(folder, change) -> None:
    raw = json.loads((folder / INDEX).read_text())
    change(raw["weight_map"])
    (folder / INDEX).write_text(json.dumps(raw))


@pytest.mark.parametrize(("shards", "index"), [(1, False), (3, True), (3, False)])
def test_a_sound_folder(tmp_path, shards, index):
    layout = inspect(write_folder(tmp_path, shards=shards, index=index), tiny_config())
    assert set(layout.text) == {target.model_name for target in expected_tensors(tiny_config()).values()}
    assert len(layout.files) == shards and layout.dtypes == {"F32": layout.total_bytes}
    assert layout.total_bytes == layout.text_bytes == sum(tensor.nbytes for tensor in tiny_state().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_readable_dtypes(tmp_path, dtype):
    inspect(write_folder(tmp_path, tiny_state(dtype=dtype)), tiny_config())


def test_missing_and_misnamed_tensors(tmp_path):
    state = tiny_state()
    del state[UP]
    assert f"tensor '{UP}' is missing" in one_problem(write_folder(tmp_path / "missing", state))
    state = tiny_state()
    state[UP.replace("up_proj", "up_prj")] = state.pop(UP)
    found = problems(write_folder(tmp_path / "misnamed", state), tiny_config())
    assert len(found) == 2
    assert f"'{UP}' is missing; is it 'model.decoder.layers.0.mlp.up_prj.weight'?" in found[0]
    assert f"is it '{UP}'?" in found[1] and "model.safetensors" in found[1]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lm_head.weight", (280, 17), "tied"),
        ("lm_head.bias", (280,), "tied"),
        ("model.encoder.language_model.layers.0.mlp.up_proj.weight", (16, 24), "share"),
        ("model.decoder.layers.2.self_attn.v_proj.weight", (12, 16), "describes no such tensor"),
        ("model.decoder.layers.3.layer_scalar", (1,), "describes no such tensor"),
        ("model.decoder.layers.0.mlp.up_proj.weight_scale", (24,), "quantised"),
    ],
)
def test_a_tensor_nobody_would_use_is_an_error_with_its_name(tmp_path, name, shape, message):
    problem = one_problem(write_folder(tmp_path, tiny_state() | {name: torch.zeros(shape)}))
    assert f"unexpected tensor '{name}'" in problem and message in problem


def test_a_wrong_shape_and_a_quantised_dtype(tmp_path):
    problem = one_problem(write_folder(tmp_path / "a", tiny_state() | {UP: torch.zeros(16, 24)}))
    assert f"'{UP}' has the shape [16, 24], config.json asks for [24, 16]" in problem
    eight_bit = torch.zeros(24, 16).to(torch.float8_e4m3fn)
    problem = one_problem(write_folder(tmp_path / "b", tiny_state() | {UP: eight_bit}))
    assert f"'{UP}' is stored as F8_E4M3" in problem


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_one_number_may_have_any_shape(tmp_path, shape):
    state = {
        name: value.reshape(shape) if name.endswith("layer_scalar") else value
        for name, value in tiny_state().items()
    }
    module = stand_in()
    load_into(module, inspect(write_folder(tmp_path, state), tiny_config()), "cpu", torch.float32)
    for name, value in module.state_dict().items():
        if name.endswith("layer_scalar"):
            assert value.shape == (1,)


HEAD = "lm_head.weight"
EMBEDDING = "model.decoder.embed_tokens.weight"
ENCODER_UP = UP.replace("decoder", "encoder.language_model")


@pytest.mark.parametrize(
    ("copy", "original"), [(HEAD, EMBEDDING), ("model.lm_head.weight", EMBEDDING), (ENCODER_UP, UP)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_second_copy_of_a_tied_tensor_is_accepted_where_it_is_equal(
    tmp_path, copy, original, dtype, monkeypatch
):
    monkeypatch.setattr(copies, "PIECE", 100)
    state = tiny_state(dtype=torch.bfloat16)
    layout = inspect(
        write_folder(tmp_path, state | {copy: state[original].to(dtype, copy=True)}), tiny_config()
    )
    assert copy in layout.notes()[0]
    copies.check_copies(layout)
    other = state[original].to(dtype, copy=True)
    other[-1, -1] += 1
    layout = inspect(write_folder(tmp_path, state | {copy: other}), tiny_config())
    with pytest.raises(CheckpointError, match=f"'{copy}' differs from '{original}'"):
        copies.check_copies(layout)


def test_vision_is_recognised_and_reported(tmp_path):
    state = tiny_state() | {"model.encoder.vision_tower.std_bias": torch.zeros(1000)}
    layout = inspect(write_folder(tmp_path, state), tiny_config())
    assert [tensor.name for tensor in layout.vision] == ["model.encoder.vision_tower.std_bias"]
    assert layout.vision_bytes == 4000 and "not used yet" in layout.notes()[0]
    assert inspect(write_folder(tmp_path / "text"), tiny_config()).notes() == []


def test_duplicates_across_shards(tmp_path):
    folder = write_folder(tmp_path, shards=3)
    extra = {UP: tiny_state()[UP]}
    save_file(extra, folder / "model-extra.safetensors")
    edit_index(
        folder, lambda names: names.update({"model.encoder.vision_tower.x": "model-extra.safetensors"})
    )
    found = problems(folder, tiny_config())
    assert any(f"'{UP}' stands in model-00" in line and "too" in line for line in found)
    unindexed = write_folder(tmp_path / "unindexed", shards=3, index=False)
    save_file(extra, unindexed / "model-extra.safetensors")
    assert "stands in" in one_problem(unindexed)


def test_shards_missing_from_disk_or_index(tmp_path):
    folder = write_folder(tmp_path / "disk", shards=3)
    (folder / SHARD2).unlink()
    problem = one_problem(folder)
    assert f"{SHARD2}: the shard is missing" in problem and "tensor 'model." in problem
    folder = write_folder(tmp_path / "noindex", shards=3, index=False)
    (folder / SHARD2).unlink()
    assert f"{SHARD2}: the shard is missing" in problems(folder, tiny_config())[0]
    folder = write_folder(tmp_path / "stray", shards=3)
    save_file({"x": torch.zeros(1)}, folder / "model-stray.safetensors")
    assert "model-stray.safetensors: on disk, but" in one_problem(folder)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("damage", [False, True])
def test_of_a_folder_that_was_saved_twice_the_single_file_is_read(tmp_path, index, damage):
    folder = write_folder(tmp_path, tiny_state(seed=1), shards=3, index=index)
    write_folder(tmp_path, tiny_state(seed=2))
    if damage:
        (folder / SHARD2).unlink()
    layout = inspect(folder, tiny_config())
    assert [path.name for path in layout.files] == ["model.safetensors"]
    assert "was saved twice" in layout.notes()[0]


def test_index_and_headers_must_agree(tmp_path):
    folder = write_folder(tmp_path / "wrong", shards=3)
    here = json.loads((folder / INDEX).read_text())["weight_map"][UP]
    other = next(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3) if f"0000{n}-" not in here)
    edit_index(folder, lambda names: names.update({UP: other}))
    assert f"tensor '{UP}' is said to stand in {other}, but stands in {here}" in one_problem(folder)
    folder = write_folder(tmp_path / "unlisted", shards=3)
    edit_index(folder, lambda names: names.pop(UP))
    assert f"tensor '{UP}' is not in {INDEX}" in one_problem(folder)
    folder = write_folder(tmp_path / "ghost", shards=3)
    edit_index(folder, lambda names: names.update({"model.decoder.ghost": here}))
    assert "tensor 'model.decoder.ghost' is missing" in one_problem(folder)


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "a/model.safetensors",
        "..",
        "model\0.safetensors",
        "model.bin",
    ],
)
def test_an_index_may_not_point_outside_its_folder(tmp_path, file):
    write_folder(tmp_path)  # ../model.safetensors exists and is sound
    folder = write_folder(tmp_path / "sub", shards=3)
    edit_index(folder, lambda names: names.update({UP: file}))
    first = problems(folder, tiny_config())[0]
    assert f"tensor '{UP}' is put into {file!r}" in first and INDEX in first


def test_links_out_of_the_folder_are_refused_but_hub_cache_links_are_followed(tmp_path):
    real = write_folder(tmp_path / "models--org--name" / "blobs") / "model.safetensors"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(real, snapshot))
    assert inspect(snapshot, tiny_config()).problems == ()
    outside = tmp_path / "plain"
    outside.mkdir()
    (outside / "model.safetensors").symlink_to(real)
    assert "a link to a file outside" in problems(outside, tiny_config())[0]
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(write_folder(tmp_path / "elsewhere") / "model.safetensors")
    assert "a link to a file outside" in problems(snapshot, tiny_config())[0]
    (outside / "model.safetensors").unlink()
    (outside / "model.safetensors").symlink_to(outside / "model.safetensors")
    assert problems(outside, tiny_config())


def test_a_damaged_shard_is_told_once(tmp_path):
    folder = write_folder(tmp_path, shards=3)
    os.truncate(folder / SHARD2, (folder / SHARD2).stat().st_size - 1)
    assert f"{SHARD2}: truncated inside tensor" in one_problem(folder)
    os.truncate(folder / SHARD2, 20)
    assert f"{SHARD2}: truncated" in one_problem(folder)
    raw_file(folder / SHARD2, "nonsense")
    assert f"{SHARD2}: not a safetensors file" in one_problem(folder)
    (folder / INDEX).unlink()
    assert f"{SHARD2}: not a safetensors file" in one_problem(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "{}", '{"x": ' + "9" * 5000 + "}", '{"weight_map": {"a\\n": "b"}}', '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "x", "a": "y"}}',
    ],
)  # fmt: skip
def test_an_index_that_is_no_index(tmp_path, text):
    folder = write_folder(tmp_path, shards=3)
    (folder / INDEX).write_text(text)
    assert INDEX in one_problem(folder)


def test_what_a_config_says_is_believed_as_far_as_there_are_tensors(tmp_path):
    """A number alone must not make lists: of 65,536 experts a layer, of 9,999 layers."""
    folder = write_folder(tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    for change in (
        {"num_experts": 65_536},
        {"num_hidden_layers": 9_999, "layer_types": None},
        {"vocab_size": 2**62},
        {"hidden_size": 2**40},
    ):
        config = ModelConfig.from_dict(raw | {"text_config": raw["text_config"] | change})
        for state in (tiny_state(), {}):
            found = problems(write_folder(tmp_path / str(len(state)), state or {"x": torch.zeros(1)}), config)
            assert 0 < len(found) < 1000 and all(len(line) < 500 for line in found)


def test_no_weights_at_all(tmp_path):
    assert "no such folder" in one_problem(tmp_path / "none")
    assert "no model*.safetensors" in one_problem(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert "pytorch_model.bin is a format this build does not read" in one_problem(tmp_path)


def test_doctor_sees_all_problems_and_the_error_says_how_many(tmp_path):
    state = tiny_state() | {"lm_head.weight": torch.zeros(1)}
    del state[UP]
    folder = write_folder(tmp_path, state)
    assert len(problems(folder, tiny_config())) == 2
    with pytest.raises(CheckpointError, match=r"is missing .and 1 more: `dgemma doctor"):
        inspect(folder, tiny_config())


def test_without_a_config_the_structure_is_still_read(tmp_path):
    layout = read_layout(write_folder(tmp_path), None)
    assert layout.problems == () and layout.text == {} and len(layout.tensors) == len(tiny_state())
