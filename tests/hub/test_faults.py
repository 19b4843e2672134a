"""Faults of folders, caches and hubs, found by a sweep of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.errors import HubError, UsageError
from dgemma.hub.client import hub_errors
from dgemma.hub.locate import list_models, locate, remove
from dgemma.hub.names import parse_hub_name
from dgemma.weights.layout import INDEX, read_layout
from tests.weights.weights_helpers import tiny_config, write_folder


def test_a_shard_name_longer_than_a_file_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", shards=2)
    raw = json.loads((folder / INDEX).read_text())
    raw["weight_map"][min(raw["weight_map"])] = f"model{'x' * 5000}.safetensors"
    (folder / INDEX).write_text(json.dumps(raw))
    assert any("the shard is missing" in problem for problem in read_layout(folder, tiny_config()).problems)


def test_an_index_that_is_a_link_to_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / INDEX).symlink_to("gone")
    assert any("no such file" in problem for problem in read_layout(folder, tiny_config()).problems)


def test_a_git_lfs_pointer_is_called_so(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n"
    )
    assert ["git lfs pull" in problem for problem in read_layout(folder, tiny_config()).problems] == [True]


@pytest.mark.parametrize("name", ["aé/b", "a/b.git", "a/b-", "a/b.", "a./b"])
def test_names_that_the_hub_client_refuses(name: str) -> None:
    with pytest.raises(UsageError, match="neither a folder nor a hub name"):
        parse_hub_name(name)


def test_a_ref_that_is_no_text(tmp_path: Path) -> None:
    refs = tmp_path / "models--o--m" / "refs"
    refs.mkdir(parents=True)
    (refs.parent / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (refs / "main").write_bytes(b"\xff\xfe")
    assert "o/m" not in {model.name for model in list_models(tmp_path)}
    write_folder(refs.parent / "snapshots" / ("a" * 40))
    assert locate("o/m", cache_dir=tmp_path).name == "a" * 40, "it leads nowhere, and hides nothing"
    assert ("o/m", "ok") in {(model.name, model.state) for model in list_models(tmp_path)}


def test_what_could_not_be_deleted_is_not_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    write_folder(tmp_path / "models--o--m" / "snapshots" / commit)
    (tmp_path / "models--o--m" / "blobs").mkdir()
    (tmp_path / "models--o--m" / "refs").mkdir()
    (tmp_path / "models--o--m" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(
        "dgemma.hub.cache._delete", lambda *_, **__: None
    )  # the client logs its failure, no more
    with pytest.raises(HubError, match="could not be deleted"):
        remove("o/m", cache_dir=tmp_path)


def test_settings_that_the_client_chokes_on() -> None:
    with pytest.raises(HubError, match="HF_ENDPOINT"), hub_errors("o/m", None):
        raise ValueError("Port out of range 0-65535")
