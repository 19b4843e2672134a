import dataclasses

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from .weights_helpers import PUBLISHED, tiny_config, tiny_state

from dgemma.config import DenoiseConfig, EngineConfig, ModelConfig
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request
from dgemma.kernels import matmul, vocab
from dgemma.model.build import build_random, pack
from dgemma.weights import plan
from dgemma.weights.plan import GIB, RESERVE, fit, machine, weight_bytes
from tests.helpers import tiny_config as shaped


def published() -> ModelConfig:
    return ModelConfig.from_file(PUBLISHED / "config.json")


def test_weights_of_the_published_model():
    groups = weight_bytes(published(), 2)
    billions = {name: round(size / 2e9, 2) for name, size in groups.items()}
    known = {"experts": 22.84, "attention": 1.11, "embedding": 0.74, "dense": 0.54}
    assert {name: billions[name] for name in known} == known
    assert sum(groups.values()) == 50_501_973_624  # the published tensors less the 356 of vision


def test_weights_agree_with_tensors():
    assert sum(weight_bytes(tiny_config(), 4).values()) == sum(tensor.nbytes for tensor in tiny_state().values())


def test_kv_by_hand():
    # two sliding layers: 2 x (window 5 - 1 + 2 canvases) entries x 2 heads x 8; one full layer: 2 x 100 x 1 head x 12
    slots = 4 + 2 * tiny_config().canvas_length
    assert fit(tiny_config(), torch.float32, 100).kv == (2 * 2 * slots * 2 * 8 + 2 * 100 * 12) * 4
    assert fit(tiny_config(), "bfloat16", 100, batch=3).kv == (2 * 2 * slots * 2 * 8 + 2 * 100 * 12) * 2 * 3


def test_kv_agrees_with_the_cache_of_the_model():
    build = pytest.importorskip("dgemma.model.build")
    cache = build.build(tiny_config(), "cpu", torch.float32).new_cache(capacity=50)
    stored = 2 * sum(buffer.nbytes for buffer in [*cache.keys, *cache.values])
    assert fit(tiny_config(), torch.float32, 50, batch=2).kv == stored


def test_kv_grows_with_context_only_on_full_layers():
    step = fit(published(), "bfloat16", 131_072).kv - fit(published(), "bfloat16", 65_536).kv
    assert step == 5 * 2 * 2 * 512 * 65_536 * 2
    sliding_only = dataclasses.replace(published(), layers=published().layers[:5])
    assert fit(sliding_only, "bfloat16", 131_072).kv == fit(sliding_only, "bfloat16", 4096).kv


def test_what_fits_is_what_one_expects():
    short = fit(published(), "bfloat16", 4096)
    assert not short.fits(48 * GIB) and short.fits(80 * GIB)
    assert not fit(published(), "float32", 4096).fits(80 * GIB)
    assert fit(published(), "float32", 4096).fits(141 * GIB)
    assert short.fits(short.total + RESERVE) and not short.fits(short.total + RESERVE - 1)


def test_the_step_is_at_least_its_largest_arrays():
    # the probabilities of two steps of a 256-token canvas over 262,144 tokens
    assert fit(published(), "bfloat16", 4096).work > 256 * 262_144 * (2 + 2)
    on_card, on_host = (fit(published(), "bfloat16", 131_072, device=device).work for device in ("cuda", "cpu"))
    assert on_card - on_host > 16 * 512 * 131_072 * 4  # the scores of one full layer, which the CPU never makes


SHAPES = {  # what is most of the work, and what plan may say at most, in what was counted
    "hidden": ({"hidden_size": 512}, 1.5), "queries": ({"num_attention_heads": 16, "head_dim": 64, "global_head_dim": 128}, 1.5),
    "experts": ({"moe_intermediate_size": 256}, 1.5), "dense": ({"intermediate_size": 2048}, 1.5),
    "vocabulary": ({"vocab_size": 16_300}, 2.2), "context": ({"max_position_embeddings": 8192}, 1.5),
}  # fmt: skip


def counted(shape: dict, dtype: torch.dtype, prompts: dict[int, int]) -> tuple[int, int]:
    """(what the plan says, the most bytes that lived at once) of requests, {prompt tokens: steps}, alone or beside each other."""
    wide = {"hidden_size": 128, "intermediate_size": 64, "sliding_window": 64, "canvas_length": 32, "max_position_embeddings": 1024}
    model = build_random(shaped(**(wide | shape)), dtype=dtype)
    engine = Engine(model, EngineConfig(memory=2**40, prefix_cache=0, prefill_chunk=256))
    requests = [
        Request((1,) * prompt, 64, config=DenoiseConfig(max_denoising_steps=steps, eos_token_id=None))
        for prompt, steps in prompts.items()
    ]
    list(engine.run([dataclasses.replace(requests[0], prompt_ids=(1,) * 3)]))  # what is made once is no part of a request
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as watched:
        list(engine.run(requests))
    now = most = 0
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return sum(engine.slots.need(one) for one in requests), most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_the_work_is_what_is_counted_and_little_more(name: str, dtype: torch.dtype) -> None:
    shape, most = SHAPES[name]
    said, lived = counted(shape, dtype, {4000 if name == "context" else 300: 2})
    assert lived <= said <= most * lived


def test_requests_beside_each_other_need_no_more_than_the_sum() -> None:
    for name in ("hidden", "vocabulary"):
        said, lived = counted(SHAPES[name][0], torch.float32, {20: 2, 90: 3, 5: 5})
        assert lived <= said


@pytest.mark.parametrize(("name", "part"), [("experts", "_mlp_bytes"), ("queries", "_attention_bytes")])
def test_a_twin_that_forgets_a_part_is_rejected(name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, part, lambda *arguments: 0)
    said, lived = counted(SHAPES[name][0], torch.float32, {300: 2})
    assert said < lived


def test_the_kernels_figures_are_those_of_the_kernels() -> None:
    assert plan.BLOCKS == {"cpu": vocab.BLOCK, "cuda": vocab.BLOCK_CUDA} and plan.TILE == vocab.TILE
    assert [f"torch.{name}" for name in plan.PACKED] == [str(dtype) for dtype in matmul.PACKED]


def test_packed_copies_of_the_embedding_count() -> None:
    model = pack(build_random(tiny_config()))
    if model.packed:
        table, columns = model.packed
        copies = sum(part.numel() * part.element_size() for part in (*table, columns))
        assert fit(tiny_config(), torch.float32, 100, device="cpu").packed == copies
    on_host, on_card = (fit(published(), "bfloat16", 4096, device=device) for device in ("cpu", "cuda"))
    assert on_host.packed == 262_144 * 2816 * 2 and on_card.packed == 0
    assert on_host.total == on_host.weight_bytes + on_host.packed + on_host.kv + on_host.work
    assert fit(tiny_config(), "float64", 100, device="cpu").packed == 0


def test_unknown_dtypes_are_refused():
    with pytest.raises(ValueError, match="int8"):
        fit(tiny_config(), torch.int8, 100)


def test_this_machine_has_memory():
    host = machine()[0]
    assert host.name == "RAM" and 0 < host.free <= host.total


def test_a_container_limit_counts(monkeypatch):
    limits = {"/sys/fs/cgroup/memory.max": GIB, "/sys/fs/cgroup/memory.current": GIB // 4}
    monkeypatch.setattr(plan, "_number", limits.get)
    host = plan._host()
    assert host.total == GIB and host.free <= GIB - GIB // 4
