import errno
import importlib
import json
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dgemma.config import DenoiseConfig, ModelConfig
from dgemma.errors import CheckpointError, NumericsError, ResourceError, UsageError
from dgemma.weights.layout import INDEX, inspect
from dgemma.weights.names import expected_tensors
from dgemma.weights.writer import _recover, save

from .weights_helpers import tiny_config, tiny_state

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
    assert names == {
        "NOTICE",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "model.safetensors",
        "SHA256SUMS",
    }
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


def killed_at(step: str, number: int, when: str, work) -> int:
    """Do some work in a process that is killed before or after its `number`-th call of a function. -> how it ended."""
    if (child := os.fork()) == 0:
        owner_name, _, name = step.rpartition(".")
        owner = importlib.import_module(owner_name)
        real, count = getattr(owner, name), [0]

        def last(*arguments, **options):
            count[0] += 1
            if count[0] == number and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(*arguments, **options)
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, name, last)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process of its own")
@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize(
    "step", ["os.replace", "os.link", "shutil.rmtree", "shutil.copytree", "dgemma.weights.writer.sync_folder"]
)
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_save_that_is_killed_anywhere_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, can_exchange, step, number, when
):
    folder = write(tmp_path / "model")
    (folder / "NOTICE").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine too")
    if not can_exchange:
        monkeypatch.setattr("dgemma.weights.writer.exchange", lambda *_: False)
    changed = {name: tensor + 1 for name, tensor in model_state().items()}
    ended = killed_at(step, number, when, lambda: write(folder, changed, replace=True))
    assert ended in (0, signal.SIGKILL)
    if can_exchange and sys.platform == "linux":  # nobody has to mend anything
        inspect(folder, tiny_config())
    _recover(folder)
    inspect(folder, tiny_config())
    assert (folder / "NOTICE").read_text() == "mine" and (
        folder / "notes" / "a.txt"
    ).read_text() == "mine too"
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "what was left is gone"


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced: set[int] = set()
    real, rename = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), real(handle))[1])

    def checked(new, name):
        new = Path(new)
        for path in [new, *new.rglob("*")]:
            assert path.stat().st_ino in synced, f"{path} has its name before it is on the disk"
        rename(new, name)
        seen.append(Path(name).name)

    seen: list[str] = []
    monkeypatch.setattr("os.replace", checked)
    write(tmp_path / "model", shard_bytes=2000)
    assert seen == ["SHA256SUMS", "model"] and tmp_path.stat().st_ino in synced


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    other = tmp_path / f".model.{os.getppid()}.partial"
    other.mkdir()
    (tmp_path / ".model.notes.partial").mkdir()
    write(tmp_path / "model")
    assert other.exists() and (tmp_path / ".model.notes.partial").exists()


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, ResourceError), (errno.EROFS, UsageError), (errno.EACCES, UsageError)]
)
@pytest.mark.parametrize("by", ["library", "system"])
def test_a_disk_that_takes_no_more_is_one_line_and_nothing_is_lost(tmp_path, monkeypatch, code, kind, by):
    old = write(tmp_path / "model")

    def full(*_, **__):
        if by == "library":
            raise SafetensorError(
                f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})"
            )
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("dgemma.weights.writer.save_file", full)
    with pytest.raises(kind, match=f"{old}: .*{os.strerror(code)}") as caught:
        write(old, replace=True)
    assert "\n" not in str(caught.value) and (
        kind is UsageError or "are free; make room" in str(caught.value)
    )
    inspect(old, tiny_config())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
