"""Whole folders in the published layouts: what is read is what was put in, and what is wrong with one is said once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dgemma
from dgemma.cli import doctor
from dgemma.errors import CheckpointError, UsageError
from dgemma.hub.locate import list_models
from dgemma.kernels.quant.formats import QuantTensor
from dgemma.memory.plan import estimate_memory
from dgemma.model.build import build
from dgemma.weights.copies import check_copies
from dgemma.weights.layout import Layout, inspect, read_layout
from dgemma.weights.reader import load_into, stream
from tests.helpers import assert_close

from .layouts import (
    EXPERTS,
    FORMATS,
    LINEAR,
    RAW,
    description,
    small_config,
    small_folder,
    small_state,
    write,
)

PROJ = "model.decoder.layers.0.self_attn.q_proj"
GATE = "model.decoder.layers.1.experts.2.gate_proj"


def equal(one: Tensor | QuantTensor, other: Tensor | QuantTensor) -> bool:
    """Bit for bit."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return type(one) is type(other) and torch.equal(one, other)
    same = one.format == other.format and one.shape == other.shape and one.parts.keys() == other.parts.keys()
    return same and all(
        part.dtype == other.parts[name].dtype
        and part.shape == other.parts[name].shape
        and torch.equal(part.contiguous().view(torch.uint8), other.parts[name].contiguous().view(torch.uint8))
        for name, part in one.parts.items()
    )


def damaged(tmp_path: Path, layout: str, change: dict[str, Tensor | None], groups=LINEAR, **config) -> Path:
    state, _ = small_state(layout, groups)
    state = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
    return write(tmp_path, state, description(layout) | config)


def problem(folder: Path) -> str:
    found = read_layout(folder, small_config()).problems
    assert len(found) == 1 and "\n" not in found[0], found
    return found[0]


@pytest.mark.parametrize("groups", [LINEAR, (*LINEAR, "embedding")])
def test_a_head_that_is_the_embedding_again_is_accepted(tmp_path: Path, groups: tuple[str, ...]) -> None:
    state, want = small_state("int8", groups)
    head = {
        name.replace("model.decoder.embed_tokens", "lm_head"): tensor.clone()
        for name, tensor in state.items()
        if "embed_tokens" in name
    }
    config = description("int8", ["lm_head"])
    if "embedding" in groups:
        config["config_groups"]["group_0"]["targets"] = ["Linear", "Embedding"]
    found = inspect(write(tmp_path, state | head, config), small_config())
    check_copies(found)
    assert len(found.copies) == len(head)
    assert equal(dict(stream(found, "cpu", torch.bfloat16))["embed.weight"], want["embed.weight"])
    name, tensor = next(iter(head.items()))
    other = (tensor.float() + 1).to(tensor.dtype)
    with pytest.raises(CheckpointError, match="differs from 'model.decoder.embed_tokens"):
        check_copies(inspect(write(tmp_path, state | head | {name: other}, config), small_config()))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_layout_is_read_bit_for_bit(tmp_path: Path, layout: str, shards: int) -> None:
    folder, want = small_folder(tmp_path, layout, shards=shards)
    found = inspect(folder, small_config())
    seen = dict(stream(found, "cpu", torch.bfloat16))
    assert seen.keys() == want.keys()
    assert [name for name in want if not equal(seen[name], want[name])] == []
    assert found.text["layers.0.experts.gate_up_proj"].nbytes > 0 and found.dtypes.keys() >= {
        FORMATS[layout].name,
        "BF16",
    }


def test_twin_experts_in_another_order_are_seen(tmp_path: Path) -> None:
    state, want = small_state("fp8")
    up = {name: tensor for name, tensor in state.items() if ".experts." in name and ".up_proj." in name}
    for name, tensor in up.items():
        gate = name.replace(".up_proj.", ".gate_proj.")
        state[name], state[gate] = state[gate], tensor
    seen = dict(
        stream(inspect(write(tmp_path, state, description("fp8")), small_config()), "cpu", torch.bfloat16)
    )
    assert [name for name in want if not equal(seen[name], want[name])] == [
        f"layers.{n}.experts.gate_up_proj" for n in (0, 1)
    ]


@pytest.mark.parametrize("layout", ["fp8", "nvfp4", "modelopt", "int4", "awq"])
def test_load_computes_from_it(tmp_path: Path, layout: str) -> None:
    folder, want = small_folder(tmp_path, layout, EXPERTS if layout == "modelopt" else LINEAR)
    model = dgemma.load(folder, device="cpu", dtype="float32")
    held = model.net.layers[0].experts.gate_up_proj
    assert (
        isinstance(held, QuantTensor)
        and equal(held, want["layers.0.experts.gate_up_proj"])
        and not held.rounded
    )
    plain = build(small_config(), "cpu", torch.float32)
    for name, tensor in want.items():
        path, _, leaf = name.rpartition(".")
        value = tensor.dequantised() if isinstance(tensor, QuantTensor) else tensor.float()
        getattr(plain.get_submodule(path), leaf).data.copy_(value)
    plain = dgemma.Model(plain, model.denoise, None, folder)
    canvas = [[5, 6, 7, 8]]
    assert_close(model.denoise_logits([[2, 9]], canvas), plain.denoise_logits([[2, 9]], canvas))


def test_an_embedding_and_a_router_in_eight_bits(tmp_path: Path) -> None:
    folder, want = small_folder(tmp_path, "fp8", ("embedding", "router"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = ["Linear", "Embedding"]
    (folder / "config.json").write_text(json.dumps(config))
    model = dgemma.load(folder, device="cpu")
    assert equal(model.net.embed.weight, want["embed.weight"])
    assert equal(model.net.layers[1].router.proj.weight, want["layers.1.router.proj.weight"])


@pytest.mark.parametrize(("asked", "rounded"), [(None, False), ("16bit", False), ("rounded", True)])
def test_activations_are_rounded_where_declared_and_asked_for(
    tmp_path: Path, asked: str | None, rounded: bool
) -> None:
    folder, _ = small_folder(tmp_path / "a", "fp8")
    assert (
        dgemma.load(folder, device="cpu", activations=asked).net.layers[0].mlp.up_proj.weight.rounded
        == rounded
    )
    folder, _ = small_folder(tmp_path / "b", "int4")
    assert not dgemma.load(folder, device="cpu", activations=asked).net.layers[0].mlp.up_proj.weight.rounded
    with pytest.raises(UsageError, match="activations 'fp8' is not known"):
        dgemma.load(folder, device="cpu", activations="fp8")


def test_it_cannot_be_trained(tmp_path: Path) -> None:
    folder, _ = small_folder(tmp_path, "fp8", EXPERTS)
    with pytest.raises(UsageError, match="cannot be trained"):
        dgemma.load(folder, device="cpu", trainable=True)


@pytest.mark.parametrize("layout", FORMATS)
def test_meta_reads_nothing_and_counts_what_a_load_holds(tmp_path: Path, layout: str) -> None:
    folder, want = small_folder(tmp_path, layout)
    found = inspect(folder, small_config())
    (folder / "model.safetensors").unlink()
    net = build(small_config())
    load_into(net, found, "meta", torch.bfloat16)
    held = {
        name: value
        for module in net.modules()
        for name, value in vars(module).items()
        if isinstance(value, QuantTensor)
    }
    assert held and all(part.is_meta for value in held.values() for part in value.parts.values())
    total = sum(tensor.nbytes for tensor in want.values())
    assert estimate_memory(small_config(), "bfloat16", 64, formats=found.formats).weight_bytes == total
    assert sum(stored.kept(2) for stored in found.text.values()) == total


@pytest.mark.parametrize("experts", ["plain", "fused"])
def test_experts_in_sixteen_bits_may_stand_apart(tmp_path: Path, experts: str) -> None:
    """An ignored layer keeps its experts per expert or grouped; both are read, and it is said that they are not quantised."""
    state, want = small_state("fp8", ("attention",))
    if experts == "plain":
        for layer in (0, 1):
            stem = f"model.decoder.layers.{layer}.experts"
            both, down = state.pop(f"{stem}.gate_up_proj"), state.pop(f"{stem}.down_proj")
            for number in range(len(both)):
                gate, up = both[number].chunk(2)
                state |= {
                    f"{stem}.{number}.gate_proj.weight": gate.clone(),
                    f"{stem}.{number}.up_proj.weight": up.clone(),
                }
                state[f"{stem}.{number}.down_proj.weight"] = down[number].clone()
    found = inspect(write(tmp_path, state, description("fp8")), small_config())
    seen = dict(stream(found, "cpu", torch.bfloat16))
    assert [name for name in want if not equal(seen[name], want[name])] == []
    assert any("stored in 16 bits or more" in note for note in found.notes())


def test_what_disagrees_with_the_ignore_list_is_noted_and_read(tmp_path: Path) -> None:
    state, want = small_state("fp8")
    ignore = ["re:.*self_attn.*", "re:.*router.*", "model.decoder.self_conditioning.gate_proj", "lm_head"]
    found = inspect(write(tmp_path, state, description("fp8", ignore)), small_config())
    name = "layers.0.self_attn.q_proj.weight"
    assert equal(dict(stream(found, "cpu", torch.bfloat16))[name], want[name])
    notes = "\n".join(found.notes())
    assert (
        f"7 matrices are on the ignore list of the quantisation config but stored in few bits ('{PROJ}' ...)"
        in notes
    )
    assert "2 matrices are named by the targets" in notes  # self_conditioning's up and down
    quiet = inspect(
        write(tmp_path, state, description("fp8", ["re:.*router.*", "re:.*self_conditioning.*"])),
        small_config(),
    )
    assert quiet.notes() == []


def test_stored_scales_of_activations_and_of_a_cache_are_noted(tmp_path: Path) -> None:
    scale = {"model.decoder.layers.0.self_attn.k_proj.k_scale": torch.ones(1)}
    folder = damaged(
        tmp_path,
        "modelopt",
        scale,
        EXPERTS,
        kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False},
    )
    notes = "\n".join(inspect(folder, small_config()).notes())
    assert "18 stored scales of activations are not used" in notes
    assert "1 scales of a K/V cache" in notes and "proposes a K/V cache in few bits" in notes


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        (
            "fp8",
            {f"{PROJ}.weight_scale": None},
            r"weight_scale' is missing: .* fp8 \(float-quantized\), and there is weight",
        ),
        (
            "fp8",
            {f"{PROJ}.weight_scale": torch.ones(32, 2)},
            r"weight_scale' has the shape \[32, 2\], but .* so \[64, 1\]",
        ),
        ("fp8", {f"{PROJ}.weight_scale": torch.ones(1)}, r"weight_scale' has the shape \[1\]"),
        (
            "fp8",
            {f"{PROJ}.weight_scale": torch.ones(64, 1, dtype=torch.float64)},
            "stored as F64, but .* so BF16 or F16 or F32",
        ),
        ("fp8", {f"{PROJ}.weight": torch.ones(64, 64, dtype=torch.int8)}, "q_proj.weight' is stored as I8"),
        ("fp8", {f"{PROJ}.weight_packed": torch.ones(1)}, f"unexpected tensor '{PROJ}.weight_packed'"),
        (
            "int4",
            {f"{PROJ}.weight_zero_point": torch.ones(8, 2, dtype=torch.int32)},
            "unexpected tensor .*weight_zero_point",
        ),
        ("nvfp4", {f"{PROJ}.weight_global_scale": None}, "weight_global_scale' is missing"),
        ("fp8", {f"{GATE}.weight": None, f"{GATE}.weight_scale": None}, f"tensor '{GATE}.weight' is missing"),
        (
            "fp8",
            {f"{GATE}.weight": torch.ones(32, 64), f"{GATE}.weight_scale": None},
            "other experts of its layer are quantised",
        ),
        ("int4", {f"{GATE}.weight_scale": torch.ones(32, 2)}, f"'{GATE}' is stored in another way than"),
        (
            "fp8",
            {"model.decoder.layers.0.experts.3.gate_proj.weight": torch.ones(1)},
            "experts.3.gate_proj.weight': no part",
        ),
        ("fp8", {"model.decoder.layers.0.input_layernorm.weight_scale": torch.ones(1)}, "unexpected tensor"),
        ("fp8", {"lm_head.weight": torch.ones(1)}, "tied"),
    ],
)
def test_fields_that_do_not_fit_are_one_error(
    tmp_path: Path, layout: str, change: dict, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(problem(damaged(tmp_path, layout, change)))


@pytest.mark.parametrize(
    ("stored", "said", "message"),
    [
        (
            "fp8",
            "int4",
            r"weight_packed' is missing: .* says int4 in groups of 32 .*there is weight \(F8_E4M3\), weight_scale",
        ),
        ("fp8", "nvfp4", "weight_packed' is missing"),
        ("fp8", "fp8-tensor", r"weight_scale' has the shape \[32, 1\], but .* so \[1\]"),
        ("nvfp4", "modelopt", "weight' is missing: quantization_config says nvfp4"),
        ("modelopt", "nvfp4", "weight_packed' is missing"),
        ("int4", "int4-zeros", "weight_zero_point' is missing"),
        ("int8", "fp8", "stored as I8"),
        ("awq", "gptq", r"qweight' has the shape \[64, 4\], but .* so \[8, 32\]"),
        ("gptq", "awq", "tensor .*qweight' has the shape"),
    ],
)
def test_a_config_of_another_layout_is_one_error_per_tensor(
    tmp_path: Path, stored: str, said: str, message: str
) -> None:
    state, _ = small_state(stored, EXPERTS)
    found = read_layout(write(tmp_path, state, description(said)), small_config()).problems
    assert len(found) == 4 and all("more of the same layer's experts" in line for line in found)
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(found[0])


def test_a_wrong_group_size_is_an_error(tmp_path: Path) -> None:
    said = description("int4")
    said["config_groups"]["group_0"]["weights"]["group_size"] = 16
    state, _ = small_state("int4", ("dense",))
    found = read_layout(write(tmp_path, state, said), small_config()).problems
    assert (
        len(found) == 6
        and "weight_scale' has the shape [64, 2], but" in found[0]
        and "so [64, 4]" in found[0]
    )
    said["config_groups"]["group_0"]["weights"]["group_size"] = 48
    found = read_layout(write(tmp_path, state, said), small_config()).problems
    assert len(found) == 6 and "has 64 inputs, which are no whole groups of int4 in groups of 48" in found[0]


def test_without_a_config_or_a_target_the_fields_are_not_guessed(tmp_path: Path) -> None:
    state, _ = small_state("fp8", EXPERTS)
    found = read_layout(write(tmp_path, state, None), small_config()).problems
    assert len(found) == 4 and all("config.json has no quantization_config" in line for line in found)
    said = description("fp8")
    said["config_groups"]["group_0"]["targets"] = ["re:.*self_attn.*"]
    found = read_layout(write(tmp_path, state, said), small_config()).problems
    assert len(found) == 4 and all("no target of" in line for line in found)
    state, _ = small_state("fp8", ("dense",))
    found = read_layout(write(tmp_path, state, None), small_config()).problems
    assert any("is stored as F8_E4M3; readable" in line for line in found)


def test_two_groups_of_two_formats(tmp_path: Path) -> None:
    state, want = small_state("fp8", ("attention", "dense"))
    other, wanted = small_state("nvfp4", EXPERTS)
    experts = {name for name in state if ".experts." in name}
    state = {name: tensor for name, tensor in state.items() if name not in experts}
    state |= {name: tensor for name, tensor in other.items() if ".experts." in name}
    said, four = description("fp8"), description("nvfp4")["config_groups"]["group_0"]
    said["config_groups"]["group_0"]["format"] = "float-quantized"
    said["config_groups"]["group_1"] = four | {
        "format": "nvfp4-pack-quantized",
        "targets": ["re:.*experts.*"],
    }
    said["format"] = "mixed-precision"
    found = inspect(write(tmp_path, state, said), small_config())
    seen = dict(stream(found, "cpu", torch.bfloat16))
    assert all(
        equal(seen[name], (wanted if ".experts." in name else want)[name]) for name in want if "proj" in name
    )


def test_a_config_that_is_not_understood_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder, _ = small_folder(tmp_path, "fp8", EXPERTS)
    (folder / "config.json").write_text(
        json.dumps(RAW | {"quantization_config": {"quant_method": "bitsandbytes"}})
    )
    assert "quant_method 'bitsandbytes' is not read" in problem(folder)
    with pytest.raises(CheckpointError, match="bitsandbytes"):
        dgemma.load(folder, device="meta")


def test_ls_and_doctor_name_the_format(tmp_path: Path) -> None:
    commit = "a" * 40
    folder, _ = small_folder(tmp_path / "models--o--m" / "snapshots" / commit, "fp8")
    (tmp_path / "models--o--m" / "refs").mkdir()
    (tmp_path / "models--o--m" / "blobs").mkdir()
    (tmp_path / "models--o--m" / "refs" / "main").write_text(commit)
    (found,) = [model for model in list_models(tmp_path) if model.name == "o/m"]
    assert (found.dtype, found.state) == ("fp8", "ok")
    report = doctor.examine(str(folder))
    assert not [line for line in report.problems if "tokenizer" not in line]
    assert list(report.model["weights"]["dtypes"]) == ["fp8", "BF16"]


# ---- values: found while streaming, each with the tensor's name


def streamed(folder: Path) -> None:
    list(stream(inspect(folder, small_config()), "cpu", torch.bfloat16))


def with_value(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1:] = value
    return changed


VALUES = [
    ("fp8", "weight_scale"), ("fp8-tensor", "weight_scale"), ("int8", "weight_scale"), ("nvfp4", "weight_global_scale"),
    ("nvfp4", "input_global_scale"), ("modelopt", "weight_scale_2"), ("modelopt", "input_scale"), ("int4", "weight_scale"),
    ("int4-zeros", "weight_scale"), ("gptq", "scales"), ("awq", "scales"),
]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("layout", "leaf"), VALUES)
def test_scales_that_are_no_numbers_are_named(tmp_path: Path, layout: str, leaf: str, value: float) -> None:
    state, _ = small_state(layout, EXPERTS)
    name = f"{GATE}.{leaf}"
    folder = write(tmp_path, state | {name: with_value(state[name], value)}, description(layout))
    with pytest.raises(
        CheckpointError, match=rf"model.safetensors: tensor '{GATE}' is damaged: its .* fetch it again"
    ):
        streamed(folder)
    streamed(write(tmp_path, state, description(layout)))


@pytest.mark.parametrize(
    ("layout", "leaf"), [("fp8", "weight"), ("nvfp4", "weight_scale"), ("modelopt", "weight_scale")]
)
@pytest.mark.parametrize("bits", [0x7F, 0xFF])
def test_bit_flips_that_make_nan_are_named(tmp_path: Path, layout: str, leaf: str, bits: int) -> None:
    state, _ = small_state(layout, EXPERTS)
    flipped = state[f"{GATE}.{leaf}"].clone()
    flipped.view(torch.uint8)[3, 1] = bits
    folder = write(tmp_path, state | {f"{GATE}.{leaf}": flipped}, description(layout))
    with pytest.raises(CheckpointError, match=f"tensor '{GATE}' is damaged: its e4m3 .* NaN"):
        streamed(folder)


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("nvfp4", {"weight_global_scale": torch.zeros(1)}, "weight_global_scale is 0"),
        (
            "int4",
            {"weight_shape": torch.tensor([32, 32])},
            r"weight_shape is \[32, 32\], the model asks for \[32, 64\]",
        ),
        ("gptq", {"g_idx": torch.arange(64, dtype=torch.int32).flip(0) // 16}, "g_idx sorts the inputs"),
        ("gptq-sym", {"qzeros": torch.full((2, 4), 0x66666666, dtype=torch.int32)}, "zero points are not 8"),
    ],
)
def test_values_that_contradict_the_layout(tmp_path: Path, layout: str, change: dict, message: str) -> None:
    change = {f"{GATE}.{leaf}": tensor for leaf, tensor in change.items()}
    with pytest.raises(CheckpointError, match=f"tensor '{GATE}' is damaged: its {message}"):
        streamed(damaged(tmp_path, layout, change, EXPERTS))


def test_a_truncated_or_bit_flipped_file(tmp_path: Path) -> None:
    folder, _ = small_folder(tmp_path, "nvfp4")
    path = folder / "model.safetensors"
    sound = path.read_bytes()
    os.truncate(path, len(sound) - 5)
    assert "truncated inside tensor" in problem(folder)
    header = int.from_bytes(sound[:8], "little")
    for place, byte in ((8, b"\x00"), (7, b"\x40"), (8 + sound[8:].index(b"U8"), b"V")):
        path.write_bytes(sound[:place] + byte + sound[place + 1 :])
        assert "model.safetensors" in problem(folder)
    path.write_bytes(sound[: 8 + header])
    assert "truncated" in problem(folder)
    path.write_bytes(sound)
    layout: Layout = inspect(folder, small_config())
    os.truncate(path, len(sound) - 5)  # after the check
    with pytest.raises(CheckpointError, match="truncated inside tensor"):
        list(stream(layout, "cpu", torch.bfloat16))
