"""config.json: both spellings, every default, every fault by name, and the way back through the oracle's own class."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dgemma.config import FULL, SLIDING, LayerConfig, ModelConfig, read_json
from dgemma.config.remarks import remarks
from dgemma.errors import ConfigError
from tests import oracle
from tests.helpers import tiny_raw
from tests.model.worlds import COUNT, raw_of

PUBLISHED = Path(__file__).parents[1] / "data" / "published" / "config.json"


def test_the_published_model() -> None:
    config = ModelConfig.from_file(PUBLISHED)
    assert [i for i, layer in enumerate(config.layers) if layer.kind == FULL] == [5, 11, 17, 23, 29]
    assert config.layers[0] == LayerConfig(SLIDING, 256, 8, 1e4, 256, 256)
    assert config.layers[5] == LayerConfig(FULL, 512, 2, 1e6, 128, 512)
    assert (config.vocab_size, config.hidden_size, config.num_experts, config.top_k_experts) == (
        262144,
        2816,
        128,
        8,
    )
    assert (config.sliding_window, config.canvas_length, config.eos_token_ids) == (1024, 256, (1, 106))
    assert config.final_logit_softcapping == 30.0 and config.has_vision and config.image_token_id == 258880


def test_both_spellings_are_one_model() -> None:
    plain = tiny_raw("SFSF")
    other = copy.deepcopy(plain)
    del other["text_config"]["global_head_dim"], other["text_config"]["num_global_key_value_heads"]
    for keys in (("1", "3"), ("01", "03"), ("001", "3")):
        other["text_config"]["per_layer_config"] = {
            key: {"head_dim": 16, "num_key_value_heads": 1} for key in keys
        }
        assert ModelConfig.from_dict(other) == ModelConfig.from_dict(plain)
    # where both stand, per_layer_config is the newer one and says it all
    other["text_config"] |= {"global_head_dim": 24, "num_global_key_value_heads": 4}
    assert ModelConfig.from_dict(other) == ModelConfig.from_dict(plain)


def test_absent_keys_take_their_defaults() -> None:
    raw = tiny_raw("SSSSSF")
    text = raw["text_config"]
    for key in ("layer_types", "global_head_dim", "num_global_key_value_heads", "head_dim", "sliding_window"):
        del text[key]
    del raw["canvas_length"]
    config = ModelConfig.from_dict(raw)
    assert [layer.kind for layer in config.layers] == [SLIDING] * 5 + [FULL]
    assert config.layers[0] == LayerConfig(SLIDING, 256, 2, 1e4, 256, 256)
    assert config.layers[5] == LayerConfig(FULL, 512, 2, 1e6, 128, 512), (
        "the ordinary key-value heads, head dim 512"
    )
    assert (config.final_logit_softcapping, config.rms_norm_eps) == (30.0, 1e-6)
    assert (config.sliding_window, config.canvas_length) == (512, 256)
    assert (config.eos_token_ids, config.pad_token_id, config.bos_token_id) == ((1,), 0, 2)


def test_null_means_the_default_where_other_tools_write_it() -> None:
    raw = tiny_raw() | {"vision_config": None, "quantization_config": None, "image_token_id": None}
    raw["text_config"] |= {
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attention_dropout": None,
    }
    raw["text_config"] |= {
        "use_bidirectional_attention": None,
        "rope_parameters": None,
        "per_layer_config": None,
    }
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(tiny_raw())


SAVED_BY_OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"unsloth_version": "2026.9.1", "unsloth_fixed": True}, {}),
    ({"_attn_implementation_autoset": True, "model_parallel": False, "auto_map": {}, "audio_config": None}, {}),
    ({"auto_map": {"AutoModel": "code.Model"}, "trust_remote_code": True, "custom_pipelines": {"a": {"impl": "b"}}}, {}),
    ({}, {"output_router_logits": False, "router_aux_loss_coef": 0.001, "cache_implementation": "hybrid"}),
    ({}, {"attention_dropout": 0.1, "hidden_dropout_prob": 0.1, "resid_pdrop": 0.1, "router_z_loss_coef": 1e-3}),
    ({"temperature": 1.0, "top_k": 64, "do_sample": True, "num_beams": 1}, {"max_length": 20, "early_stopping": False}),
    ({"mystery": None, "other": {}, "more": [], "text": ""}, {"mystery": None}),
    ({"torch_version": "2.13.0+cu130", "peft_type": "LORA", "audio_token_id": 9, "boa_token_id": 8}, {"_experts_implementation": "eager"}),
    ({}, {"sliding_window_pattern": 3, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    ({}, {"num_kv_shared_layers": 0, "use_double_wide_mlp": False, "initializer_factor": 1.0, "hidden_activation": None}),
]  # fmt: skip


@pytest.mark.parametrize(("top", "text"), SAVED_BY_OTHERS, ids=range(len(SAVED_BY_OTHERS)))
def test_what_other_tools_note_changes_no_model(top: dict[str, Any], text: dict[str, Any]) -> None:
    assert ModelConfig.from_dict(tiny_raw(**text) | top) == ModelConfig.from_dict(tiny_raw())


def test_what_is_there_and_not_used_can_be_told() -> None:
    raw = tiny_raw(router_aux_loss_coef=0.1, hidden_dropout=0.0) | {
        "unsloth_fixed": True,
        "audio_config": None,
        "sparse": 1,
    }
    assert remarks(raw) == ["unsloth_fixed", "text_config.router_aux_loss_coef", "text_config.hidden_dropout"]
    assert remarks(json.loads(PUBLISHED.read_text())) == [], "nothing is worth a word in the published file"


@given(st.text(), st.none() | st.just("") | st.just([]) | st.just({}))
def test_an_unknown_key_that_says_nothing_is_nothing(key: str, value: Any) -> None:
    raw = tiny_raw()
    if key not in raw:
        assert ModelConfig.from_dict(raw | {key: value}) == ModelConfig.from_dict(tiny_raw())


@given(
    st.from_regex(r"[a-z]{3,9}(_(scale|multiplier|norm|bias|theta|window))", fullmatch=True),
    st.booleans() | st.integers() | st.floats(0, 9),
)
def test_an_unknown_key_that_may_change_the_model_is_refused(key: str, value: Any) -> None:
    raw = tiny_raw()
    assume(key not in raw["text_config"] and not key.startswith(("loss", "mlx", "trl", "peft")))
    raw["text_config"][key] = value
    with pytest.raises(ConfigError, match="unknown key|computes only"):
        ModelConfig.from_dict(raw)


def test_how_weights_are_stored_is_not_asked_here() -> None:
    """weights/quantization.py judges it."""
    assert ModelConfig.from_dict(
        tiny_raw() | {"quantization_config": {"quant_method": "?"}}
    ) == ModelConfig.from_dict(tiny_raw())


@pytest.mark.parametrize(("top", "text", "want"), [
    (7, 3, (7,)), ([7, 8], 3, (7, 8)), (None, 3, (3,)), (None, [3, 4], (3, 4)), ([], 3, (3,)), ([], [], (1,)),
])  # fmt: skip
def test_the_upper_end_tokens_win(top: Any, text: Any, want: tuple[int, ...]) -> None:
    raw = tiny_raw(eos_token_id=text) | {"eos_token_id": top}
    assert ModelConfig.from_dict(raw).eos_token_ids == want


HUGE = 10**400
# what the error names, what is changed above, what in text_config
FAULTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("model_type", {"model_type": "gemma3"}, {}),
    ("model_type", {"model_type": None}, {}),
    ("model_type", {}, {"model_type": "gemma3_text"}),
    ("text_config", {"text_config": [1]}, {}),
    ("vision_config", {"vision_config": "none"}, {}),
    ("unknown key 'sparse'", {"sparse": 1}, {}),
    ("unknown key 'mystery'", {}, {"mystery": False}),
    ("unknown key 'mask_token_id'", {"mask_token_id": 4}, {}),
    ("unknown key 'rope_theta'", {}, {"rope_theta": 1e4}),
    ("unknown key 'query_pre_attn_scalar'", {}, {"query_pre_attn_scalar": 256}),
    ("unknown key 'norm_topk_prob'", {}, {"norm_topk_prob": False}),
    ("unknown key 'fast_version'", {}, {"fast_version": True}),
    ("num_kv_shared_layers", {}, {"num_kv_shared_layers": 2}),
    ("_sliding_window_pattern", {}, {"_sliding_window_pattern": 5, "layer_types": None}),
    ("unknown key 'a\\\\nb'", {}, {"a\nb": 1}),
    ("canvas_length", {"canvas_length": 0}, {}),
    ("canvas_length", {"canvas_length": None}, {}),
    ("image_token_id", {"image_token_id": -3}, {}),
    ("eos_token_id", {"eos_token_id": [1, "2"]}, {}),
    ("eos_token_id", {"eos_token_id": [-1]}, {}),
    ("eos_token_id", {"eos_token_id": True}, {}),
    ("attention_bias", {}, {"attention_bias": True}),
    ("add_cross_attention", {}, {"add_cross_attention": True}),
    ("hidden_activation", {}, {"hidden_activation": "silu"}),
    ("use_bidirectional_attention", {}, {"use_bidirectional_attention": "all"}),
    ("tie_word_embeddings", {"tie_word_embeddings": False}, {}),
    ("tie_word_embeddings", {}, {"tie_word_embeddings": False}),
    ("attention_k_eq_v", {}, {"attention_k_eq_v": False}),
    ("enable_moe_block", {}, {"enable_moe_block": False}),
    ("hidden_size", {}, {"hidden_size": "16"}),
    ("hidden_size", {}, {"hidden_size": 16.0}),
    ("hidden_size", {}, {"hidden_size": True}),
    ("hidden_size", {}, {"hidden_size": None}),
    ("hidden_size", {}, {"hidden_size": -1}),
    ("hidden_size", {}, {"hidden_size": HUGE}),
    ("vocab_size", {}, {"vocab_size": 0}),
    ("num_hidden_layers", {}, {"num_hidden_layers": 10**12, "layer_types": None}),
    ("top_k_experts", {}, {"top_k_experts": 5}),
    ("num_experts", {}, {"num_experts": 10**7}),
    ("sliding_window", {}, {"sliding_window": None}),
    ("rms_norm_eps", {}, {"rms_norm_eps": float("nan")}),
    ("rms_norm_eps", {}, {"rms_norm_eps": 0}),
    ("final_logit_softcapping", {}, {"final_logit_softcapping": HUGE}),
    ("final_logit_softcapping", {}, {"final_logit_softcapping": float("inf")}),
    ("final_logit_softcapping", {}, {"final_logit_softcapping": None}),
    ("final_logit_softcapping", {}, {"final_logit_softcapping": -30.0}),
    ("layer_types", {}, {"layer_types": ["sliding_attention"] * 2}),
    ("layer_types", {}, {"layer_types": ["sliding_attention", "chunked_attention", "full_attention"]}),
    ("layer_types", {}, {"layer_types": [["full_attention"]] * 3}),
    ("last of 'layer_types'", {}, {"layer_types": ["sliding_attention"] * 3}),
    ("key-value heads", {}, {"num_key_value_heads": 3}),
    ("key-value heads", {}, {"num_global_key_value_heads": 8}),
    ("odd head_dim", {}, {"head_dim": 7}),
    ("per_layer_config", {}, {"per_layer_config": {"3": {}}}),
    ("per_layer_config", {}, {"per_layer_config": {"-1": {}}}),
    ("per_layer_config", {}, {"per_layer_config": {"2": {}, "02": {}}}),
    ("per_layer_config", {}, {"per_layer_config": {"²": {}}}),
    ("per_layer_config", {}, {"per_layer_config": {"9" * 5000: {}}}),
    ("per_layer_config", {}, {"per_layer_config": {"2": 16}}),
    ("sliding_window", {}, {"per_layer_config": {"2": {"sliding_window": 9}}}),
    ("head_dim", {}, {"per_layer_config": {"2": {"head_dim": 0}}}),
    ("rope_parameters", {}, {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}}),
    ("rope_parameters", {}, {"rope_parameters": [1]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "top", "text"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_refused_by_name(name: str, top: dict, text: dict) -> None:
    raw = tiny_raw(**text)
    for key, value in top.items():
        raw[key] = value
    with pytest.raises(ConfigError, match=name) as caught:
        ModelConfig.from_dict(raw)
    assert (
        "\n" not in str(caught.value) and len(str(caught.value)) < 300 and "config.json" in str(caught.value)
    )


@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "num_experts", "num_key_value_heads", "top_k_experts"]
)
def test_a_missing_key_is_named(key: str) -> None:
    raw = tiny_raw()
    del raw["text_config"][key]
    with pytest.raises(ConfigError, match=f"'{key}' is missing"):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("name", "rope"),
    [
        ("rope_type", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("rope_theta", {"rope_type": "default"}),
        ("rope_theta", {"rope_theta": 0.0}),
        ("rope_theta", {"rope_theta": HUGE}),
        (
            "partial_rotary_factor",
            {"rope_theta": 1e4, "rope_type": "proportional", "partial_rotary_factor": 1.5},
        ),
        ("partial_rotary_factor", {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}),
        ("unknown key 'factor'", {"rope_theta": 1e4, "factor": 8.0}),
        ("object was expected", "default"),
    ],
)
@pytest.mark.parametrize("kind", [SLIDING, FULL])
def test_a_rope_fault_is_refused_by_name(name: str, rope: Any, kind: str) -> None:
    ropes = {SLIDING: {"rope_theta": 1e4}, FULL: {"rope_theta": 1e4}} | {kind: rope}
    with pytest.raises(ConfigError, match=name) as caught:
        ModelConfig.from_dict(tiny_raw(rope_parameters=ropes))
    assert kind in str(caught.value)


def test_unknown_rope_kinds_are_refused() -> None:
    ropes = {SLIDING: {"rope_theta": 1e4}, FULL: {"rope_theta": 1e4}, "chunked_attention": {}}
    with pytest.raises(ConfigError, match="chunked_attention"):
        ModelConfig.from_dict(tiny_raw(rope_parameters=ropes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ('{"text_config": {"b": {"c": 1, "c": 1}}}', "'c' stands there twice"),
        ('{"a": ' + "9" * 5000 + "}", "not readable as JSON"),
        ("[1]", "object was expected"),
        ("", "not readable as JSON"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("\xff", "not readable as JSON"),
    ],
    ids=range(8),
)
def test_a_file_that_is_no_plain_json_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_raw()), encoding="utf-8-sig")
    assert ModelConfig.from_file(path) == ModelConfig.from_dict(tiny_raw())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        ModelConfig.from_file(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="not readable"):
        read_json(tmp_path)


@pytest.mark.parametrize("number", range(COUNT))
def test_what_is_written_reads_the_same(number: int) -> None:
    config = ModelConfig.from_dict(raw_of(number))
    written = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(written) == config
    assert "vision_config" not in written


def test_every_part_that_rotates_survives_writing() -> None:
    for dim in range(2, 130, 2):
        for partial in (0.0, 0.25, 1 / 3, 0.5, 0.7, 0.75, 1.0):
            ropes = {SLIDING: {"rope_theta": 10.0}, FULL: {
                "rope_theta": 1e4, "rope_type": "proportional", "partial_rotary_factor": partial}}  # fmt: skip
            config = ModelConfig.from_dict(tiny_raw("SF", global_head_dim=dim, rope_parameters=ropes))
            assert ModelConfig.from_dict(config.to_dict()) == config, (dim, partial)


def test_a_sliding_layer_with_its_own_heads_survives_writing() -> None:
    raw = tiny_raw(
        "SSF", per_layer_config={"0": {"head_dim": 12}, "2": {"head_dim": 16, "num_key_value_heads": 4}}
    )
    config = ModelConfig.from_dict(raw)
    assert [layer.head_dim for layer in config.layers] == [12, 8, 16]
    assert ModelConfig.from_dict(config.to_dict()) == config


@oracle.needed
@pytest.mark.parametrize("number", range(COUNT))
def test_the_oracle_reads_ours_as_it_reads_the_original(number: int) -> None:
    raw = raw_of(number)
    parsed = ModelConfig.from_dict(raw)
    theirs, ours = oracle.config_of(raw).text_config, oracle.config_of(parsed.to_dict()).text_config
    for text in (theirs, ours):
        layers = [text.per_layer_config[i] for i in range(text.num_hidden_layers)]
        shapes = [(layer.head_dim, layer.num_key_value_heads) for layer in layers]
        assert shapes == [(layer.head_dim, layer.num_key_value_heads) for layer in parsed.layers]
    assert theirs.final_logit_softcapping == ours.final_logit_softcapping == parsed.final_logit_softcapping
    want, got = theirs.to_dict(), ours.to_dict()
    for (
        name
    ) in want:  # heads are compared above; rope by what it is read as; "vision" changes nothing in the text
        if name not in ("per_layer_config", "head_dim", "num_key_value_heads", "rope_parameters",
                        "use_bidirectional_attention"):  # fmt: skip
            assert got[name] == want[name], name
    again = ModelConfig.from_dict({**raw, "text_config": json.loads(json.dumps(got))})
    assert again.layers == parsed.layers and again.eos_token_ids == parsed.eos_token_ids
