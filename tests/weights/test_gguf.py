"""GGUF files: the header against the `gguf` library's reader, the model against its decoder, and the ways to be wrong."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import dgemma
from dgemma import api
from dgemma.cli import doctor
from dgemma.cli.main import main
from dgemma.config import DenoiseConfig, ModelConfig
from dgemma.errors import CheckpointError, DgemmaError, UsageError
from dgemma.kernels.quant.formats import QuantTensor
from dgemma.model.build import build
from dgemma.weights.gguf import TYPES, read_gguf
from dgemma.weights.gguf_config import denoise_config, model_config
from dgemma.weights.mapped import Maps, mapped
from dgemma.weights.source import source
from tests.helpers import assert_close, tiny_config

from . import gguf_files as files
from .weights_helpers import PUBLISHED

PROMPT, CANVAS = [[2, 5, 30, 300, 80, 81, 82, 83, 84]], [[7, 8, 9, 300, 301, 5, 6, 30]]
Found = dict[str, tuple[str, np.ndarray]]


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return files.config_for_blocks()


@pytest.fixture(scope="module")
def found(config: ModelConfig) -> Found:
    return files.tensors(config)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig, found: Found) -> Path:
    return files.write(tmp_path_factory.mktemp("gguf") / "model.gguf", files.metadata(config), found)


def logits(model: api.Model) -> torch.Tensor:
    return model.denoise_logits(PROMPT, CANVAS)


def decoded(config: ModelConfig, found: Found) -> torch.Tensor:
    """The logits of a plain model whose weights are the library's decoded arrays."""
    net = build(config, "cpu", torch.float64)
    net.load_state_dict(
        {name: torch.from_numpy(array).double() for name, array in files.numbers(config, found).items()}
    )
    return logits(api.Model(net, DenoiseConfig(), None, Path("decoded")))


# the header


def test_the_table_of_types_is_the_librarys() -> None:
    sizes = gguf.GGML_QUANT_SIZES
    assert {
        kind: (name, *sizes[gguf.GGMLQuantizationType(kind)]) for kind, (name, _, _) in TYPES.items()
    } == TYPES
    names = {int(kind): kind.name for kind in sizes}
    assert {kind: name for kind, (name, _, _) in TYPES.items()} == {kind: names[kind] for kind in TYPES}


def test_the_header_is_read_as_the_library_reads_it(path: Path) -> None:
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert not ours.problems
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.dtype, list(info.shape)) == (
            tensor.tensor_type.name,
            list(reversed(tensor.shape.tolist())),
        )
        assert (info.offset, info.nbytes) == (tensor.data_offset, tensor.n_bytes)
    assert set(ours.tensors) == {tensor.name for tensor in theirs.tensors}
    for key, value in ours.metadata.items():
        want = theirs.fields[key].contents()
        assert value == (pytest.approx(want, rel=1e-7) if isinstance(value, float) else want)


def test_a_float32_means_the_decimal_it_was_made_from(tmp_path: Path) -> None:
    values = [0.4, 0.8, 0.1, 0.005, 1e-6, 30.0, 1e30, 1 / 3]
    file = read_gguf(
        files.write(tmp_path / "x.gguf", {f"x.{n}": value for n, value in enumerate(values)}, {})
    )
    got = [file.metadata[f"x.{n}"] for n in range(len(values))]
    assert got[:-1] == values[:-1] and struct.pack("<f", got[-1]) == struct.pack("<f", values[-1])


# what it says of the model


@pytest.mark.parametrize("layers", ["SSF", "F", "SFSF"])
def test_the_config_is_the_one_it_was_made_from(layers: str, tmp_path: Path) -> None:
    config = files.config_for_blocks(layers)
    found = source(files.write_model(tmp_path / "x.gguf", config)).config()
    assert found == replace(
        config, eos_token_ids=(1, 4, 12)
    )  # <eos>, and <turn|> and <|tool_response|> by their text


def test_sampler_settings_are_read_where_the_file_has_them(
    path: Path, config: ModelConfig, tmp_path: Path
) -> None:
    plain = source(path).denoise(config)
    assert (plain.max_denoising_steps, plain.t_min, plain.entropy_bound) == (48, 0.4, 0.1)
    keys: dict[str, Any] = {
        "max_steps": 20, "t_min": 0.05, "t_max": 0.3, "entropy_bound": 0.2, "stability_threshold": 2,
        "confidence_threshold": 0.01,
    }  # fmt: skip
    file = read_gguf(
        files.write_model(
            tmp_path / "x.gguf", **{f"diffusion.eb_{key}": value for key, value in keys.items()}
        )
    )
    got = denoise_config(file, model_config(file))
    assert (got.max_denoising_steps, got.t_min, got.t_max, got.entropy_bound) == (20, 0.05, 0.3, 0.2)
    assert (got.stability_threshold, got.confidence_threshold, got.eos_token_id) == (2, 0.01, (1, 4, 12))


def change(**pairs: Any) -> dict[str, Any]:
    return {f"{files.ARCH}.{key.replace('__', '.')}": value for key, value in pairs.items()}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (change(attention__causal=True), "'attention.causal' is True"),
        (change(attention__shared_kv_layers=1), "'attention.shared_kv_layers' is 1"),
        (change(expert_shared_count=1), "unknown key 'expert_shared_count'"),
        (change(attention__head_count_kv=[2, 2]), "'attention.head_count_kv' has 2 entries for 3 layers"),
        (change(attention__head_count_kv=[2, 2, 3]), "layer 2 has 3 key-value heads"),
        (change(attention__sliding_window_pattern=[1, 1, 0]), "is not a list of true and false"),
        (
            change(attention__value_length=64),
            "'attention.value_length' is 64, but attention.key_length is 128",
        ),
        (change(rope__dimension_count=64), "'rope.dimension_count' is 64, but attention.key_length is 128"),
        (change(vocab_size=7), "'vocab_size' is 7, but 'token_embd.weight' has"),
        (change(expert_used_count=9), "top_k_experts 9 exceeds num_experts 4"),
        (change(block_count=2**31), "has 3 entries for 2147483648 layers"),
        ({"diffusion.canvas_length": 0}, "'canvas_length' is 0"),
        ({"diffusion.shift_logits": True}, "shift_logits"),
        ({"diffusion.eb_t_max": 0.01}, "t_max is 0.01"),
        ({"split.count": 3}, "one part of several"),
        ({"general.type": "adapter"}, "holds no model of its own"),
        ({"tokenizer.ggml.tokens": ["a"] * 1000}, "its vocabulary has 1000 tokens"),
    ],
)
def test_metadata_that_means_another_model_is_refused(
    pairs: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DgemmaError, match="x.gguf") as error:
        api.load(files.write_model(tmp_path / "x.gguf", **pairs), "meta")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0] * 64, None),  # all of a head rotates: another model, but one that is understood
        ([1.0] * 10 + [2.0] + [1e30] * 53, "scales frequencies"),
        ([1e30] * 10 + [1.0] * 54, "scales frequencies"),
        ([1.0] * 16 + [float("nan")] * 48, "scales frequencies"),
        ([1.0] * 32, "F32 [64] was expected"),
        (None, "is missing; it says how the full layers rotate"),
    ],
)
def test_rope_freqs_are_understood_or_refused(
    values: list[float] | None, message: str | None, config: ModelConfig, found: Found, tmp_path: Path
) -> None:
    given = {name: one for name, one in found.items() if name != "rope_freqs.weight"}
    if values is not None:
        given["rope_freqs.weight"] = "F32", np.array(values, dtype=np.float32)
    file = files.write(tmp_path / "x.gguf", files.metadata(config), given)
    if message is None:
        assert [layer.rotary_dims for layer in source(file).config().layers] == [64, 64, 128]
        return
    with pytest.raises(CheckpointError) as error:
        source(file).config()
    assert message in str(error.value)


# the model


def test_a_model_in_blocks_computes_what_its_decoded_weights_do(
    path: Path, config: ModelConfig, found: Found
) -> None:
    model = api.load(path, "cpu", "float64")
    layer: Any = model.net.get_submodule("layers.0")
    assert (
        isinstance(layer.experts.gate_up_proj, QuantTensor)
        and layer.experts.gate_up_proj.format.name == "q4_k"
    )
    assert isinstance(model.net.embed.weight, QuantTensor) and isinstance(
        layer.router.proj.weight, torch.Tensor
    )
    got, want = logits(model), decoded(config, found)
    assert_close(got, want, "float64")
    for twin in (
        swapped_nibbles(found),
        exchanged(found, "post_ffw_norm_1", "post_ffw_norm_2"),
        turned(found),
    ):
        assert not torch.allclose(got, decoded(config, twin), rtol=1e-3)


def swapped_nibbles(found: Found) -> Found:
    """One matrix of blocks with the halves of its bytes exchanged."""
    kind, raw = found["blk.1.attn_output.weight"]
    return found | {"blk.1.attn_output.weight": (kind, (raw << 4) | (raw >> 4))}


def exchanged(found: Found, one: str, other: str) -> Found:
    names = [f"blk.1.{name}.weight" for name in (one, other)]
    return found | {names[0]: found[names[1]], names[1]: found[names[0]]}


def turned(found: Found) -> Found:
    """Up rows before gate rows."""
    kind, raw = found["blk.0.ffn_gate_up_exps.weight"]
    return found | {"blk.0.ffn_gate_up_exps.weight": (kind, np.roll(raw, raw.shape[1] // 2, axis=1))}


MIXES = {
    "Q8_0": lambda name, shape: (
        "F32" if len(shape) == 1 else "Q8_0"
    ),  # the router too, which llama.cpp leaves in F32
    "Q6_K": lambda name, shape: (
        "F32" if len(shape) == 1 or "gate_inp" in name else "Q8_0" if shape[-1] % 256 else "Q6_K"
    ),
    "Q5_K": lambda name, shape: (
        "F32" if len(shape) == 1 or "gate_inp" in name else "Q5_1" if shape[-1] % 256 else "Q5_K"
    ),
    "BF16": lambda name, shape: "F32" if len(shape) == 1 else "BF16",
    "F16": lambda name, shape: "F32" if len(shape) == 1 else "F16",
    "plain up, blocks down": lambda name, shape: "Q8_0" if "down" in name and len(shape) > 1 else "F32",
    "blocks up, plain down": lambda name, shape: "Q5_K" if "ffn_gate_up_exps" in name else "F32",
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_mix_computes_what_its_decoded_weights_do(
    mix: str, dtype: str, config: ModelConfig, tmp_path: Path
) -> None:
    found = files.tensors(config, MIXES[mix], seed=3)
    model = api.load(files.write(tmp_path / "x.gguf", files.metadata(config), found), "cpu", dtype)
    assert_close(logits(model), decoded(config, found), dtype)


def apart(found: Found, exchange: bool = False) -> Found:
    """Gate and up of the experts as two tensors."""
    result = {}
    for name, (kind, raw) in found.items():
        if "gate_up" in name:
            halves = np.split(raw, 2, axis=1)
            for half, values in zip(("up", "gate") if exchange else ("gate", "up"), halves, strict=True):
                result[name.replace("gate_up", half)] = kind, np.ascontiguousarray(values)
        else:
            result[name] = kind, raw
    return result


@pytest.mark.parametrize("kinds", [files.like_q4_k_m, MIXES["F16"]], ids=["blocks", "plain"])
def test_gate_and_up_may_be_two_tensors(kinds: files.Kinds, config: ModelConfig, tmp_path: Path) -> None:
    found = files.tensors(config, kinds)
    want = decoded(config, found)
    got = logits(
        api.load(files.write(tmp_path / "x.gguf", files.metadata(config), apart(found)), "cpu", "float64")
    )
    assert_close(got, want, "float64")
    other = files.write(tmp_path / "y.gguf", files.metadata(config), apart(found, exchange=True))
    assert not torch.allclose(logits(api.load(other, "cpu", "float64")), want, rtol=1e-3)


def test_gate_and_up_must_share_a_type(config: ModelConfig, found: Found, tmp_path: Path) -> None:
    name, shape = "blk.1.ffn_up_exps.weight", (4, 32, 256)
    mixed = apart(found) | {name: ("Q8_0", files.blocks("Q8_0", shape, 1))}
    with pytest.raises(
        CheckpointError, match="blk.1.ffn_gate_exps.weight' is Q4_K and 'blk.1.ffn_up_exps.weight' Q8_0"
    ):
        api.load(files.write(tmp_path / "x.gguf", files.metadata(config), mixed), "meta")


def test_the_meta_device_reads_nothing_and_knows_all(path: Path, config: ModelConfig) -> None:
    model = api.load(path, "meta")
    weights = source(path).layout(source(path).config()).text
    for name, stored in weights.items():
        owner = model.net.get_submodule(name.rpartition(".")[0])
        weight = getattr(owner, name.rpartition(".")[2])
        assert weight.device.type == "meta" and tuple(weight.shape) == stored.shape
        assert isinstance(weight, QuantTensor) == (stored.format is not None)
    with pytest.raises(UsageError, match="meta device"):
        model.generate_ids([2, 5])


def test_the_published_q4_k_m_is_read_at_its_full_size(tmp_path: Path) -> None:
    published = ModelConfig.from_file(PUBLISHED / "config.json")
    path = files.write_hollow(tmp_path / "big.gguf", published, files.published_q4_k_m)
    found = source(path)
    config = found.config()
    ours = replace(
        config,
        eos_token_ids=published.eos_token_ids,
        image_token_id=published.image_token_id,
        has_vision=True,
    )
    assert ours == published
    layout = found.inspect(config)
    assert len(layout.tensors) == 692
    # the bytes of tensor data that a published header claims, each tensor padded to 32
    assert sum(-(-tensor.nbytes // 32) * 32 for tensor in layout.tensors.values()) == 16_790_985_600
    assert path.stat().st_blocks * 512 < 1e6
    model = api.load(path, "meta")
    assert model.net.layers is not None and model.net.dtype == torch.bfloat16
    report = doctor.examine(str(path))
    assert not report.problems and report.model is not None and report.fits
    assert report.model["weights"]["text"]["bytes"] == layout.text_bytes
    # and its twin: another recipe has other bytes
    hollow = files.write_hollow(tmp_path / "other.gguf", published, files.like_q4_k_m)
    assert source(hollow).inspect(config).total_bytes != layout.total_bytes


def test_matrices_are_used_where_they_stand_in_the_file(path: Path, found: Found) -> None:
    file = source(path)
    layout, maps = file.inspect(file.config()), Maps()
    places = {
        "layers.0.experts.gate_up_proj": "blk.0.ffn_gate_up_exps.weight",
        "embed.weight": "token_embd.weight",
    }
    for name, there in places.items():
        weight = mapped(layout.text[name], maps)
        assert isinstance(weight, QuantTensor) and weight.shape == layout.text[name].shape
        assert weight.parts["codes"].numpy().tobytes() == found[there][1].tobytes()


# files that are wrong


def mangled(path: Path, place: int, data: bytes, to: Path) -> Path:
    raw = bytearray(path.read_bytes())
    raw[place : place + len(data)] = data
    to.write_bytes(raw)
    return to


def count(value: int) -> bytes:
    return struct.pack("<Q", value)


@pytest.mark.parametrize(
    ("place", "data", "message"),
    [
        (0, b"GGML", "not a GGUF file: it begins with b'GGML'"),
        (0, b"version https", "a Git LFS pointer"),
        (4, struct.pack("<I", 1), "GGUF version 1"),
        (4, struct.pack(">I", 3), "a big-endian GGUF file"),
        (8, count(2**60), "claims 1152921504606846976 tensors"),
        (16, count(2**60), "claims 1152921504606846976 metadata keys"),
        (24, count(2**62), "do not hold its header"),  # the length of the first key
        (24, count(0), "is no name"),
    ],
)
def test_a_header_that_claims_too_much_is_one_error(
    place: int, data: bytes, message: str, path: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as error:
        api.load(mangled(path, place, data, tmp_path / "x.gguf"))
    assert message in str(error.value) and "x.gguf" in str(error.value) and "\n" not in str(error.value)


def test_an_array_that_claims_too_much_is_one_error(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    place = (
        raw.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    )  # behind the kinds of value and element
    for claim, message in (
        (2**61, "claims 2305843009213693952 elements"),
        (2**20, "do not hold its header|not UTF-8"),
    ):
        with pytest.raises(CheckpointError, match=message):
            api.load(mangled(path, place, count(claim), tmp_path / "x.gguf"))


def test_a_big_endian_file_of_the_library_is_refused(config: ModelConfig, tmp_path: Path) -> None:
    file = files.write(tmp_path / "x.gguf", {"general.type": "model"}, {}, endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(CheckpointError, match="big-endian"):
        api.load(file)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="architecture 'gemma4'; this build runs 'diffusion-gemma'"):
        api.load(files.write(tmp_path / "x.gguf", {}, {}, arch="gemma4"))


def test_a_file_cut_anywhere_is_one_error(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    cut = tmp_path / "x.gguf"
    for length in (0, 3, 4, 11, 23, 30, 400, 5000, 12_000, len(raw) // 2, len(raw) - 1000):
        cut.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match="truncated|not a GGUF file"):
            api.load(cut, "meta")
    cut.write_bytes(raw + bytes(64))
    with pytest.raises(CheckpointError, match="64 unclaimed bytes after the last tensor"):
        api.load(cut, "meta")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(where=0.0, bit=0)
def test_a_flipped_bit_in_the_header_is_one_error_or_another_model(
    where: float, bit: int, path: Path, tmp_path: Path
) -> None:
    raw = bytearray(path.read_bytes())
    header = min(info.offset for info in read_gguf(path).tensors.values())
    raw[int(where * header)] ^= 1 << bit
    flipped = tmp_path / "x.gguf"
    flipped.write_bytes(raw)
    try:
        model = api.load(flipped, "meta")
    except DgemmaError as error:
        assert "\n" not in str(error) and "x.gguf" in str(error)
    else:
        assert model.config.hidden_size == 256


@pytest.mark.parametrize("kind", ["IQ4_XS", "Q3_K", "Q4_0"])
def test_a_block_type_that_is_not_read_is_refused_by_name(kind: str, path: Path, tmp_path: Path) -> None:
    big = tiny_config(
        "F",
        vocab_size=384,
        hidden_size=256,
        intermediate_size=256,
        global_head_dim=128,
        moe_intermediate_size=256,
    )
    kinds: files.Kinds = lambda name, shape: (
        kind if name == "blk.0.ffn_down.weight" else files.like_q4_k_m(name, shape)
    )
    with pytest.raises(CheckpointError) as error:
        api.load(files.write_hollow(tmp_path / "x.gguf", big, kinds), "meta")
    assert f"tensor 'blk.0.ffn_down.weight' is stored as {kind}; readable: BF16, F16, F32" in str(error.value)
    assert "Q4_K" in str(error.value)


def test_norms_are_not_read_in_blocks(config: ModelConfig, found: Found, tmp_path: Path) -> None:
    name = "blk.1.attn_norm.weight"
    given = found | {name: ("Q8_0", files.blocks("Q8_0", (256,), 0))}
    with pytest.raises(
        CheckpointError, match=f"tensor '{name}' is stored as Q8_0; norms and scales are read in"
    ):
        api.load(files.write(tmp_path / "x.gguf", files.metadata(config), given), "meta")


def test_missing_strange_and_misshapen_tensors_are_told(
    config: ModelConfig, found: Found, tmp_path: Path
) -> None:
    given = {name: one for name, one in found.items() if name != "blk.2.enc_layer_output_scale.weight"}
    given |= {
        "output.weight": found["blk.0.attn_q.weight"],
        "blk.2.attn_v.weight": found["blk.1.attn_v.weight"],  # full layers have none
        "blk.3.attn_norm.weight": found["blk.1.attn_norm.weight"],
        "mm.weight": found["output_norm.weight"],
        "output_norm.weight": ("F32", np.ones(255, np.float32)),
    }
    file = source(files.write(tmp_path / "x.gguf", files.metadata(config), given))
    told = "\n".join(file.layout(file.config()).problems)
    for part in (
        "tensor 'blk.2.enc_layer_output_scale.weight' is missing",
        "unexpected tensor 'output.weight': the output head is tied to token_embd.weight",
        "unexpected tensor 'blk.2.attn_v.weight': the metadata describes no such tensor",
        "unexpected tensor 'blk.3.attn_norm.weight': the metadata describes no such tensor",
        "unexpected tensor 'mm.weight': no part of this model is called so",
        "tensor 'output_norm.weight' has the shape [255], the metadata asks for [256]",
    ):
        assert part in told
    with pytest.raises(CheckpointError, match="and 5 more: `dgemma doctor"):
        file.inspect(file.config())


def test_a_head_that_is_the_embedding_again_is_accepted(
    config: ModelConfig, found: Found, path: Path, tmp_path: Path
) -> None:
    again = files.write(
        tmp_path / "x.gguf", files.metadata(config), found | {"output.weight": found["token_embd.weight"]}
    )
    model = api.load(again, "cpu", "float32")
    assert torch.equal(logits(model), logits(api.load(path, "cpu", "float32")))
    assert "'output.weight'" in model.notes[0]
    kind, raw = found["token_embd.weight"]
    changed = raw.copy()
    changed.reshape(-1).view(np.uint8)[-1] ^= 1
    files.write(tmp_path / "y.gguf", files.metadata(config), found | {"output.weight": (kind, changed)})
    with pytest.raises(CheckpointError, match="'output.weight' differs from 'token_embd.weight'"):
        api.load(tmp_path / "y.gguf", "cpu", "float32")


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q.weight", "blk.1.ffn_down_exps.weight", "token_embd.weight", "blk.0.attn_norm.weight"],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_found_while_reading(
    name: str, value: float, path: Path, tmp_path: Path
) -> None:
    info = read_gguf(path).tensors[name]
    half = np.array(value, dtype="<f4" if info.dtype == "F32" else "<f2").tobytes()
    place = info.offset + (208 if info.dtype == "Q6_K" else 0)
    with pytest.raises(CheckpointError, match=f"x.gguf: tensor '{name}'.*(NaN or infinite|is damaged)"):
        api.load(mangled(path, place, half, tmp_path / "x.gguf"), "cpu", "float32")


def test_overlapping_and_shifted_tensors_are_told(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    names = list(read_gguf(path).tensors)
    for offset, message in ((0, "overlaps the one before it"), (7, "does not begin at a multiple of 32")):
        end = raw.index(names[1].encode()) + len(names[1])
        dims = struct.unpack_from("<I", raw, end)[0]
        file = read_gguf(mangled(path, end + 4 + 8 * dims + 4, count(offset), tmp_path / "x.gguf"))
        assert any(message in problem for problem in file.problems)


def test_a_tensor_inside_another_is_the_only_problem(path: Path, tmp_path: Path) -> None:
    """What follows the longer of the two is neither a gap nor an overlap."""
    raw = path.read_bytes()
    tensors = list(read_gguf(path).tensors.values())
    place = next(
        place
        for place, (long, short) in enumerate(pairwise(tensors))
        if place and long.nbytes > short.nbytes + 64 and -short.nbytes % 32 == 0
    )
    long, short = tensors[place : place + 2]
    end = raw.index(short.name.encode()) + len(short.name)
    dims = struct.unpack_from("<I", raw, end)[0]
    start = tensors[0].offset
    moved = mangled(path, end + 4 + 8 * dims + 4, count(long.offset - start), tmp_path / "x.gguf")
    kinds = [problem.partition("' ")[2] or problem for problem in read_gguf(moved).problems]
    assert len(kinds) == 2, kinds
    assert kinds[0] == "overlaps the one before it; the file is damaged"
    assert f"{short.nbytes} unclaimed bytes before" in kinds[1]


# text


def test_text_is_read_with_the_vocabulary_in_the_file(path: Path) -> None:
    model = dgemma.load(path)
    assert model.chat_tuned and model.tokenizer.special.bos == 2
    assert model.tokenizer.decode(model.tokenizer.encode("hello\n\n hello é中ﬃ")) == "hello\n\n hello é中ﬃ"
    done = model.generate("hello", 8, max_denoising_steps=3)
    assert len(done.token_ids) == 8


def test_the_verbs_take_a_file(path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hello", "--max-tokens", "8", "-m", str(path), "--max-denoising-steps", "2"]) == 0
    assert capfd.readouterr().out
    assert main(["doctor", str(path)]) == 0
    told = capfd.readouterr().out
    assert "1 GGUF files" in told and "no problem found" in told and "q4_k" in told
    raw = path.read_bytes()
    (tmp_path / "x.gguf").write_bytes(raw[: len(raw) // 2])
    assert main(["doctor", str(tmp_path / "x.gguf")]) == 3
    assert "truncated inside tensor 'rope_freqs.weight'" in capfd.readouterr().out


def test_a_tokenizer_beside_the_file_goes_before_the_one_in_it(
    path: Path, config: ModelConfig, tmp_path: Path
) -> None:
    import json

    from tests.helpers import byte_tokenizer_json

    file = tmp_path / "x.gguf"
    file.write_bytes(path.read_bytes())
    inside = dgemma.load(file).tokenizer.encode("hello")
    (tmp_path / "tokenizer.json").write_text(json.dumps(byte_tokenizer_json()))
    assert dgemma.load(file).tokenizer.encode("hello") != inside
    assert source(file).vocabulary() == tmp_path / "tokenizer.json"


def test_without_a_readable_vocabulary_ids_still_work(tmp_path: Path) -> None:
    model = dgemma.load(files.write_model(tmp_path / "x.gguf", **{"tokenizer.ggml.model": "gpt2"}))
    assert len(model.generate_ids([2, 5], 8, max_denoising_steps=2).token_ids) == 8
    with pytest.raises(
        UsageError, match="x.gguf: a vocabulary of the kind 'gpt2' is not read, and.*use generate_ids"
    ):
        model.generate("hello")
