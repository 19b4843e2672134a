"""Hashes of a checkpoint's files: who keeps them, and that no flipped bit goes by."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dgemma.cli.main import app
from dgemma.config import DenoiseConfig
from dgemma.errors import CheckpointError, UsageError
from dgemma.weights.sums import SUMS, check_files, read_sums, write_sums
from dgemma.weights.writer import save
from tests.helpers import byte_tokenizer_json, lively_model, tiny_config

from .weights_helpers import write_folder


def flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte % len(data)] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `train --export` writes it."""
    net = lively_model(tiny_config(vocab_size=300))
    state = [*net.named_parameters(), *net.named_buffers()]
    return save(
        tmp_path_factory.mktemp("x") / "model",
        net.config,
        DenoiseConfig(),
        state,
        json.dumps(byte_tokenizer_json()),
    )


def test_an_export_has_its_hashes_in_the_form_of_coreutils(exported: Path) -> None:
    assert {*read_sums(exported), SUMS} == {path.name for path in exported.iterdir()}
    assert subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=exported, timeout=60).returncode == 0
    assert check_files(exported, make=False).files == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    file=st.sampled_from(["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"]),
    byte=st.integers(0),
    bit=st.integers(0, 7),
)
def test_no_flipped_bit_goes_by(exported: Path, file: str, byte: int, bit: int) -> None:
    flip(exported / file, byte, bit)
    try:
        with pytest.raises(CheckpointError, match=f"{file}: is not what it was"):
            check_files(exported)
    finally:
        flip(exported / file, byte, bit)
    check_files(exported)


def test_a_folder_without_hashes_gets_a_list_on_first_use(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", shards=2)
    with pytest.raises(CheckpointError, match="`dgemma verify --files` keeps a list"):
        check_files(folder, make=False)
    first = CliRunner().invoke(app, ["verify", "--files", str(folder)])
    assert first.exit_code == 0 and "no hashes were known; SHA256SUMS of 4 files was made now" in first.stdout
    again = CliRunner().invoke(app, ["verify", "--files", "--json", str(folder)])
    assert json.loads(again.stdout) | {"bytes": 0} == {
        "place": str(folder),
        "files": 4,
        "bytes": 0,
        "made": False,
    }
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002.safetensors: not readable"):
        check_files(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_gets_no_list(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    folder.chmod(0o555)
    with pytest.raises(UsageError, match="cannot be written"):
        CliRunner().invoke(app, ["verify", "--files", str(folder)], catch_exceptions=False)


def test_links_into_the_cache_are_compared_with_their_names(tmp_path: Path) -> None:
    """As other tools leave them: no list, but blobs that are called by SHA-256, or by git's hash where they
    are small.
    """
    origin = write_folder(tmp_path / "origin")
    blobs, folder = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    for path in origin.iterdir():
        data = path.read_bytes()
        small = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        name = hashlib.sha256(data).hexdigest() if path.name == "model.safetensors" else small
        (blobs / name).write_bytes(data)
        (folder / path.name).symlink_to(f"../../blobs/{name}")
    assert check_files(folder, make=False).files == 2
    for file in ("model.safetensors", "config.json"):
        flip((folder / file).resolve(), 50, 1)
        with pytest.raises(CheckpointError, match=f"{file}: is not what it was"):
            check_files(folder)
        flip((folder / file).resolve(), 50, 1)


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "a" * 64,
        f"{'a' * 64}  ../x",
        f"{'a' * 64}  /etc/passwd",
        f"{'g' * 64}  config.json",
        "",
        f"{'a' * 64}  a\x1bb",
    ],
)
def test_a_line_that_names_no_file_of_the_folder_is_not_followed(tmp_path: Path, line: str) -> None:
    (tmp_path / SUMS).write_text(line + "\n")
    assert read_sums(tmp_path) == {}


def test_a_list_that_is_none_is_one_error(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="SHA256SUMS: not readable"):
        read_sums(tmp_path)
    (tmp_path / SUMS).unlink()
    os.mkfifo(tmp_path / SUMS)
    with pytest.raises(CheckpointError, match="no list of hashes"):
        read_sums(tmp_path)


def test_capitals_and_binary_marks_are_read(tmp_path: Path) -> None:
    write_sums(tmp_path, {"a b.json": "A" * 64})
    (tmp_path / SUMS).write_text((tmp_path / SUMS).read_text().replace("  ", " *"))
    assert read_sums(tmp_path) == {"a b.json": "a" * 64}


def test_serve_compares_before_it_serves(exported: Path, tmp_path: Path) -> None:
    flip(exported / "model.safetensors", 4000, 3)
    try:
        with pytest.raises(CheckpointError, match="model.safetensors: is not what it was"):
            CliRunner().invoke(
                app, ["serve", "-m", str(exported), "--check", "--port", "0"], catch_exceptions=False
            )
    finally:
        flip(exported / "model.safetensors", 4000, 3)
