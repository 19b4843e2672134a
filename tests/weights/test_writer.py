import json
import stat

import pytest
import torch
from safetensors.torch import load_file
from .weights_helpers import tiny_config, tiny_state

from dgemma.config import DenoiseConfig, ModelConfig
from dgemma.errors import CheckpointError, NumericsError, UsageError
from dgemma.weights.layout import INDEX, inspect
from dgemma.weights.names import expected_tensors
from dgemma.weights.writer import save

TOKENIZER = '{"version": "1.0"}'


def model_state() -> dict[str, torch.Tensor]:
    state = tiny_state()
    return {target.model_name: state[name] for name, target in expected_tensors(tiny_config()).items()}


def write(folder, state=None, **options):
    items = (model_state() if state is None else state).items()
    return save(folder, tiny_config(), DenoiseConfig(), items, TOKENIZER, **options)


@pytest.mark.parametrize("shard_bytes", [10**9, 2000])
def test_what_is_written_is_sound_and_equal(tmp_path, shard_bytes):
    folder = write(tmp_path / "new", dtype=torch.float32, shard_bytes=shard_bytes)
    layout = inspect(folder, tiny_config())
    stored = {}
    for path in layout.files:
        stored |= load_file(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    state = tiny_state()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)
    assert (folder / INDEX).exists() == (shard_bytes == 2000) == (len(layout.files) > 1)
    assert ModelConfig.from_file(folder / "config.json") == tiny_config()
    assert DenoiseConfig.from_file(folder / "generation_config.json") == DenoiseConfig()
    assert (folder / "tokenizer.json").read_text() == TOKENIZER
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_shards_stay_below_their_limit_and_the_index_adds_up(tmp_path):
    folder = write(tmp_path / "new", dtype=torch.bfloat16, shard_bytes=3000)
    layout, index = inspect(folder, tiny_config()), json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == layout.total_bytes
    for path in layout.files:
        sizes = [tensor.nbytes for tensor in layout.tensors.values() if tensor.file == path]
        assert sum(sizes) <= 3000 or len(sizes) == 1


def test_the_default_is_bfloat16_and_config_says_so(tmp_path):
    folder = write(tmp_path / "new")
    assert inspect(folder, tiny_config()).dtypes.keys() == {"BF16"}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def broken(**changes):
    state = model_state()
    for name, tensor in changes.items():
        if tensor is None:
            state.pop(name.replace("__", "."))
        else:
            state[name.replace("__", ".")] = tensor
    return state


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (broken(norm__weight=None), CheckpointError, "'norm.weight' was not given"),
        (broken(other=torch.zeros(1)), CheckpointError, "'other' is unknown"),
        (broken(norm__weight=torch.zeros(3)), CheckpointError, r"'norm.weight' has the shape \[3\]"),
        (broken(norm__weight=torch.full((16,), torch.nan)), NumericsError, "'norm.weight' holds NaN"),
        (broken(norm__weight=torch.full((16,), 1e6)), NumericsError, "as torch.float16"),
    ],
)
def test_a_wrong_state_leaves_nothing_behind(tmp_path, state, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path / "new", state, dtype=torch.float16, shard_bytes=500)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_keeps_the_old_checkpoint(tmp_path):
    folder = write(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stops():
        yield from list(model_state().items())[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(folder, tiny_config(), DenoiseConfig(), stops(), TOKENIZER, shard_bytes=10, replace=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_replacing_keeps_what_is_not_ours_and_drops_old_shards(tmp_path):
    folder = write(tmp_path / "model", shard_bytes=2000)
    (folder / "NOTICE").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write(folder)
    write(folder, replace=True)
    names = {path.name for path in folder.iterdir()}
    assert names == {"NOTICE", "config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
    inspect(folder, tiny_config())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_that_are_no_checkpoint_are_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    with pytest.raises(UsageError, match="other things than a checkpoint"):
        write(tmp_path / "thesis", replace=True)
    with pytest.raises(UsageError, match="not a folder"):
        write(tmp_path / "thesis" / "chapter.txt", replace=True)
    (tmp_path / "empty").mkdir()
    inspect(write(tmp_path / "empty"), tiny_config())


def test_the_tokenizer_may_be_a_file(tmp_path):
    (tmp_path / "t.json").write_text(TOKENIZER)
    items = model_state().items()
    folder = save(tmp_path / "new", tiny_config(), DenoiseConfig(), items, tmp_path / "t.json")
    assert (folder / "tokenizer.json").read_text() == TOKENIZER
    with pytest.raises(CheckpointError, match="none.json"):
        save(tmp_path / "other", tiny_config(), DenoiseConfig(), items, tmp_path / "none.json")
    assert not (tmp_path / "other").exists()
