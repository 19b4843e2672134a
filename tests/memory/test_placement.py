"""Where a model's weights go: whole, by layers that stream, or refused; against the modules that do it."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings

from dgemma.config import ModelConfig
from dgemma.config.formats import quant_config
from dgemma.errors import ResourceError
from dgemma.kernels.ops import matmul
from dgemma.kernels.quant import formats
from dgemma.kernels.quant.formats import QuantTensor
from dgemma.memory import placement as room
from dgemma.memory.placement import BUFFERS, Placement, bytes_in, formats_in, placement, spread, stream_plan
from dgemma.memory.plan import estimate_memory, margin
from dgemma.memory.tensors import divides, format_of, held_bytes, layer_bytes
from dgemma.model import streaming
from dgemma.model.build import build, build_random
from dgemma.weights.layout import inspect
from dgemma.weights.names import expected_tensors
from dgemma.weights.reader import assign
from tests.helpers import tiny_config as shaped
from tests.weights.weights_helpers import sparse_checkpoint

from .test_plan import GB, devices, memories, most_bytes, names, published, shapes


def planned(memory: int, name: str = "int4", device: str = "cuda", context: int = 4096) -> Placement:
    plan = estimate_memory(
        published(), "bfloat16", context, device=device, formats=quant_config(name), triton=True
    )
    return stream_plan(plan, published(), memory)


def test_what_fits_stays() -> None:
    found = planned(24 * GB)
    assert found.streamed == () and found.missing == found.moved == found.host_bytes == 0
    assert found.device_bytes == found.plan.total and planned(80 * GB, "bf16").streamed == ()


def test_a_small_card_streams_as_few_layers_as_it_can() -> None:
    sizes = [len(planned(memory * GB).streamed) for memory in (8, 12, 16, 20, 24)]
    assert (
        sizes == sorted(sizes, reverse=True) and sizes[-1] == 0 and all(size % BUFFERS == 0 for size in sizes)
    )
    found = planned(8 * GB)
    assert 0 < len(found.streamed) < 30 and not found.missing
    layers = layer_bytes(published(), 2, found.plan.formats, {})
    fewer = room._streaming(found.plan, found.memory, layers, spread(30, len(found.streamed) - BUFFERS))
    assert fewer.missing  # one pair less would not do
    # 4-bit experts, 16 bits beside them: what an 8 GB card moves in each step
    assert 10 * GB < found.moved < found.host_bytes and found.moved < found.plan.weight_bytes


def test_layers_that_stream_leave_no_room_for_packed_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgemma.memory.plan.lacks_avx512", lambda: False)
    plan = estimate_memory(published(), "bfloat16", 4096, device="cpu", formats=quant_config("int4"))
    found = stream_plan(plan, published(), plan.total)  # the margin alone is missing: the copies cover it
    assert plan.packed and len(found.streamed) == 1 and found.device_bytes < plan.total - plan.packed


def test_of_too_little_all_layers_stream_and_something_is_missing() -> None:
    found = planned(2 * GB)
    assert len(found.streamed) == 30 and found.missing == found.device_bytes + margin(2 * GB) - 2 * GB > 0


def test_the_twin_without_buffers_would_exceed_its_budget() -> None:
    found = planned(8 * GB)
    assert found.memory - found.margin - found.device_bytes < BUFFERS * found.moved // len(found.streamed)


@pytest.mark.parametrize("name", ["bf16", "fp8", "nvfp4", "int4", "int4+fp8"])
def test_a_layers_run_of_bytes_is_the_one_that_is_copied(name: str) -> None:
    config = dataclasses.replace(published(), layers=published().layers[4:6])  # a sliding and a full one
    model = build(config, "meta", torch.bfloat16)
    for target in expected_tensors(config).values():
        if found := format_of(target, quant_config(name)):
            assign(model, target.model_name, formats.empty(found, target.shape, "meta"))
    layers = layer_bytes(config, 2, quant_config(name), {})
    runs = [layer.run for layer in layers]
    assert runs == [streaming._offsets(layer)[1] for layer in model.layers]
    assert runs[0] != runs[1]
    there = [
        weight
        for layer in model.layers
        for weight in (getattr(*place) for place in streaming.matrices(layer))
    ]
    assert sum(weight.nbytes for weight in there) == sum(layer.held for layer in layers)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_what_a_cpu_lays_out_is_counted(stored: torch.dtype) -> None:
    """A mapped layer in float32, whose file has float32 or bfloat16."""
    config = shaped(hidden_size=256, intermediate_size=256, moe_intermediate_size=256, num_experts=8)
    model = build_random(config, dtype=torch.float32)
    model.layers[1].to(stored)
    offload = streaming.MmapOffload(model.layers, [1], torch.float32, lambda _: None)
    lived = most_bytes(lambda: offload.load_layer(1))
    targets = expected_tensors(config)
    sizes = {one.model_name: held_bytes(one, stored.itemsize, {}) for one in targets.values()}
    layer = layer_bytes(config, 4, {}, sizes)[1]
    said = layer.laid_out
    assert said == layer.held + (0 if stored.itemsize == 4 else 8 * 512 * 256 * 4)
    assert layer.in_file == layer.held * stored.itemsize // 4
    if matmul.should_pack(torch.float32):
        assert lived <= said * 1.02  # oneDNN pads a little
    offload.load_layer(0)
    quantised = quant_config("fp8")
    assert layer_bytes(config, 4, quantised, {})[1].laid_out == 0


def test_a_loader_is_told_where_everything_goes() -> None:
    assert placement(published(), "bfloat16", "cuda", 24 * GB, formats=quant_config("int4")).streamed == ()
    found = placement(published(), torch.bfloat16, "cuda", 8 * GB, formats=quant_config("int4"), host=64 * GB)
    assert found.streamed and found.memory == 8 * GB
    assert placement(published(), "bfloat16", "cpu", 8 * GB, formats=quant_config("int4")).streamed
    assert placement(published(), "float32", "cpu", formats={}, memory=200 * GB).streamed == ()


def test_what_does_not_fit_is_refused_with_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ResourceError,
        match=r"50.50 GB of weights.*4096 tokens.*margin of 1.07 GB.*the card has 4.00 GB.*missing",
    ) as told:
        placement(published(), "bfloat16", "cuda", 4 * GB)
    assert "\n" not in str(told.value) and "dgemma doctor" in str(told.value)
    with pytest.raises(ResourceError, match="this machine has 24.00 GB for it; `dgemma doctor"):
        placement(published(), "bfloat16", "cpu", 24 * GB, may_stream=False)
    with pytest.raises(
        ResourceError,
        match=r"layers would stream and take .* of the host's memory, of which 8.00 GB are free",
    ):
        placement(published(), "bfloat16", "cuda", 8 * GB, host=8 * GB)
    monkeypatch.setattr(room, "free_on", lambda *_: 0)  # a memory that tells nothing about itself
    assert placement(published(), "float64", "cpu").streamed == ()


@settings(deadline=None, max_examples=80)
@given(shapes, names, devices, memories, memories)
def test_a_streamed_plan_never_exceeds_its_budget_and_more_memory_streams_no_more(
    config: ModelConfig, name: str, device: str, memory: int, other: int
) -> None:
    chosen = quant_config(name) if divides(config, quant_config(name)) else {}
    plan = estimate_memory(config, "bfloat16", 100, device=device, formats=chosen)
    less, more = (stream_plan(plan, config, size) for size in sorted((memory, other)))
    for found in (less, more):
        assert found.missing or found.device_bytes + found.margin <= found.memory
        assert bool(found.streamed) == (not plan.fits(found.memory)) or len(config.layers) < BUFFERS
        assert len(set(found.streamed)) == len(found.streamed) and set(found.streamed) <= set(
            range(len(config.layers))
        )
        assert device == "cpu" or len(found.streamed) % BUFFERS == 0
        assert found.moved <= found.host_bytes
    assert less.missing or not more.missing
    assert less.missing or len(more.streamed) <= len(less.streamed)


def test_layers_that_stream_stand_apart() -> None:
    assert (
        spread(30, 6) == (2, 7, 12, 17, 22, 27) and spread(4, 4) == (0, 1, 2, 3) and spread(30, 2) == (7, 22)
    )


@pytest.mark.parametrize("layout", ["fp8", "nvfp4", "modelopt", "int4", "gptq", "awq"])
def test_a_published_layout_is_planned_as_it_is_loaded(
    layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = sparse_checkpoint().write(tmp_path_factory.mktemp(layout), layout=layout)
    found = inspect(folder, ModelConfig.from_file(folder / "config.json"))
    plan = estimate_memory(found.config, "bfloat16", 4096, formats=formats_in(found))
    model = build(found.config, "meta", torch.bfloat16)
    for name, stored in found.text.items():
        if stored.format is not None:
            assign(model, name, formats.empty(stored.format, stored.shape, "meta"))
    few = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, QuantTensor)
    ]
    assert plan.weight_bytes == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers(), *few])
    assert layout == "fp8" or plan.weight_bytes <= 19.5 * GB
    assert sum(bytes_in(found).values()) == found.text_bytes
