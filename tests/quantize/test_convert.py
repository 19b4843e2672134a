"""Quantising a folder: what other programs and our reader make of it, and what is left where it is cut off."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils import match_name
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import dgemma
from dgemma.config import ModelConfig
from dgemma.errors import CheckpointError, ResourceError, UsageError
from dgemma.kernels.quant.formats import QuantTensor
from dgemma.quantize import convert as convert_module
from dgemma.quantize import partial
from dgemma.quantize.convert import convert, deal, plan
from dgemma.quantize.quant_config import KEPT, chosen, describe
from dgemma.quantize.scales import search_scales
from dgemma.weights.layout import inspect
from dgemma.weights.names import expected_tensors, modules
from dgemma.weights.reader import stream
from dgemma.weights.shards import ShardFile
from tests.helpers import byte_tokenizer_json
from tests.weights.layouts import RAW, small_config, write

QUANT_CONFIGS: dict[str, tuple[str, tuple[str, ...], int | None]] = {
    "fp8": ("fp8", (), None),
    "int4": ("int4", (), None),
    "int4-16bit": ("int4", ("attention,dense,router,self_conditioning,embeddings=bf16",), 32),
    "nvfp4": ("nvfp4", (), None),
    "nvfp4+fp8": ("nvfp4", ("attention,dense=fp8", "embeddings=fp8"), None),
    "int4+all": ("int4", ("attention,dense,router,self_conditioning=fp8", "embeddings=int8"), None),
}
VISION = "model.encoder.vision_tower.encoder.layers.0.self_attn.q_proj.weight"


def plain_state(dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Checkpoint names; gates are four times as large as ups, so that each would choose another scale of its matrix."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, target in expected_tensors(small_config()).items():
        state[name] = torch.randn(target.shape, generator=generator)
        if name.endswith("gate_up_proj"):
            state[name][:, : target.shape[1] // 2] *= 4.0
        state[name] = state[name].to(dtype)
    state[VISION] = torch.randn((3, 5), generator=generator)
    state["model.encoder.embed_vision.kept"] = torch.arange(7)
    return state


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write(tmp_path / "source", plain_state(), None, shards=2)
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer_json()))
    (folder / "generation_config.json").write_text(
        json.dumps({"max_denoising_steps": 4, "eos_token_id": [1]})
    )
    (folder / "chat_template.jinja").write_text("{{ turns }}")
    (folder / "NOTICE.txt").write_text("nobody's")
    (folder / "training.log").write_text("not for others")
    return folder


def made(source: Path, target: Path, preset: str, **more: Any) -> convert_module.Converted:
    return convert(source, target, chosen(*QUANT_CONFIGS[preset]), **more)


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def description(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def fields_of(state: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    return {
        name.rpartition(".")[2]: tensor for name, tensor in state.items() if name.rpartition(".")[0] == module
    }


def decompressed(fields: dict[str, Tensor], scheme: Any) -> Tensor:
    """What the library that defines the layout makes of one matrix."""
    return BaseCompressor.get_value_from_registry(scheme.format).decompress(dict(fields), scheme)["weight"]


def scheme_of(config: QuantizationConfig, module: str) -> Any:
    """The scheme that the library's own matching finds for a module's name."""
    if any(match_name(module, pattern) for pattern in config.ignore):
        return None
    found = [
        group
        for group in config.config_groups.values()
        if any(match_name(module, target) for target in group.targets)
    ]
    assert len(found) <= 1, module
    return found[0] if found else None


def quantised_modules(preset: str) -> dict[str, tuple[str, int, int]]:
    """Module -> (model name, first row, rows) of all that a preset quantises."""
    formats, found = chosen(*QUANT_CONFIGS[preset]), {}
    for name, target in expected_tensors(small_config()).items():
        place = 0
        for module, (rows, _) in modules(name, target) if target.group in formats else ():
            found[module] = (target.model_name, place, rows)
            place += rows
    return found


# what others make of it


@pytest.mark.parametrize("preset", QUANT_CONFIGS)
def test_the_librarys_decompressor_gives_our_numbers(source: Path, tmp_path: Path, preset: str) -> None:
    """Every matrix, bit for bit, after one rounding to the dtype that the library gives it."""
    made(source, tmp_path / "made", preset, shard_bytes=20_000)
    state, config = tensors(tmp_path / "made"), QuantizationConfig(**description(tmp_path / "made"))
    ours = dict(stream(inspect(tmp_path / "made", small_config()), "cpu", torch.float32))
    assert quantised_modules(preset)
    for module, (name, first, rows) in quantised_modules(preset).items():
        fields, scheme = fields_of(state, module), scheme_of(config, module)
        assert scheme is not None and len(fields) >= 2, module
        got = decompressed(fields, scheme)
        want = ours[name].dequantised(got.dtype).flatten(0, -2)[first : first + rows]
        assert torch.equal(got, want), module
        for wrong in wrong_fields(fields):
            assert not torch.equal(decompressed(wrong, scheme), want), (module, wrong.keys())


def wrong_fields(fields: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Twins that must fail: halves of bytes swapped, scales of other groups or rows, a global scale the wrong way round."""
    found, codes = [], "weight_packed" if "weight_packed" in fields else "weight"
    raw = fields[codes].view(torch.uint8)
    other = (raw << 4) | (raw >> 4) if codes == "weight_packed" else raw.roll(1, -1)
    found.append(fields | {codes: other.view(fields[codes].dtype)})
    scale = fields["weight_scale"]
    found.append(fields | {"weight_scale": scale.view(torch.uint8).roll(1, 0).view(scale.dtype)})
    if scale.shape[1] > 1:
        found.append(fields | {"weight_scale": scale.float().roll(1, -1).to(scale.dtype)})
    if "weight_global_scale" in fields:
        found.append(fields | {"weight_global_scale": fields["weight_global_scale"].reciprocal()})
    return found


@pytest.mark.parametrize("preset", QUANT_CONFIGS)
def test_the_config_describes_what_is_there_and_nothing_else(
    source: Path, tmp_path: Path, preset: str
) -> None:
    made(source, tmp_path / "made", preset)
    config, state, few = (
        QuantizationConfig(**description(tmp_path / "made")),
        tensors(tmp_path / "made"),
        quantised_modules(preset),
    )
    assert config.quantization_status == "compressed"
    formats = {group.format for group in config.config_groups.values()}
    assert config.format == ("mixed-precision" if len(formats) > 1 else formats.pop())
    for module in {name.rpartition(".")[0] for name in state} | {"lm_head"}:
        assert (scheme_of(config, module) is not None) == (module in few), module
    for module in few:
        declared = scheme_of(config, module).input_activations
        rounded = (
            scheme_of(config, module).format == "float-quantized"
            and ".router." not in module
            and "embed" not in module
        )
        assert (declared is not None) == rounded, module
        assert not rounded or (declared.dynamic and declared.strategy == "token" and declared.num_bits == 8)


@pytest.mark.parametrize("preset", QUANT_CONFIGS)
def test_our_reader_reads_what_encoding_made(source: Path, tmp_path: Path, preset: str) -> None:
    done = made(source, tmp_path / "made", preset, shard_bytes=30_000)
    before = dict(stream(inspect(source, small_config()), "cpu", torch.float32))
    formats = chosen(*QUANT_CONFIGS[preset])
    for target in expected_tensors(small_config()).values():
        name = target.model_name
        (got,) = [
            weight
            for key, weight in stream(inspect(done.folder, small_config()), "cpu", torch.float32)
            if key == name
        ]
        if target.group in formats and len(target.shape) > 1:
            want = search_scales(before[name], formats[target.group])
            assert isinstance(got, QuantTensor) and got.format == want.format
            assert all(torch.equal(got.parts[part], value) for part, value in want.parts.items()), name
            error = (want.dequantised() - before[name]).square().sum() / before[name].square().sum()
            assert done.errors[name] == pytest.approx(float(error.sqrt()), rel=1e-4)
        else:
            assert torch.equal(got, before[name]) and name not in done.errors


def test_gate_and_up_of_an_expert_share_the_scale_of_a_matrix(source: Path, tmp_path: Path) -> None:
    made(source, tmp_path / "made", "nvfp4")
    state, alone = tensors(tmp_path / "made"), 0
    for layer, expert in ((0, 0), (1, 2)):
        stem = f"model.decoder.layers.{layer}.experts"
        gate, up = (state[f"{stem}.{expert}.{kind}_proj.weight_global_scale"] for kind in ("gate", "up"))
        assert torch.equal(gate, up) and float(gate.log2()) == round(float(gate.log2()))
        half = tensors(source)[f"{stem}.gate_up_proj"][expert].chunk(2)[1]
        alone += float(search_scales(half, chosen("nvfp4")["experts"]).parts["row"][0]) != float(1 / up)
    assert alone, "ups by themselves would have chosen the same scale, so nothing was shown"


def test_what_is_not_quantised_is_the_same_to_the_byte(source: Path, tmp_path: Path) -> None:
    made(source, tmp_path / "made", "int4", shard_bytes=10_000)
    before, after = tensors(source), tensors(tmp_path / "made")
    kept = {name for name in before if "experts" not in name}
    assert VISION in kept and set(after) & set(before) == kept
    for name in kept:
        assert after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]), name
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "NOTICE.txt"):
        assert (tmp_path / "made" / name).read_bytes() == (source / name).read_bytes()
    assert not (tmp_path / "made" / "training.log").exists() and not list(tmp_path.glob(".*"))
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config.pop("quantization_config") and config == json.loads((source / "config.json").read_text())


def test_a_source_with_a_tensor_per_expert_gives_the_same(source: Path, tmp_path: Path) -> None:
    state = {}
    for name, tensor in plain_state().items():
        target = expected_tensors(small_config()).get(name)
        if target is None or target.group != "experts":
            state[name] = tensor
            continue
        rows = tensor.flatten(0, 1).split([shape[0] for _, shape in modules(name, target)])
        state |= {
            f"{module}.weight": part.clone()
            for (module, _), part in zip(modules(name, target), rows, strict=True)
        }
    apart = write(tmp_path / "apart", state, None)
    for preset in ("nvfp4", "fp8"):
        made(source, tmp_path / f"one-{preset}", preset)
        made(apart, tmp_path / f"two-{preset}", preset)
        one, two = tensors(tmp_path / f"one-{preset}"), tensors(tmp_path / f"two-{preset}")
        assert one.keys() == two.keys()
        assert all(
            torch.equal(one[name].flatten().view(torch.uint8), two[name].flatten().view(torch.uint8))
            for name in one
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_sources_of_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    state = plain_state(dtype)
    state["model.decoder.layers.0.experts.down_proj"][1] = 0.0
    source = write(tmp_path / "source", state, None)
    for preset in ("int4", "nvfp4", "fp8"):
        done = made(source, tmp_path / preset, preset)
        assert all(error < 0.15 for error in done.errors.values())
        inspected = dict(stream(inspect(done.folder, small_config()), "cpu", torch.float32))
        assert not inspected["layers.0.experts.down_proj"].dequantised()[1].any()


def test_importance_is_that_of_its_expert(source: Path, tmp_path: Path) -> None:
    """Inputs that count a thousandfold err less than without, for the expert whose they are."""
    name, form = "layers.0.experts.gate_up_proj", chosen("int4")["experts"]
    importance = torch.ones(3, 64)
    importance[1, :8] = 1000.0
    made(source, tmp_path / "plain", "int4")
    convert(source, tmp_path / "made", chosen("int4"), {name: importance})
    exact = dict(stream(inspect(source, small_config()), "cpu", torch.float32))[name]
    plain, weighed = (
        dict(stream(inspect(tmp_path / folder, small_config()), "cpu", torch.float32))[name].dequantised()
        for folder in ("plain", "made")
    )
    assert torch.equal(weighed[0], plain[0]) and torch.equal(weighed[2], plain[2])
    assert torch.equal(weighed[1], search_scales(exact[1], form, importance[1]).dequantised())
    errors = [(found[1, :, :8] - exact[1, :, :8]).square().sum() for found in (plain, weighed)]
    assert errors[1] < 0.8 * errors[0]


# shards


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 400_000), preset=st.sampled_from(sorted(QUANT_CONFIGS)))
def test_every_tensor_goes_to_one_shard(
    tmp_path_factory: pytest.TempPathFactory, size: int, preset: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "planned"
    if not folder.exists():
        write(folder, plain_state(), None)
    jobs = plan(inspect(folder, small_config()), chosen(*QUANT_CONFIGS[preset]))
    shards = deal(jobs, size)
    assert [job for shard in shards.values() for job in shard] == jobs
    names = [name for job in jobs for name in job.outputs]
    assert len(names) == len(set(names))
    for shard in shards.values():
        assert len(shard) == 1 or sum(map(convert_module.written, shard)) <= size


def test_a_shard_file_is_whole_or_has_another_name(tmp_path: Path) -> None:
    wanted = {
        "odd": ("U8", (3,)),
        "scalar": ("I64", (2,)),
        "half": ("BF16", (1,)),
        "none": ("F32", (0, 4)),
        "rows": ("F32", (4, 2)),
    }
    rows = torch.randn(4, 2)
    with ShardFile(tmp_path / "a.safetensors", wanted) as file:
        file.write("odd", torch.tensor([1, 2, 3], dtype=torch.uint8))
        file.write("rows", rows[:3])
        file.write("scalar", torch.tensor([5, 6]))
        file.write("rows", rows[3:])
        assert not file.path.exists()
        file.write("half", torch.tensor([1.5], dtype=torch.bfloat16))
    assert file.path.stat().st_size == file.nbytes and not file.part.exists()
    with safe_open(file.path, "pt") as read:
        assert torch.equal(read.get_tensor("rows"), rows) and read.get_tensor("scalar").tolist() == [5, 6]
        assert read.get_tensor("odd").tolist() == [1, 2, 3] and read.get_tensor("none").shape == (0, 4)
    with (
        pytest.raises(ValueError, match="tensor 'scalar' was not written whole"),
        ShardFile(tmp_path / "b.safetensors", wanted) as file,
    ):
        file.write("rows", rows)
    with (
        pytest.raises(ValueError, match="8 bytes for tensor 'odd'"),
        ShardFile(tmp_path / "b.safetensors", wanted) as file,
    ):
        file.write("odd", rows[0])
    with pytest.raises(KeyboardInterrupt), ShardFile(tmp_path / "b.safetensors", wanted):
        raise KeyboardInterrupt
    assert not (tmp_path / "b.safetensors").exists()


# cut off


RUN = """
import sys, time
from pathlib import Path
from dgemma.quantize.convert import convert
from dgemma.quantize.quant_config import chosen
source, target, slow, size = sys.argv[1:]
convert(Path(source), Path(target), chosen("nvfp4"), shard_bytes=int(size), progress=lambda *_: time.sleep(float(slow)))
"""
SIZE = 12_000  # bytes of a shard


def same_files(one: Path, two: Path) -> bool:
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, two)]
    return names[0] == names[1] and all(
        (one / name).read_bytes() == (two / name).read_bytes() for name in names[0]
    )


def cut_off(source: Path, target: Path, shards: int = 2) -> Path:
    """The partial folder of a process that was killed after some shards."""
    place = target.parent / f".{target.name}.partial"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(source), str(target), "0.05", str(SIZE)])
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and len(vouched(place)) < shards:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    finally:
        process.kill()
    return place


def vouched(place: Path) -> dict[str, Any]:
    try:
        return json.loads((place / partial.MANIFEST).read_text())["shards"]
    except FileNotFoundError:
        return {}


def test_a_killed_run_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    place = cut_off(source, tmp_path / "made")
    before = vouched(place)
    assert not (tmp_path / "made").exists() and len(before) >= 2
    times = {name: (place / partial.FOLDER / name).stat().st_mtime_ns for name in before}
    done = made(source, tmp_path / "made", "nvfp4", shard_bytes=SIZE)
    assert done.reused == len(before) < done.shards and not place.exists()
    assert {name: (tmp_path / "made" / name).stat().st_mtime_ns for name in before} == times
    fresh = made(source, tmp_path / "fresh", "nvfp4", shard_bytes=SIZE)
    assert same_files(tmp_path / "made", tmp_path / "fresh") and fresh.reused == 0
    assert (fresh.sizes, fresh.errors) == (done.sizes, done.errors)


def test_what_is_damaged_is_made_anew(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(source, tmp_path / "fresh", "nvfp4", shard_bytes=SIZE)
    place = cut_off(source, tmp_path / "made", 4)
    first, second, third, fourth, *_ = (place / partial.FOLDER / name for name in vouched(place))
    first.write_bytes(first.read_bytes()[:-1])  # truncated
    flipped = bytearray(second.read_bytes())
    flipped[-1] ^= 1
    second.write_bytes(flipped)
    third.unlink()
    count = len(list((tmp_path / "fresh").glob("*.safetensors")))
    (place / partial.FOLDER / f"model-{count:05}-of-{count:05}.safetensors").write_bytes(
        b"a name is not enough"
    )
    with monkeypatch.context() as patch:  # the twin: without the look at size and sum the damage would stay
        patch.setattr(partial, "_is_whole", lambda path, entry: path.exists())
        copied = tmp_path / ".other.partial"
        subprocess.run(["cp", "-a", str(place), str(copied)], check=True)
        made(source, tmp_path / "other", "nvfp4", shard_bytes=SIZE)
        assert not same_files(tmp_path / "other", tmp_path / "fresh")
    kept = len(vouched(place)) - 3
    assert made(source, tmp_path / "made", "nvfp4", shard_bytes=SIZE).reused == kept >= 1
    assert fourth.name in {path.name for path in (tmp_path / "made").iterdir()} and same_files(
        tmp_path / "made", tmp_path / "fresh"
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"shards": 3}', '{"shards": {"model.safetensors": 1}}', "\0"]
)
def test_a_damaged_manifest_vouches_for_nothing(source: Path, tmp_path: Path, text: str) -> None:
    place = tmp_path / ".made.partial"
    (place / partial.FOLDER).mkdir(parents=True)
    (place / partial.MANIFEST).write_text(text)
    (place / partial.FOLDER / "model.safetensors").write_bytes(b"rubbish")
    done = made(source, tmp_path / "made", "int4")
    assert done.reused == 0 and inspect(done.folder, small_config())


def test_another_runs_work_is_not_mixed_in(source: Path, tmp_path: Path) -> None:
    place = cut_off(source, tmp_path / "made")
    before = vouched(place)
    for preset, more in (
        ("int4", {}),
        ("nvfp4+fp8", {}),
        ("nvfp4", {"calibration": "another text"}),
        ("nvfp4", {"shard_bytes": 999}),
    ):
        with pytest.raises(UsageError, match="the work of another run .other options.*remove that folder"):
            made(source, tmp_path / "made", preset, **({"shard_bytes": SIZE} | more))
    shard = next(source.glob("model-*"))
    times = shard.stat()
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(UsageError, match="the source has changed since"):
        made(source, tmp_path / "made", "nvfp4", shard_bytes=SIZE)
    assert vouched(place) == before and not (tmp_path / "made").exists()


def test_two_runs_at_once(source: Path, tmp_path: Path) -> None:
    place = tmp_path / ".made.partial"
    place.mkdir()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            made(source, tmp_path / "made", "int4")
    made(source, tmp_path / "made", "int4")


PEAK = """
import sys
from pathlib import Path
import torch
from dgemma.quantize import scales
from dgemma.quantize.convert import convert
from dgemma.quantize.quant_config import chosen
torch.set_num_threads(1)
scales.TRIED = {name: tried[:2] for name, tried in scales.TRIED.items()}
small, source, target, format = sys.argv[1:]
kib = lambda key: int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])
convert(Path(small), Path(target + "-small"), chosen(format, ["embeddings=int8"]))  # what it loads counts as there before
before = kib("VmRSS")
convert(Path(source), Path(target), chosen(format, ["embeddings=int8"]))
print(kib("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_the_model(source: Path, tmp_path: Path) -> None:
    """A model of 218 MB whose largest tensor has 67: the process grows by less than that tensor (measured: 33 MB in fp8, 50 in nvfp4)."""
    sizes = {
        "vocab_size": 8192,
        "hidden_size": 1024,
        "intermediate_size": 64,
        "num_experts": 16,
        "moe_intermediate_size": 1024,
    }
    raw = RAW | {"text_config": RAW["text_config"] | sizes}
    config = ModelConfig.from_dict(raw)
    state = {
        name: torch.full(target.shape, 0.5, dtype=torch.bfloat16)
        for name, target in expected_tensors(config).items()
    }
    large = tmp_path / "large"
    large.mkdir()
    (large / "config.json").write_text(json.dumps(raw))
    save_file(state, large / "model.safetensors", metadata={"format": "pt"})
    largest, total = (
        max(tensor.nbytes for tensor in state.values()),
        sum(tensor.nbytes for tensor in state.values()),
    )
    assert total > 200e6 and 60e6 < largest < 70e6
    for format in ("fp8", "nvfp4"):
        call = [sys.executable, "-c", PEAK, str(source), str(large), str(tmp_path / format), format]
        grown = 1024 * int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
        assert grown < largest + 8e6, f"{format}: {grown / 1e6:.0f} MB"


# what is refused


def test_recipes_by_hand() -> None:
    assert {group: form.name for group, form in chosen("fp8").items()} == dict.fromkeys(
        ("experts", "attention", "dense"), "fp8"
    )
    assert {group: form.name for group, form in chosen("fp8", ["attention=bf16"]).items()} == {
        "experts": "fp8",
        "dense": "fp8",
    }
    assert chosen("int4", (), 64)["experts"].group == 64 and list(chosen("nvfp4")) == ["experts"]
    mixed = chosen("int4", ["attention, dense=fp8", "embeddings=int8"])
    assert {group: form.name for group, form in mixed.items()} == {
        "experts": "int4", "attention": "fp8", "dense": "fp8", "embedding": "int8",
    }  # fmt: skip
    assert (
        chosen("int4", ["attention,dense=fp8, embeddings=int8"])
        == mixed
        == chosen("int4", ["embeddings=int8,attention,dense=fp8"])
    )
    assert [group["format"] for group in describe(mixed)["config_groups"].values()] == [
        "pack-quantized",
        "float-quantized",
        "int-quantized",
    ]


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (("int3",), "--format int3 is not written; formats: fp8, nvfp4, int4"),
        (("int4", ["router=int4"]), "--keep router=int4 is not made; four bits"),
        (("int4", ["attention=nvfp4"]), "choose bf16 or fp8"),
        (("int4", ["router=int8"]), "--keep router=int8 is not made; choose bf16 or fp8"),
        (("int4", ["norms=fp8"]), f"no group 'norms'; groups: {', '.join(KEPT)}"),
        (("int4", ["experts=bf16"]), "what --format says"),
        (("int4", ["attention"]), "names no precision"),
        (("int4", ["=fp8"]), "names no precision"),
        (("int4", ["attention,=fp8"]), "names no precision"),
        (("int4", ["attention=fp8,dense"]), "names no precision"),
        (("int4", ["attention=fp8,attention=bf16"]), "'attention' twice"),
        (("int4", ["attention=fp8", "attention,dense=bf16"]), "'attention' twice"),
        (("int4", [], 16), "choose 32, 64, 128"),
        (("fp8", [], 32), "only int4 has one"),
    ],
)
def test_a_recipe_that_makes_no_sense(given_: Any, said: str) -> None:
    with pytest.raises(UsageError) as error:
        chosen(*given_)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_sources_and_targets_that_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UsageError, match="32 inputs, which are no whole groups of 64 .int4.; use --group-size 32"
    ):
        convert(source, tmp_path / "made", chosen("int4", (), 64))
    made(source, tmp_path / "made", "int4")
    with pytest.raises(UsageError, match="in few bits already; quantise the 16-bit"):
        made(tmp_path / "made", tmp_path / "again", "fp8")
    with pytest.raises(UsageError, match="not empty"):
        made(source, tmp_path / "made", "int4")
    with pytest.raises(UsageError, match="not a folder"):
        made(source / "config.json", tmp_path / "again", "int4")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        made(source, tmp_path / "file" / "again", "int4")
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(ResourceError, match="MB are still to be written and 1.0 kB are free"):
        made(source, tmp_path / "again", "int4")
    assert not (tmp_path / "again").exists() and not (tmp_path / ".again.partial").exists()


def test_a_run_that_fails_keeps_its_whole_shards_and_nothing_else(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up is an error like any other: in the first shard nothing stays, later what is whole does."""
    write, place, left = ShardFile.write, tmp_path / ".made.partial", [0]

    def failing(self: ShardFile, name: str, piece: Tensor) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, piece)

    monkeypatch.setattr(ShardFile, "write", failing)
    with pytest.raises(
        ResourceError,
        match="No space left on device, .* are free; make room, and give the same command again",
    ):
        made(source, tmp_path / "made", "nvfp4", shard_bytes=SIZE)
    assert not place.exists()
    left[0] = 60
    with pytest.raises(
        ResourceError,
        match="No space left on device, .* are free; make room, and give the same command again",
    ):
        made(source, tmp_path / "made", "nvfp4", shard_bytes=SIZE)
    assert vouched(place) and not (tmp_path / "made").exists()
    monkeypatch.setattr(ShardFile, "write", write)
    done = made(source, tmp_path / "made", "nvfp4", shard_bytes=SIZE)
    assert 0 < done.reused < done.shards and not place.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_not_quantised(tmp_path: Path, value: float) -> None:
    state = plain_state()
    state["model.decoder.layers.1.experts.down_proj"][2, 5, 7] = value
    source = write(tmp_path / "source", state, None)
    for preset in ("int4", "nvfp4", "fp8"):
        with pytest.raises(
            CheckpointError,
            match=r"model.safetensors: tensor 'model.decoder.layers.1.experts.down_proj' holds NaN or infinite",
        ):
            made(source, tmp_path / preset, preset)
        assert not (tmp_path / preset).exists()


# the whole way


def test_the_shipped_model_comes_back(tmp_path: Path) -> None:
    shipped = Path(dgemma.__file__).parent / "embedded"
    base = dgemma.load(shipped, "cpu", "float32")
    prompt, canvas = list(range(20, 60)), [list(range(100, 164))]
    want = base.denoise_logits([prompt], canvas)
    for preset, most in (("fp8", 0.05), ("nvfp4", 0.05), ("int4+all", 0.08)):
        done = made(shipped, tmp_path / preset, preset)
        model = dgemma.load(tmp_path / preset, "cpu", "float32")
        assert isinstance(model.net.layers[0].experts.gate_up_proj, QuantTensor) and model.notes == []
        got = model.denoise_logits([prompt], canvas)
        off = float((got - want).square().mean().sqrt() / want.square().mean().sqrt())
        assert 1e-4 < off < most, f"{preset}: {off}"
        assert sum(size.after for size in done.sizes.values()) < 0.65 * sum(
            size.before for size in done.sizes.values()
        )
