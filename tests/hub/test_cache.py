"""The hub cache as it is found: every verb sees the same models, whatever is missing, and removes what it
lists."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgemma.cli import doctor
from dgemma.cli.main import app
from dgemma.errors import DgemmaError, HubError, UsageError
from dgemma.hub import locate as locating
from dgemma.hub.cache import snapshots
from dgemma.hub.locate import list_models, locate, remove
from tests.weights import gguf_files
from tests.weights.weights_helpers import write_folder

NAME = "me/tiny"
COMMIT, OTHER = "abc123456789" + "0" * 28, "abd" + "1" * 37


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(locating, "EMBEDDED", tmp_path / "no-embedded")
    return tmp_path / "cache"


def fill(
    cache: Path,
    commit: str = COMMIT,
    ref: str | None = None,
    name: str = NAME,
    shards: int = 1,
    files: Path | None = None,
) -> Path:
    """A snapshot as the hub client lays it out: links to blobs that are called by their hash."""
    home = cache / ("models--" + name.replace("/", "--"))
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    origin = files or write_folder(cache.parent / f"origin-{commit}-{shards}", shards=shards)
    for path in origin.iterdir():
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (folder / path.name).symlink_to(os.path.relpath(blob, folder))
    if ref is not None:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    return folder


def listed() -> dict[str, str]:
    return {f"{model.name}@{model.revision[:12]}": model.state for model in list_models()}


def every_verb_finds(name: str, folder: Path) -> None:
    """`locate` is what run, serve, quantize ... ask; doctor and ls look for themselves."""
    assert locate(name) == folder
    assert doctor.examine(name).model["folder"] == str(folder)
    assert folder in {model.path for model in list_models()}


@pytest.mark.parametrize(
    "name", [NAME, f"{NAME}@{COMMIT}", f"{NAME}@{COMMIT[:12]}", f"{NAME}@{COMMIT[:7]}", f"hf.co/{NAME}"]
)
def test_a_snapshot_without_a_ref(cache: Path, name: str) -> None:
    folder = fill(cache)
    every_verb_finds(name, folder)
    assert listed() == {f"{NAME}@{COMMIT[:12]}": "ok"}
    if "hf.co" not in name:
        assert CliRunner().invoke(app, ["rm", "--yes", name]).exit_code == 0
        assert listed() == {} and not folder.parents[1].exists()


def test_several_snapshots_without_main_must_be_chosen_from(cache: Path) -> None:
    fill(cache)
    other = fill(cache, OTHER, "dev")
    with pytest.raises(HubError, match=f"say which: {NAME}@{COMMIT[:12]}, {NAME}@{OTHER[:12]}"):
        locate(NAME)
    every_verb_finds(f"{NAME}@dev", other)
    with pytest.raises(HubError, match="there: "):
        locate(f"{NAME}@ab")
    with pytest.raises(HubError, match="there: "):
        locate(f"{NAME}@v9")


# What follows the @ of a name that stands for no revision of COMMIT, although each looks much like it.
NO_REVISION = {
    "one digit": COMMIT[:1],
    "one digit too few": COMMIT[:6],
    "from its middle": COMMIT[1:9],
    "its end": COMMIT[-8:],
    "in capitals": COMMIT[:12].upper(),
    "one digit too many": COMMIT + "0",
    "a wrong last digit": COMMIT[:11] + "f",
}


@pytest.mark.parametrize("revision", NO_REVISION.values(), ids=NO_REVISION)
def test_what_is_no_revision_finds_nothing_and_removes_nothing(cache: Path, revision: str) -> None:
    """Also where there is only one snapshot that could be meant."""
    folder = fill(cache)
    for act in (locate, remove):
        with pytest.raises(HubError, match="there: "):
            act(f"{NAME}@{revision}")
        with pytest.raises(HubError, match="there: "):
            act(NAME, revision)
    assert CliRunner().invoke(app, ["rm", "--yes", f"{NAME}@{revision}"]).exit_code != 0
    every_verb_finds(NAME, folder)


def test_the_beginning_of_two_commits_stands_for_neither(cache: Path) -> None:
    near = COMMIT[:7] + "f" * 33
    folders = [fill(cache), fill(cache, near)]
    for act in (locate, remove):
        with pytest.raises(HubError, match=f"say which: {NAME}@{COMMIT[:12]}, {NAME}@{near[:12]}"):
            act(f"{NAME}@{COMMIT[:7]}")
    assert all(folder.exists() for folder in folders)
    remove(f"{NAME}@{near[:8]}")
    assert folders[0].exists() and not folders[1].exists()


@pytest.mark.parametrize("ref", ["v1", "main"])
def test_a_ref_that_leads_nowhere(cache: Path, ref: str) -> None:
    folder = fill(cache, ref="main" if ref == "v1" else None)
    (folder.parents[1] / "refs").mkdir(exist_ok=True)
    (folder.parents[1] / "refs" / ref).write_text("f" * 40)
    every_verb_finds(NAME, folder)
    assert listed() == {f"{NAME}@{COMMIT[:12]}": "ok"}
    assert remove(NAME) > 0 and listed() == {}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("index", [True, False])
def test_weights_that_are_still_being_fetched(cache: Path, shards: int, index: bool) -> None:
    folder = fill(cache, ref="main", shards=shards)
    weights = sorted(folder.glob("model*.safetensors"))[-1]
    blob = weights.resolve()
    blob.rename(blob.with_name(blob.name + ".incomplete"))
    if not index:
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    for _ in range(2):  # the link leads nowhere; then it is not even there
        with pytest.raises(
            HubError, match=f"only partly in the cache; `dgemma pull {NAME}` fetches the rest"
        ):
            locate(NAME)
        (state,) = listed().values()
        assert state != "ok"
        weights.unlink(missing_ok=True)
    assert remove(NAME) > 0
    assert listed() == {} and not list(folder.parents[1].parent.glob("models--*"))


def test_a_damaged_model_hides_no_other(cache: Path) -> None:
    whole = fill(cache, name="me/whole", ref="main")
    (fill(cache, name="me/odd", ref="main").parents[1] / "refs" / "x").mkdir()
    broken = fill(cache, name="me/broken", ref="main")
    next(broken.glob("model*")).resolve().unlink()
    (cache / "models--me--nothing" / "snapshots").mkdir(parents=True)
    (cache / "models--me--file").touch()
    (broken.parents[1] / "snapshots" / ".DS_Store").touch()
    assert [name.partition("@")[0] for name in listed()] == ["me/broken", "me/odd", "me/whole"]
    every_verb_finds("me/whole", whole)


def test_what_two_revisions_share_stays_until_both_are_gone(cache: Path) -> None:
    first = fill(cache, ref="main")
    second = fill(cache, OTHER, "v2")
    shared = (first / "model.safetensors").resolve()
    assert shared == (second / "model.safetensors").resolve()
    remove(f"{NAME}@{COMMIT[:8]}")
    assert not first.exists() and shared.exists() and not (first.parents[1] / "refs" / "main").exists()
    every_verb_finds(NAME, second)
    size = shared.stat().st_size
    assert remove(NAME, "v2") >= size and not shared.exists()


def test_a_blob_that_is_shared_between_models_is_not_taken_from_the_other(cache: Path) -> None:
    """A model whose blobs are links out of its folder: only the links are its own."""
    folder = fill(cache, ref="main")
    store = cache / "blobs" / "ab" / "x"
    store.parent.mkdir(parents=True)
    blob = (folder / "model.safetensors").resolve()
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    every_verb_finds(NAME, folder)
    remove(NAME)
    assert store.exists() and not folder.exists()


@pytest.fixture(scope="module")
def gguf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_files.write_model(tmp_path_factory.mktemp("gguf") / "x.gguf")


def test_each_gguf_file_of_the_cache_is_a_model_of_its_own(
    cache: Path, tmp_path: Path, gguf_model: Path
) -> None:
    origin = tmp_path / "files"
    origin.mkdir()
    (origin / "m-Q4_K_M.gguf").write_bytes(gguf_model.read_bytes())
    (origin / "m-Q8_0.GGUF").write_bytes(gguf_model.read_bytes() + b"x")
    (origin / "mmproj-m.gguf").write_bytes(b"pictures")
    (origin / "other.gguf").write_bytes(b"GGUF of something else")
    folder = fill(cache, ref="main", files=origin)
    assert {name: state == "ok" for name, state in listed().items()} == {
        f"{NAME}:Q4_K_M@{COMMIT[:12]}": True, f"{NAME}:Q8_0@{COMMIT[:12]}": False,
    }  # fmt: skip
    every_verb_finds(f"{NAME}:Q4_K_M", folder / "m-Q4_K_M.gguf")
    assert locate(f"{NAME}@{COMMIT[:9]}:m-q8_0") == folder / "m-Q8_0.GGUF"
    with pytest.raises(UsageError, match=f"stands for 3 files; name one: {NAME}:Q4_K_M, {NAME}:Q8_0"):
        locate(NAME)
    with pytest.raises(HubError, match="dgemma pull me/tiny:Q5_K_M"):
        locate(f"{NAME}:Q5_K_M")
    size = (folder / "m-Q8_0.GGUF").stat().st_size
    assert remove(f"{NAME}:Q8_0") == size
    assert list(listed()) == [f"{NAME}:Q4_K_M@{COMMIT[:12]}"]
    assert remove(f"{NAME}:Q4_K_M") > size and listed() == {} and not folder.exists()


def test_other_programs_models_are_not_listed(cache: Path) -> None:
    folder = fill(cache, ref="main")
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "other"}))
    assert listed() == {} and len(snapshots()) == 1
    with pytest.raises(HubError, match="not in the cache"):
        remove(NAME)
    with pytest.raises(DgemmaError):
        remove("(embedded)")
    with pytest.raises(UsageError):
        remove("../x")
