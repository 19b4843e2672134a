"""What quantisation configs mean, and that one that is not understood is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.config.formats import Format
from dgemma.errors import ConfigError
from dgemma.weights.quantization import parse, read_quantization
from dgemma.weights.schemes import Scheme

from .layouts import FORMATS, description


def changed(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path set, or taken away (...)."""
    raw = copy.deepcopy(raw)
    *way, last = path.split(".")
    inner = raw
    for key in way:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return raw


WANTED = {
    "fp8": Scheme("float-quantized", Format("fp8"), rounded=True),
    "fp8-tensor": Scheme("float-quantized", Format("fp8"), rounded=True, whole=True),
    "int8": Scheme("int-quantized", Format("int8")),
    "nvfp4": Scheme("nvfp4-pack-quantized", Format("nvfp4"), rounded=True),
    "modelopt": Scheme("modelopt", Format("nvfp4"), rounded=True),
    "int4": Scheme("pack-quantized", Format("int4", 32)),
    "int4-zeros": Scheme("pack-quantized", Format("int4", 16, zeros=True)),
    "gptq": Scheme("gptq", Format("int4", 16, zeros=True, scale="F16")),
    "gptq_v2": Scheme("gptq_v2", Format("int4", 16, zeros=True, scale="F16")),
    "gptq-sym": Scheme("gptq", Format("int4", 32, scale="F16")),
    "awq": Scheme("awq", Format("int4", 16, zeros=True, scale="F16")),
}
WEIGHTS = "config_groups.group_0.weights"


@pytest.mark.parametrize("layout", FORMATS)
def test_the_published_configs(layout: str) -> None:
    found = parse(description(layout))
    assert found.scheme_of("model.decoder.layers.0.mlp.up_proj", "Linear") == WANTED[layout]
    assert found.scheme_of("model.decoder.embed_tokens", "Embedding") is None and found.notes == ()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("config_groups.group_0.input_activations", None), (f"{WEIGHTS}.observer", "minmax"), (f"{WEIGHTS}.actorder", "weight"),
        (f"{WEIGHTS}.block_structure", None), ("transform_config", {}), (f"{WEIGHTS}.actorder", False),
        ("sparsity_config", {"format": "dense"}),
        ("transform_config", {"config_groups": {}}), ("sparsity_config", {}), ("version", "0.12.3"),
        ("global_compression_ratio", 1.2), ("format", "naive-quantized"), (f"{WEIGHTS}.scale_dtype", None), ("ignore", None),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_let_pass(path: str, value: Any) -> None:
    scheme = parse(changed(description("fp8"), path, value)).groups[0].scheme
    assert (scheme.layout, scheme.format) == ("float-quantized", Format("fp8"))
    assert scheme.rounded == ("input_activations" not in path)


REFUSED = [
    ("fp8", "quant_method", "bitsandbytes", "quant_method 'bitsandbytes'"),
    ("fp8", "quant_method", "fp8", "quant_method 'fp8'"),
    ("fp8", "quant_method", ..., "'quant_method' is missing"),
    ("fp8", "format", "mxfp4-pack-quantized", "mxfp4-pack-quantized"),
    ("fp8", "format", "dense", "format 'dense'"),
    ("fp8", "format", ..., "format None"),
    ("fp8", "quantization_status", "frozen", "quantization_status"),
    ("fp8", "config_groups", {}, "config_groups is empty"),
    ("fp8", "config_groups", {"FP8_DYNAMIC": ["Linear"]}, "a JSON object was expected"),
    ("fp8", WEIGHTS, None, "'weights' is None"),
    ("fp8", f"{WEIGHTS}.num_bits", 4, "'float' of 4 bits"),
    ("fp8", f"{WEIGHTS}.type", "int", "'int' of 8 bits"),
    ("fp8", f"{WEIGHTS}.strategy", "block", "strategy 'block'"),
    ("fp8", f"{WEIGHTS}.block_structure", [128, 128], "block_structure"),
    ("fp8", f"{WEIGHTS}.symmetric", False, "symmetric False"),
    ("fp8", f"{WEIGHTS}.dynamic", True, "dynamic"),
    ("fp8", f"{WEIGHTS}.mystery", 1, "unknown key 'mystery'"),
    ("fp8", "mystery", 1, "unknown key 'mystery'"),
    ("fp8", "config_groups.group_0.mystery", 1, "unknown key 'mystery'"),
    ("fp8", "config_groups.group_0.output_activations", {"num_bits": 8}, "output_activations"),
    ("fp8", "config_groups.group_0.targets", [1], "'targets' must be a list of names"),
    ("fp8", "config_groups.group_0.targets", ["re:("], "no regular expression"),
    ("fp8", "ignore", ["re:["], "no regular expression"),
    ("fp8", "transform_config", {"config_groups": {"R1": {"type": "hadamard"}}}, "transform_config"),
    ("fp8", "sparsity_config", {"format": "sparse-24-bitmask"}, "sparsity_config"),
    ("nvfp4", f"{WEIGHTS}.group_size", 32, "group_size 32"),
    ("int4", f"{WEIGHTS}.num_bits", 3, "'int' of 3 bits"),
    ("int4", f"{WEIGHTS}.num_bits", 8, "'int' of 8 bits"),
    ("int4", f"{WEIGHTS}.strategy", "channel", "strategy 'channel'"),
    ("int4", f"{WEIGHTS}.group_size", 0, "group_size 0"),
    ("int4", f"{WEIGHTS}.group_size", 33, "group_size 33"),
    ("int4", f"{WEIGHTS}.actorder", "sideways", "actorder 'sideways'"),
    ("int4", f"{WEIGHTS}.actorder", True, "actorder True"),
    ("int4", f"{WEIGHTS}.actorder", [], "actorder []"),
    ("int4", f"{WEIGHTS}.type", "a\nb", "'a\\nb' of 4 bits"),
    ("modelopt", "quant_algo", "FP8", "quant_algo 'FP8'"),
    ("modelopt", "quant_algo", "NVFP4_AWQ", "quant_algo 'NVFP4_AWQ'"),
    ("modelopt", "quant_algo", "MIXED_PRECISION", "quant_algo 'MIXED_PRECISION'"),
    ("modelopt", f"{WEIGHTS}.group_size", 32, "group_size"),
    ("gptq", "bits", 3, "'bits' is 3"),
    ("gptq", "group_size", -1, "group_size -1"),
    ("gptq", "checkpoint_format", "marlin", "checkpoint_format 'marlin'"),
    ("gptq", "dynamic", {"+:.*": {"bits": 8}}, "dynamic"),
    ("gptq", "sym", 1, "'sym' is 1"),
    ("awq", "version", "gemv", "version 'gemv'"),
    ("awq", "zero_point", False, "zero_point"),
    ("awq", "bits", True, "bits"),
]


@pytest.mark.parametrize(("layout", "path", "value", "message"), REFUSED)
def test_what_is_not_understood_is_refused_by_name(layout: str, path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(changed(description(layout), path, value), "here: quantization_config")
    assert (
        message in str(caught.value)
        and str(caught.value).startswith("here: ")
        and "\n" not in str(caught.value)
    )


KEYS = st.sampled_from([
    "quant_method", "format", "config_groups", "weights", "num_bits", "type", "targets", "ignore", "quant_algo", "bits",
    "group_size", "sym", "version", "sparsity_config", "kv_cache_scheme", "input_activations", "x",
])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
)


@given(JSON, st.sampled_from(["compressed-tensors", "modelopt", "gptq", "awq"]))
def test_any_json_is_read_or_refused(raw: Any, method: str) -> None:
    for value in (raw, {**raw, "quant_method": method} if isinstance(raw, dict) else raw):
        try:
            parse(value)
        except ConfigError as error:
            assert "\n" not in str(error)


def test_names_go_before_patterns_and_these_before_kinds() -> None:
    raw = description("fp8")
    group = raw["config_groups"]["group_0"]
    tensor = group | {"weights": group["weights"] | {"strategy": "tensor"}}
    raw["config_groups"] = {
        "kinds": group, "patterns": tensor | {"targets": ["re:.*mlp.*"], "input_activations": None},
        "names": tensor | {"targets": ["a.mlp.up_proj"]},
    }  # fmt: skip
    found = parse(raw)
    schemes = [found.scheme_of(name, "Linear") for name in ("a.q_proj", "a.mlp.down_proj", "a.mlp.up_proj")]
    assert [(scheme.whole, scheme.rounded) for scheme in schemes] == [
        (False, True),
        (True, False),
        (True, True),
    ]
    assert found.scheme_of("a.q_proj", "Embedding") is None


@pytest.mark.parametrize(
    ("layout", "key", "patterns", "ignored"),
    [
        (
            "fp8",
            "ignore",
            ["re:.*router.*", "a.b"],
            {"a.b": True, "a.bc": False, "x.router.proj": True, "x.a.b": False},
        ),
        ("fp8", "ignore", ["Embedding"], {"a.b": False}),
        (
            "modelopt",
            "ignore",
            ["lm_head", "a*self_attn*"],
            {"a.0.self_attn.q": True, "lm_head": True, "a.0.mlp": False},
        ),
        ("modelopt", "ignore", ["a.0"], {"a.0.self_attn": True, "a.0": True, "a.01": False}),
        ("awq", "modules_to_not_convert", ["router"], {"a.router.proj": True, "a.mlp": False}),
    ],
)
def test_ignore_lists(layout: str, key: str, patterns: list[str], ignored: dict[str, bool]) -> None:
    found = parse(description(layout) | {key: patterns})
    assert {name: found.ignores(name, "Linear") for name in ignored} == ignored


def test_activations_that_products_do_not_round_to_are_noted() -> None:
    eight = {"num_bits": 8, "type": "float", "dynamic": True}
    found = parse(changed(description("int4"), "config_groups.group_0.input_activations", eight))
    assert (
        not found.groups[0].scheme.rounded
        and "activations in 'float' of 8 bits are declared" in found.notes[0]
    )


def test_sorted_inputs_need_their_order() -> None:
    for raw in (
        description("gptq") | {"desc_act": True},
        changed(description("int4"), f"{WEIGHTS}.actorder", "group"),
    ):
        fields = parse(raw).groups[0].scheme.fields((64, 64))
        assert [field.needed for name, field in fields.items() if name.endswith("g_idx")] == [True]


def test_modelopts_own_file(tmp_path: Path) -> None:
    quantization = {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["a*", "lm_head"],
    }
    beside = {"producer": {"name": "modelopt", "version": "0.40.0"}, "quantization": quantization}
    (tmp_path / "config.json").write_text("{}")
    assert read_quantization(tmp_path) is None
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    found = read_quantization(tmp_path)
    assert (
        found.groups[0].scheme == WANTED["modelopt"]
        and found.ignores("a.b", "Linear")
        and "K/V" in found.notes[0]
    )
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": description("modelopt")}))
    assert read_quantization(tmp_path).groups[0].scheme == WANTED["modelopt"]
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": description("fp8")}))
    with pytest.raises(ConfigError, match="hf_quant_config.json: describes other weights"):
        read_quantization(tmp_path)
    quantization["quant_algo"] = None
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    with pytest.raises(ConfigError, match="quant_algo"):
        read_quantization(tmp_path)
