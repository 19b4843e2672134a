"""The identity of a checkpoint: the same for a copy, another for other weights, without reading every byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dgemma.weights import identity
from dgemma.weights.identity import identify
from tests.helpers import tiny_checkpoint
from tests.weights.gguf_files import write_model


def test_a_copy_has_the_same_digest_and_other_weights_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tiny_checkpoint(tmp_path / "one")
    shutil.copytree(one, tmp_path / "two")
    for whole, edge, sample in (
        (identity.WHOLE, identity.EDGE, identity.SAMPLE),
        (8192, 1024, 16),
    ):  # read whole, and by samples
        monkeypatch.setattr(identity, "WHOLE", whole)
        monkeypatch.setattr(identity, "EDGE", edge)
        monkeypatch.setattr(identity, "SAMPLE", sample)
        found = identify(one)
        assert found.digest == identify(tmp_path / "two").digest and len(found.digest) == 64
        assert found.kind == "safetensors" and found.quantization == "F32" and found.parameters > 1000
        assert found.size >= sum(path.stat().st_size for path in one.glob("*.safetensors"))
        weights = next((tmp_path / "two").glob("*.safetensors"))
        data = bytearray(weights.read_bytes())
        changed = bytes(data[:-1024]) + bytes(
            byte ^ 255 for byte in data[-1024:]
        )  # as training changes every tensor
        weights.write_bytes(changed)
        assert identify(tmp_path / "two").digest != found.digest
        weights.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("file_type", "name"), [(15, "Q4_K_M"), (9999, "Q4_K"), ([15], "Q4_K"), ("fifteen", "Q4_K")]
)
def test_a_file_type_that_is_not_known_leaves_the_name_to_the_largest_share(
    tmp_path: Path, file_type: Any, name: str
) -> None:
    place = write_model(tmp_path / "model.gguf", **{"general.file_type": file_type})
    assert identify(place).quantization == name
