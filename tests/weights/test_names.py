import dataclasses

import pytest

from dgemma.config import ModelConfig
from dgemma.weights.names import GROUPS, classify, expected_tensors, published_names, why_unknown

from .weights_helpers import PUBLISHED, sparse_checkpoint, tiny_config


@pytest.fixture(scope="module")
def published() -> dict[str, tuple[int, ...]]:
    return dict(sparse_checkpoint().read_table())


def differences(config: ModelConfig, table: dict[str, tuple[int, ...]]) -> set[str]:
    expected = expected_tensors(config)
    text = {name: shape for name, shape in table.items() if classify(name) == "text"}
    wanted = {name: target.shape for name, target in expected.items()}
    return {name for name in wanted.keys() | text.keys() if wanted.get(name) != text.get(name)}


def test_every_published_name_is_accounted_for(published):
    config = ModelConfig.from_file(PUBLISHED / "config.json")
    kinds = [classify(name) for name in published]
    assert len(published) == 1047
    assert (kinds.count("text"), kinds.count("vision"), kinds.count("unknown")) == (691, 356, 0)
    assert differences(config, published) == set()


def test_twin_a_wrong_config_or_table_is_seen(published):
    config = ModelConfig.from_file(PUBLISHED / "config.json")
    assert differences(dataclasses.replace(config, layers=config.layers[:-1]), published)
    assert differences(dataclasses.replace(config, moe_intermediate_size=700), published)
    swapped = dataclasses.replace(config.layers[0], kind="full_attention")
    wrong_kind = dataclasses.replace(config, layers=(swapped, *config.layers[1:]))
    assert differences(wrong_kind, published) == {"model.decoder.layers.0.self_attn.v_proj.weight"}
    name = "model.decoder.layers.3.router.scale"
    assert differences(config, published | {name: (2815,)}) == {name}


def test_model_names_are_unique_and_both_scalars_are_kept():
    expected = expected_tensors(tiny_config())
    names = [target.model_name for target in expected.values()]
    assert len(set(names)) == len(names) == len(published_names(tiny_config()))
    assert expected["model.decoder.layers.1.layer_scalar"].model_name == "layers.1.layer_scalar"
    assert (
        expected["model.encoder.language_model.layers.1.layer_scalar"].model_name
        == "layers.1.encoder_layer_scalar"
    )
    assert {target.group for target in expected.values()} == set(GROUPS)


def test_full_layers_have_no_v_proj():
    names = expected_tensors(tiny_config())
    assert "model.decoder.layers.1.self_attn.v_proj.weight" in names
    assert "model.decoder.layers.2.self_attn.v_proj.weight" not in names


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("lm_head.weight", "unknown", "tied"),
        ("model.encoder.language_model.layers.0.mlp.up_proj.weight", "unknown", "share"),
        ("model.decoder.layers.0.experts.3.gate_proj.weight_scale", "unknown", "quantised"),
        ("model.decoder.layers.01.layer_scalar", "unknown", "no part"),
        ("model.decoder.layers.99.layer_scalar", "text", "describes no such"),
        ("model.decoder.embed_tokens.weight.extra", "unknown", "no part"),
        ("model.encoder.vision_tower.std_bias", "vision", ""),
        ("model.encoder.embed_vision.embedding_projection.weight", "vision", ""),
    ],
)
def test_classify_and_why(name, kind, reason):
    assert classify(name) == kind
    if reason:
        assert reason in why_unknown(name)
