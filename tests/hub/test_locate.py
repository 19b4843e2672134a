from pathlib import Path

import pytest

from dgemma.errors import CheckpointError, HubError, UsageError
from dgemma.hub import locate as module
from dgemma.hub.locate import EMBEDDED, list_models, locate, remove
from dgemma.weights.source import is_chat_tuned
from tests.weights.weights_helpers import write_folder


def test_a_folder_is_itself(tmp_path, monkeypatch):
    assert locate(tmp_path) == locate(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert locate("org/name") == Path("org/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/org") == tmp_path / "org"


@pytest.mark.parametrize("name", ["/none/at/all", "./none", "~/none-here", "a/b/c"])
def test_a_path_that_is_missing_is_said_to_be_missing(name, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        locate(name, cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        locate(Path("org/name"), cache_dir=tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x.bin").touch()
    with pytest.raises(UsageError, match="name a .gguf file, or the folder"):
        locate(str(tmp_path / "x.bin"))


def test_a_gguf_file_is_a_checkpoint_and_so_is_the_folder_of_one(tmp_path, monkeypatch):
    file = tmp_path / "x.gguf"
    with pytest.raises(CheckpointError, match="x.gguf: no such file"):
        locate(file)
    assert locate(tmp_path) == tmp_path
    file.touch()
    assert locate(file) == locate(str(file)) == locate(tmp_path) == file
    monkeypatch.chdir(tmp_path)
    assert locate("x.gguf") == Path("x.gguf")
    with pytest.raises(UsageError, match="a file has no revisions"):
        locate(file, "main")
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "X.GGUF").touch()
    assert locate(upper) == locate(str(upper / "X.GGUF")) == upper / "X.GGUF"
    with pytest.raises(CheckpointError, match="Y.GGUF: no such file"):
        locate("Y.GGUF")
    (tmp_path / "mmproj-x.gguf").touch()  # the part that sees pictures
    assert locate(tmp_path) == file
    (tmp_path / "y.gguf").touch()
    with pytest.raises(UsageError, match="holds 2 .gguf files; name one of them, such as .*x.gguf"):
        locate(tmp_path)
    write_folder(tmp_path)
    assert locate(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "name", ["name", "org/", "-org/name", "org/na--me", "org/name@a b", "org/name@a/../b", "org/na me"]
)
def test_names_that_are_neither(name, tmp_path):
    with pytest.raises(UsageError, match="neither a folder nor a hub name|is no revision"):
        locate(name, cache_dir=tmp_path)


def test_a_hub_name_is_looked_up_and_never_fetched(tmp_path):
    with pytest.raises(HubError, match=r"dgemma pull org/name@v1`"):
        locate("org/name@v1", cache_dir=tmp_path)
    home = tmp_path / "models--org--name"
    write_folder(home / "snapshots" / "abc1234")
    write_folder(home / "snapshots" / "abd9999")
    with pytest.raises(HubError, match=r"say which: org/name@abc1234, org/name@abd9999"):
        locate("org/name", cache_dir=tmp_path)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc1234\n")
    assert locate("org/name", cache_dir=tmp_path) == home / "snapshots" / "abc1234"
    assert locate("org/name@abd9999", cache_dir=tmp_path) == home / "snapshots" / "abd9999"
    for file in ("model.safetensors", "config.json"):
        (home / "snapshots" / "abc1234" / file).rename(tmp_path / file)
        with pytest.raises(HubError, match="only partly"):
            locate("org/name", cache_dir=tmp_path)
        (tmp_path / file).rename(home / "snapshots" / "abc1234" / file)


def test_none_is_the_shipped_checkpoint(tmp_path, monkeypatch):
    assert locate(None) == locate("(embedded)")
    monkeypatch.setattr(module, "EMBEDDED", tmp_path / "embedded")
    with pytest.raises(CheckpointError, match="ships no checkpoint"):
        locate(None)
    assert list_models(tmp_path / "cache") == []
    write_folder(tmp_path / "embedded")
    assert locate(None) == tmp_path / "embedded"
    (model,) = list_models(tmp_path / "cache")
    assert (model.name, model.state, model.dtype) == ("(embedded)", "ok", "f32")
    with pytest.raises(UsageError, match="part of the package"):
        remove("(embedded)")
    assert EMBEDDED.name == "embedded" and EMBEDDED.parent.name == "dgemma"


def test_a_chat_model_is_known_by_its_template(tmp_path):
    assert not is_chat_tuned(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 9}')
    assert not is_chat_tuned(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert is_chat_tuned(tmp_path)
