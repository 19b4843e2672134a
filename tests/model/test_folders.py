"""Checkpoint folders between the oracle and us, both ways: what one writes, the other reads to the same logits."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dgemma
from dgemma.bench.oracle import SMALL_VISION
from dgemma.config import DenoiseConfig, ModelConfig
from dgemma.errors import CheckpointError
from dgemma.model.build import build
from dgemma.model.dgemma import DiffusionGemma
from dgemma.weights.layout import inspect
from dgemma.weights.reader import load_into
from dgemma.weights.writer import save
from tests import oracle
from tests.helpers import assert_close, byte_tokenizer_json, lively_model, tiny_config
from tests.model import worlds
from tests.model.worlds import World

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NUMBER = 1  # a world in the per_layer_config spelling, with its own rope and soft cap


# the oracle's generation_config.json with every key it writes for a real model
SETTINGS = {
    "max_new_tokens": 99, "max_denoising_steps": 7, "t_min": 0.3, "t_max": 0.9, "stability_threshold": 2,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.25}, "confidence_threshold": 0.01,
    "eos_token_id": [1, 5], "pad_token_id": 0, "bos_token_id": 2, "cache_implementation": "dynamic",
    "disable_compile": True,
}  # fmt: skip


def written_by_the_oracle(folder: Path, world: World, dtype: torch.dtype, **how: Any) -> Path:
    model = oracle.model_of(world.model, world.raw).to(dtype)
    model.generation_config = oracle.generation_config_of(copy.deepcopy(SETTINGS))
    model.save_pretrained(folder, **how)
    return folder


def loaded(folder: Path, dtype: torch.dtype) -> tuple[DiffusionGemma, list[str]]:
    config = ModelConfig.from_file(folder / "config.json")
    model = build(config)
    notes = load_into(model, inspect(folder, config), "cpu", dtype)
    return model, notes


def answers(world: World, model: DiffusionGemma) -> torch.Tensor:
    """Our logits of a world's first canvas by another model."""
    other = World(world.raw, model.config, model, world.prompts, world.canvases, world.chunk)
    return worlds.logits(other, worlds.read(other), world.canvases[0])


@oracle.needed
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_oracles_folder_loads(dtype: str, tmp_path: Path) -> None:
    world = worlds.world(NUMBER)
    model, notes = loaded(written_by_the_oracle(tmp_path, world, DTYPES[dtype]), torch.float32)
    assert model.config.layers == world.config.layers and model.config.has_vision
    assert any("vision tensors" in note for note in notes)
    assert any("layer_scalar differs" in note for note in notes)
    for name, tensor in world.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(DTYPES[dtype]).float())
    denoise = DenoiseConfig.from_file(tmp_path / "generation_config.json")
    want = DenoiseConfig(7, 0.3, 0.9, 0.25, 2, 0.01, (1, 5), 0, None, 99)
    assert denoise == want


@oracle.needed
def test_the_oracles_shards_load(tmp_path: Path) -> None:
    world = worlds.world(NUMBER)
    written_by_the_oracle(tmp_path, world, torch.float32, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    model, _ = loaded(tmp_path, torch.float32)
    assert torch.equal(answers(world, model), answers(world, world.model))


@oracle.needed
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_oracle_loads_our_folder(number: int, tmp_path: Path) -> None:
    world = worlds.world(number)
    folder = save(
        tmp_path / "ours", world.config, DenoiseConfig(), world.model.state_dict().items(),
        json.dumps(byte_tokenizer_json()), dtype=torch.float32,
    )  # fmt: skip
    raw = json.loads((folder / "config.json").read_text())
    raw["vision_config"] = SMALL_VISION  # our text model has none, and the oracle's default is half a billion
    (folder / "config.json").write_text(json.dumps(raw))
    model = oracle.reload(str(folder))
    for row, prompt in enumerate(world.prompts):
        cache = oracle.encode(model, prompt, oracle.new_cache(model))
        theirs = oracle.logits(model, cache, world.canvases[0][row])
        assert_close(answers(world, world.model)[row], theirs)
    assert model.generation_config.eos_token_id == [1, 106, 50]
    assert model.generation_config.sampler_config.entropy_bound == 0.1


@oracle.needed
def test_a_second_copy_of_a_shared_tensor_is_taken_where_it_is_equal(tmp_path: Path) -> None:
    written_by_the_oracle(tmp_path, worlds.world(NUMBER), torch.float32)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "model.encoder.language_model.norm.weight"
    tensors[name] = tensors["model.decoder.norm.weight"].clone()
    save_file(tensors, path)
    dgemma.load(tmp_path)
    tensors[name][0] += 0.5
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=name):
        dgemma.load(tmp_path)


def test_our_folder_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = lively_model(tiny_config(), dtype="bfloat16")
    denoise = DenoiseConfig(max_denoising_steps=9, eos_token_id=(3,), entropy_bound=0.5)
    save(
        tmp_path / "ours",
        model.config,
        denoise,
        model.state_dict().items(),
        json.dumps(byte_tokenizer_json()),
    )
    again, notes = loaded(tmp_path / "ours", torch.bfloat16)
    assert again.config == model.config and len(notes) == 1
    assert DenoiseConfig.from_file(tmp_path / "ours" / "generation_config.json") == denoise
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
