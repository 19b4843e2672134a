import errno
import hashlib
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from dgemma.errors import CheckpointError, ConfigError, DgemmaError, HubError, ResourceError, UsageError
from dgemma.hub import client
from dgemma.hub.locate import list_models, locate, remove
from dgemma.hub.pull import PARTIAL, pull
from dgemma.weights.layout import inspect
from dgemma.weights.source import is_chat_tuned
from dgemma.weights.sums import SUMS, check_files, read_sums
from tests.weights import gguf_files
from tests.weights.weights_helpers import RAW, tiny_config, write_folder

from .hub_server import COMMIT, Hub, serve

NAME = "org/tiny-diffusion"
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits a second before it resumes
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100
    )  # a cut costs what is not yet a chunk


@pytest.fixture
def hub(tmp_path):
    folder = write_folder(tmp_path / "origin", shards=2)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files |= {
        "tokenizer.json": b'{"version": "1.0"}' * 50,
        "README.md": b"read me",
        "pytorch_model.bin": b"pickle",
    }
    files |= {"chat_template.jinja": b"{{ messages }}", "other.jinja": b"{{ 1 }}"}
    files |= {
        "modeling.py": b"import os",
        "onnx/model.safetensors": b"other",
        "adapter.safetensors": b"other",
    }
    with serve(Hub(NAME, files)) as server:
        yield server


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def fetch(hub, cache, name=NAME, **options):
    return pull(name, cache_dir=cache, endpoint=hub.url, **options)


def blob(hub, cache, file):
    return cache / "models--org--tiny-diffusion" / "blobs" / hub.digest(file)


def fault(hub, cache, error=HubError, **options) -> str:
    with pytest.raises(error) as caught:
        fetch(hub, cache, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pulled_model_is_whole_pinned_and_found_by_name(hub, cache):
    reports = []
    folder = fetch(hub, cache, progress=lambda *report: reports.append(report))
    assert folder.name == COMMIT and locate(NAME, cache_dir=cache) == folder
    assert locate(f"{NAME}@{COMMIT}", cache_dir=cache) == locate(NAME, "main", cache_dir=cache) == folder
    inspect(folder, tiny_config())
    done = [report[0] for report in reports]
    assert done == sorted(done) and done[-1] == reports[-1][1]
    assert any(what == f"fetching {SHARD}" for _, _, what in reports)


def test_only_weights_settings_and_the_template_of_the_top_folder_are_fetched(hub, cache):
    folder = fetch(hub, cache)
    fetched = {path.name for path in folder.rglob("*")}
    assert fetched == {
        "config.json", "tokenizer.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", SHARD,
        "chat_template.jinja", "SHA256SUMS",
    }  # fmt: skip
    assert is_chat_tuned(folder)
    refused = (
        "README.md",
        "other.jinja",
        "pytorch_model.bin",
        "modeling.py",
        "adapter.safetensors",
        "onnx/model.safetensors",
    )
    assert not any(hub.fetched(file) for file in refused)


def test_other_programs_find_it_in_the_cache(hub, cache):
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    folder = fetch(hub, cache)
    assert try_to_load_from_cache(NAME, "config.json", cache_dir=cache) == str(folder / "config.json")
    assert snapshot_download(NAME, cache_dir=cache, local_files_only=True) == str(folder)


def test_a_second_pull_fetches_nothing(hub, cache):
    fetch(hub, cache)
    hub.log.clear()
    fetch(hub, cache)
    assert [path for _, path, _ in hub.log] == [f"/api/models/{NAME}"]


def test_a_cut_connection_is_resumed_where_it_broke(hub, cache):
    hub.cut[SHARD] = [1000, 500]
    inspect(fetch(hub, cache), tiny_config())
    assert hub.fetched(SHARD) == [None, "bytes=1000-", "bytes=1500-"]


def test_a_pull_that_was_stopped_goes_on_in_the_next(hub, cache):
    hub.cut[SHARD] = [1000] + [0] * 20  # then nothing more comes until the client gives up
    assert "pull again" in fault(hub, cache)
    partial = blob(hub, cache, SHARD).with_name(hub.digest(SHARD) + PARTIAL)
    assert partial.stat().st_size == 1000
    with pytest.raises(HubError, match=f"only partly in the cache; `dgemma pull {NAME}` fetches the rest"):
        locate(NAME, cache_dir=cache)
    hub.cut.clear()
    hub.log.clear()
    inspect(fetch(hub, cache), tiny_config())
    assert hub.fetched(SHARD) == ["bytes=1000-"] and not partial.exists()


def partial_of(hub, cache, content):
    """What an earlier pull left of SHARD."""
    path = blob(hub, cache, SHARD).with_name(hub.digest(SHARD) + PARTIAL)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("extra", [1, 5000])
def test_a_partial_file_that_is_too_long_is_dropped_and_fetched_anew(hub, cache, extra):
    """It can belong to no download of this file, and its end cannot be cut off: nobody knows where it went wrong."""
    whole = hub.files[SHARD]
    partial = partial_of(hub, cache, whole + b"x" * extra)
    reports = []
    inspect(fetch(hub, cache, progress=lambda *report: reports.append(report)), tiny_config())
    assert hub.fetched(SHARD) == [None] and not partial.exists()
    assert blob(hub, cache, SHARD).read_bytes() == whole
    done = [now for now, _, _ in reports]
    assert done == sorted(done) and done[-1] == reports[-1][1]


def test_a_partial_file_of_another_content_is_never_believed(hub, cache):
    whole = hub.files[SHARD]
    partial = partial_of(hub, cache, b"x" * 1000)
    assert f"{SHARD} arrived damaged" in fault(hub, cache)
    assert hub.fetched(SHARD) == ["bytes=1000-"] and not partial.exists()
    assert not blob(hub, cache, SHARD).exists()
    inspect(fetch(hub, cache), tiny_config())
    assert blob(hub, cache, SHARD).read_bytes() == whole


@pytest.mark.parametrize("too_long", [False, True], ids=["half", "too long"])
def test_the_disk_needs_room_for_what_a_partial_file_lacks(hub, cache, monkeypatch, too_long):
    """A file that is too long is no credit for the others."""
    shards = {file: len(content) for file, content in hub.files.items() if file.startswith("model-0")}
    length = shards[SHARD] + 10**9 if too_long else shards[SHARD] // 2
    partial = partial_of(hub, cache, b"")
    os.truncate(partial, length)
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 0))
    asked = []
    monkeypatch.setattr("dgemma.hub.pull.disk_size", lambda size: asked.append(size) or str(size))
    fault(hub, cache, ResourceError)
    small = sum(
        len(hub.files[file])
        for file in ("config.json", "model.safetensors.index.json", "chat_template.jinja")
    )
    rest = sum(shards.values()) + len(hub.files["tokenizer.json"]) + small - min(length, shards[SHARD])
    assert asked[0] == rest + 64 * 2**20


def test_a_server_without_ranges_starts_the_file_anew(hub, cache):
    hub.ranges, hub.cut[SHARD] = False, [1000]
    inspect(fetch(hub, cache), tiny_config())
    assert hub.fetched(SHARD) == [None, "bytes=1000-"]


@pytest.mark.parametrize("file", [SHARD, "tokenizer.json", "config.json"])
def test_a_file_that_arrives_damaged_is_named_and_removed(hub, cache, file):
    hub.damaged = {file}
    assert f"{file} arrived damaged" in fault(hub, cache)
    assert not blob(hub, cache, file).exists()
    assert not [path for path in cache.rglob("*") if path.name.endswith(PARTIAL)]
    hub.damaged = set()
    inspect(fetch(hub, cache), tiny_config())


def test_a_file_damaged_on_this_disk_is_fetched_again(hub, cache):
    folder = fetch(hub, cache)
    for file in (SHARD, "config.json"):
        content = bytearray(blob(hub, cache, file).read_bytes())
        content[-1] ^= 1
        blob(hub, cache, file).write_bytes(content)
    hub.log.clear()
    assert fetch(hub, cache) == folder
    inspect(folder, tiny_config())
    assert hub.fetched(SHARD) == [None] and hub.fetched("model-00001-of-00002.safetensors") == []


def test_a_damaged_file_leaves_no_dangling_link_behind(hub, cache):
    fetch(hub, cache)
    blob(hub, cache, SHARD).write_bytes(b"damaged")
    hub.damaged = {SHARD}
    fault(hub, cache)
    assert not [path for path in cache.rglob("*") if path.is_symlink() and not path.exists()]
    (model,) = [model for model in list_models(cache) if model.name == NAME]
    assert f"{SHARD}: the shard is missing" in model.state


def test_not_enough_disk_is_said_before_anything_is_fetched(hub, cache, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 1_500_000))
    message = fault(hub, cache, ResourceError)
    large = sum(len(content) for file, content in hub.files.items() if file.startswith("model-0"))
    assert "MB more on this disk, 1.50 MB are free" in message and str(cache.parent) in message
    assert float(message.split("needs ")[1].split()[0]) >= (large + 64 * 2**20) / 1e6 - 0.01
    assert not any("resolve" in path for _, path, _ in hub.log)


def test_a_disk_that_fills_up_underway(hub, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    message = fault(hub, cache, ResourceError)
    assert (
        "disk filled up" in message
        and str(cache) in message
        and "are free; make room, then pull again" in message
    )


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_cache_that_may_not_be_written(hub, cache, monkeypatch, code):
    def refuses(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", refuses)
    message = fault(hub, cache, UsageError)
    assert str(cache) in message and os.strerror(code) in message and "set HF_HOME" in message


def test_a_name_leads_to_a_model_once_all_of_it_is_on_the_disk(hub, cache, monkeypatch):
    synced = set()
    fsync, replace = os.fsync, os.replace

    def put(handle):
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def name(new, path):
        if Path(path).name == "main":
            folder = cache / "models--org--tiny-diffusion" / "snapshots" / COMMIT
            named.extend(file for file in [Path(new), folder, folder.parent, *folder.iterdir()])
            missing.extend(file for file in named if file.stat().st_ino not in synced)
        replace(new, path)

    named, missing = [], []
    monkeypatch.setattr("os.fsync", put)
    monkeypatch.setattr("os.replace", name)
    fetch(hub, cache)
    assert len(named) > 8 and missing == []
    assert (cache / "models--org--tiny-diffusion" / "refs").stat().st_ino in synced


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "GatedRepo"), "is gated: accept its licence"),
        ((403, "GatedRepo"), "is gated: accept its licence"),
        ((401, "RepoNotFound"), "or no access"),
        ((404, "RepoNotFound"), "no model 'org/tiny-diffusion' on the hub"),
        ((403, "Forbidden"), "refused access (403): log in with `hf auth login`"),
        ((500, "Internal"), "the hub answered 500"),
    ],
)
def test_refusals_say_what_to_do(hub, cache, refusal, message):
    hub.refuse = refusal
    assert message in fault(hub, cache)


def test_a_gated_model_whose_listing_is_public(hub, cache):
    hub.refuse_files = (403, "GatedRepo")
    assert "is gated" in fault(hub, cache)


def test_unknown_revisions_and_bad_names(hub, cache):
    assert "no revision 'v9'" in fault(hub, cache, name=f"{NAME}@v9")
    assert fetch(hub, cache, name=f"{NAME}@main").name == COMMIT


def test_a_token_is_sent_to_the_hub_and_to_nobody_else(hub, cache):
    hub.token, hub.cdn = "secret", True
    assert "no access" in fault(hub, cache)
    inspect(fetch(hub, cache, token="secret"), tiny_config())
    assert hub.fetched(SHARD) and not hub.leaked


def test_no_connection(cache):
    with pytest.raises(HubError, match="no connection to the hub"):
        pull(NAME, cache_dir=cache, endpoint="http://127.0.0.1:9")


def test_offline_mode(hub, cache, monkeypatch):
    from huggingface_hub.errors import OfflineModeIsEnabled

    with pytest.raises(HubError, match="HF_HUB_OFFLINE"), client.hub_errors(NAME, None):
        raise OfflineModeIsEnabled("offline")


def test_the_client_is_quiet_and_gets_its_voice_back():
    from huggingface_hub.utils import are_progress_bars_disabled, logging

    before = logging.get_verbosity(), are_progress_bars_disabled()
    with client.quiet():
        assert logging.get_verbosity() == 50 and are_progress_bars_disabled()
    assert (logging.get_verbosity(), are_progress_bars_disabled()) == before


def test_a_bug_is_not_dressed_up_as_a_hub_error():
    with pytest.raises(ZeroDivisionError), client.hub_errors(NAME, None):
        1 / 0  # noqa: B018


def test_models_this_build_cannot_run_are_refused_before_their_weights(hub, cache):
    hub.files["config.json"] = json.dumps(RAW | {"quantization_config": {"quant_method": "fp8"}}).encode()
    assert "quant_method 'fp8' is not read" in fault(hub, cache, ConfigError)
    assert not hub.fetched(SHARD)
    del hub.files["config.json"]
    assert "no config.json" in fault(hub, cache)
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b""}
    assert "no model*.safetensors" in fault(hub, cache)


def test_a_quantisation_beside_the_config_is_refused_before_the_weights(hub, cache):
    hub.files["hf_quant_config.json"] = json.dumps({"quantization": {"quant_algo": "FP8"}}).encode()
    assert "quant_algo 'FP8' is not read" in fault(hub, cache, ConfigError)
    assert not hub.fetched(SHARD)


def test_ls_and_rm(hub, cache):
    assert [model.name for model in list_models(cache) if model.name == NAME] == []
    folder = fetch(hub, cache)
    listed = [model for model in list_models(cache) if model.name == NAME]
    assert len(listed) == 1
    model = listed[0]
    assert (model.revision, model.refs, model.dtype) == (COMMIT, ("main",), "f32")
    assert (model.path, model.state) == (folder, "ok")
    assert model.size == sum(path.stat().st_size for path in folder.iterdir())
    with pytest.raises(HubError, match=f"at revision 'other'; there: {NAME}@0123456789ab"):
        remove(NAME, "other", cache)
    assert remove(f"{NAME}@{COMMIT[:8]}", cache_dir=cache) >= model.size
    assert not folder.exists()
    with pytest.raises(HubError, match="not in the cache"):
        remove(NAME, cache_dir=cache)


def test_an_unfinished_pull_is_listed_as_such_and_can_be_removed(hub, cache):
    hub.cut[SHARD] = [1000] + [0] * 20
    fault(hub, cache)
    (model,) = [model for model in list_models(cache) if model.name == NAME]
    assert "the shard is missing" in model.state
    assert remove(NAME, cache_dir=cache) > 1000
    assert not blob(hub, cache, SHARD).parent.exists()


def test_two_revisions_share_files_and_are_removed_one_by_one(hub, cache):
    old = fetch(hub, cache)
    hub.commit = "f" * 40
    hub.files["tokenizer.json"] += b" "
    hub.log.clear()
    new = fetch(hub, cache)
    assert new != old and hub.fetched(SHARD) == []  # unchanged files are not fetched again
    assert locate(NAME, cache_dir=cache) == new and locate(f"{NAME}@{COMMIT}", cache_dir=cache) == old
    assert remove(NAME, COMMIT, cache) > 0
    assert not old.exists()
    inspect(new, tiny_config())


def test_rm_leaves_other_programs_models_alone(cache):
    other = cache / "models--org--llm" / "snapshots" / COMMIT
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"model_type": "other"}')
    assert [model for model in list_models(cache) if model.name == "org/llm"] == []
    with pytest.raises(HubError, match="not in the cache"):
        remove("org/llm", cache_dir=cache)
    assert (other / "config.json").exists()


def test_the_hashes_of_what_was_fetched_are_kept(hub, cache):
    folder = fetch(hub, cache)
    sums = read_sums(folder)
    assert set(sums) == {path.name for path in folder.iterdir()} - {SUMS}
    assert all(sums[name] == hashlib.sha256(hub.files[name]).hexdigest() for name in sums)
    assert check_files(folder).files == len(sums) and not check_files(folder).made


@pytest.fixture(scope="module")
def gguf_model(tmp_path_factory):
    return gguf_files.write_model(tmp_path_factory.mktemp("gguf") / "x.gguf").read_bytes()


@pytest.fixture
def gguf_hub(gguf_model):
    other = gguf_model[:-1] + bytes([gguf_model[-1] ^ 1])
    files = {
        "m-Q4_K_M.gguf": gguf_model,
        "m-Q8_0.gguf": other,
        "mmproj-m.gguf": b"pictures",
        "README.md": b"x",
        "config.json": b"{}",
    }
    with serve(Hub(NAME, files)) as server:
        yield server


def test_one_gguf_file_is_chosen_and_fetched(gguf_hub, cache):
    message = fault(gguf_hub, cache, UsageError)
    assert (
        f"stands for 2 files; name one of: {NAME}:Q4_K_M (" in message
        and f"{NAME}:Q8_0 (" in message
        and " MB)" in message
    )
    assert "holds no file 'Q5_K_M'; name one of:" in fault(gguf_hub, cache, UsageError, name=f"{NAME}:Q5_K_M")
    place = fetch(gguf_hub, cache, name=f"{NAME}:q4_k_m")
    assert (
        place.name == "m-Q4_K_M.gguf"
        and not gguf_hub.fetched("m-Q8_0.gguf")
        and not gguf_hub.fetched("config.json")
    )
    assert locate(f"{NAME}:Q4_K_M", cache_dir=cache) == locate(NAME, cache_dir=cache) == place
    again = fetch(gguf_hub, cache, name=f"{NAME}:m-Q8_0.gguf")
    assert {path.name for path in again.parent.iterdir()} == {"m-Q4_K_M.gguf", "m-Q8_0.gguf", SUMS}
    assert len(read_sums(again.parent)) == 2 and check_files(again).files == 1
    listed = {model.name: model.state for model in list_models(cache)}
    assert listed[f"{NAME}:Q4_K_M"] == listed[f"{NAME}:Q8_0"] == "ok"


def test_the_only_gguf_file_needs_no_choice(gguf_hub, cache):
    del gguf_hub.files["m-Q8_0.gguf"]
    gguf_hub.files["tokenizer.json"] = b"{}"
    place = fetch(gguf_hub, cache)
    assert place.name == "m-Q4_K_M.gguf" and (place.parent / "tokenizer.json").exists()


def test_gguf_files_that_cannot_run_are_refused_before_they_are_fetched(gguf_hub, cache):
    gguf_hub.change = lambda info: info | {"gguf": {"architecture": "llama"}}
    assert "architecture 'llama'" in fault(gguf_hub, cache, name=f"{NAME}:Q4_K_M")
    gguf_hub.change = lambda info: info
    gguf_hub.files = {"m-Q4_K_M-00001-of-00002.gguf": b"GGUF"}
    assert "one part of several" in fault(gguf_hub, cache, UsageError)
    gguf_hub.files = {"README.md": b"x"}
    assert "no model*.safetensors and no .gguf file" in fault(gguf_hub, cache)
    assert not [path for method, path, _ in gguf_hub.log if method == "GET" and "resolve" in path]
    gguf_hub.files = {"m-Q4_K_M.gguf": b"GGUF" + bytes(100)}
    assert "GGUF" in fault(gguf_hub, cache, CheckpointError)


def siblings(**change):
    return lambda info: info | {"siblings": [one | change for one in info["siblings"]]}


def lfs(**change):
    return lambda info: (
        info | {"siblings": [one | {"lfs": {**one.get("lfs", {}), **change}} for one in info["siblings"]]}
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda info: info | {"sha": "../../../../tmp/x"}, lambda info: info | {"sha": "../.."}, lambda info: info | {"sha": 5},
        lambda info: info | {"sha": None}, lambda info: info | {"sha": "main"}, lambda info: info | {"sha": ["a"]},
        lambda info: info | {"siblings": 5}, lambda info: info | {"siblings": "abc"}, lambda info: info | {"siblings": {"a": 1}},
        lambda info: info | {"siblings": [5]}, lambda info: info | {"siblings": [None]}, lambda info: info | {"siblings": [{}]},
        siblings(rfilename=5), siblings(rfilename=["a"]), siblings(rfilename=None), siblings(rfilename={"a": 1}),
        siblings(size="9"), siblings(size=-1), siblings(size=2**70), siblings(size=1.5), siblings(size=[1]), siblings(size=True),
        siblings(blobId=7), siblings(blobId="../x"), siblings(blobId=None), siblings(blobId=["f" * 40]),
        siblings(lfs=5), siblings(lfs="x"), siblings(lfs=[1]), siblings(lfs={"a": 1}),
        lfs(size="9"), lfs(size=-1), lfs(size=None), lfs(sha256=5), lfs(sha256="../../x"), lfs(sha256="f" * 40), lfs(pointerSize="x"),
        lambda info: info | {"gguf": 5, "siblings": []}, lambda info: info | {"gguf": "x"}, lambda info: [info], lambda info: "x",
        lambda info: b"[" * 100_000, lambda info: b"{", lambda info: b"null", lambda info: info | {"lastModified": 5},
        lambda info: info | {"tags": 5, "cardData": [1], "siblings": None}, lambda info: b'{"sha": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_an_answer_that_is_none_of_a_hubs_is_one_error_and_writes_nothing_outside(
    hub, cache, change, tmp_path
):
    hub.change = change
    before = {path for path in tmp_path.rglob("*")}
    try:
        fetch(hub, cache)
    except DgemmaError as error:
        assert "\n" not in str(error)
    else:  # what is not read may be anything
        inspect(cache / "models--org--tiny-diffusion" / "snapshots" / COMMIT, tiny_config())
    assert all(path.is_relative_to(cache) for path in {path for path in tmp_path.rglob("*")} - before)
