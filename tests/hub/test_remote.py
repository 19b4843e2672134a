"""Headers of a hub model that is not on this machine: what is fetched, what is not, and what goes wrong."""

import json

import pytest

from dgemma.errors import CheckpointError, HubError
from dgemma.hub import remote
from dgemma.hub.remote import headers
from dgemma.weights.layout import inspect, read_layout
from tests.weights.weights_helpers import RAW, tiny_config, write_folder

from .hub_server import COMMIT, Hub, serve

NAME = "org/tiny-diffusion"
SHARD = "model-00002-of-00002.safetensors"
HUGE = 2 * 10**7  # bytes of data behind the headers


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def origin(tmp_path):
    return write_folder(tmp_path / "origin", shards=2)


@pytest.fixture
def hub(origin):
    files = {path.name: path.read_bytes() for path in origin.iterdir()}
    files |= {
        "tokenizer.json": b'{"version": "1.0"}' * 50,
        "hf_quant_config.json": b"{}",
        "modeling.py": b"import os",
    }
    with serve(Hub(NAME, files)) as server:
        yield server


def fault(hub, **options) -> str:
    with pytest.raises(HubError) as caught, headers(NAME, endpoint=hub.url, **options):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("first", [8, 64, 10**6])
def test_what_comes_back_reads_like_the_checkpoint(hub, origin, monkeypatch, first):
    monkeypatch.setattr(remote, "FIRST", first)
    del hub.files["hf_quant_config.json"]
    with headers(NAME, endpoint=hub.url) as found:
        there, here = inspect(found.folder, tiny_config()), inspect(origin, tiny_config())
        assert {name: (t.dtype, t.shape, t.offset) for name, t in there.tensors.items()} == {
            name: (t.dtype, t.shape, t.offset) for name, t in here.tensors.items()
        }
        assert found.name == f"{NAME}@{COMMIT[:12]}"
    assert not found.folder.exists()


def test_no_weights_travel(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST", 64)
    content = hub.files[SHARD]
    length = 8 + int.from_bytes(content[:8], "little")
    hub.files[SHARD] = content + bytes(HUGE)
    with headers(NAME, endpoint=hub.url) as found:
        assert (found.folder / SHARD).stat().st_size == len(hub.files[SHARD])
        assert (found.folder / SHARD).stat().st_blocks * 512 < HUGE // 2
        assert (found.folder / "hf_quant_config.json").read_bytes() == b"{}"
    assert hub.fetched(SHARD) == ["bytes=0-63", f"bytes=64-{length - 1}"]
    assert not any(hub.fetched(file) for file in ("tokenizer.json", "modeling.py"))
    assert found.fetched < hub.sent < 10**5
    assert not (tmp_path / "cache").exists()


def test_faults_are_found_from_the_headers(hub, monkeypatch):
    monkeypatch.setattr(remote, "FIRST", 64)
    hub.files[SHARD] = hub.files[SHARD][:-1]
    with (
        headers(NAME, endpoint=hub.url) as found,
        pytest.raises(CheckpointError, match=f"{SHARD}: truncated inside tensor"),
    ):
        inspect(found.folder, tiny_config())
    for claim, problem in (
        (2**40, "do not hold its header"),
        (17 * 2**20, "the header claims 17825792 bytes"),
    ):
        hub.files[SHARD] = claim.to_bytes(8, "little") + bytes(HUGE)
        hub.sent = 0
        with headers(NAME, endpoint=hub.url) as found:
            assert any(problem in line for line in read_layout(found.folder, tiny_config()).problems)
        assert hub.sent < 10**6


def test_a_server_without_ranges_is_no_download(hub):
    hub.ranges = False
    hub.files[SHARD] += bytes(HUGE)
    message = fault(hub)
    assert "gives no parts of files (HTTP ranges)" in message and f"`dgemma pull {NAME}`" in message
    assert hub.sent < HUGE // 2


def test_small_files_may_come_whole(hub):
    hub.ranges = False
    with headers(NAME, endpoint=hub.url) as found:
        inspect_all = read_layout(found.folder, tiny_config())
    assert len(inspect_all.files) == 2


def test_an_answer_that_ends_early_is_said(hub):
    hub.cut[SHARD] = [10]
    assert "try again" in fault(hub)


def test_more_than_headers_is_not_fetched(hub, monkeypatch):
    monkeypatch.setattr(remote, "MOST", 100)
    assert "more than 100 bytes" in fault(hub)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "GatedRepo"), "is gated"),
        ((404, "RepoNotFound"), "no model 'org/tiny-diffusion' on the hub"),
        ((500, "x"), "answered 500"),
    ],
)
def test_refusals_say_what_to_do(hub, refusal, message):
    hub.refuse = refusal
    assert message in fault(hub)
    hub.refuse, hub.refuse_files = None, refusal
    assert fault(hub)


def test_a_token_is_sent_to_the_hub_and_to_nobody_else(hub):
    hub.token, hub.cdn = "secret", True
    assert "no access" in fault(hub)
    with headers(NAME, endpoint=hub.url, token="secret"):
        pass
    assert hub.fetched(SHARD) and not hub.leaked


def test_without_a_network(monkeypatch):
    with (
        pytest.raises(HubError, match=r"no connection to the hub \(.*\); try again"),
        headers(NAME, endpoint="http://127.0.0.1:9"),
    ):
        pass
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"), headers(NAME):
        pass


def test_other_formats_are_refused_by_name(hub):
    hub.files = {"config.json": json.dumps(RAW).encode(), "model.gguf": b""}
    assert "model.gguf, which is examined where it is; `dgemma pull" in fault(hub)
    hub.files = {"config.json": json.dumps(RAW).encode(), "pytorch_model.bin": b""}
    assert "no model*.safetensors" in fault(hub)
