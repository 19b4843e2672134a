import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from dgemma.config import DenoiseConfig, EngineConfig, ModelConfig
from dgemma.config.formats import Format, quant_config
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request
from dgemma.kernels.ops import attention, matmul
from dgemma.kernels.quant import formats
from dgemma.kernels.select import CHOICE
from dgemma.memory import plan
from dgemma.memory.plan import (
    GIB,
    RESERVE,
    estimate_memory,
    longest_context,
    machine,
    margin,
)
from dgemma.memory.tensors import divides, format_of, weight_bytes
from dgemma.model.build import build, build_random, pack, quantise
from dgemma.weights.names import expected_tensors
from dgemma.weights.reader import assign
from tests.helpers import tiny_config as shaped
from tests.weights.weights_helpers import PUBLISHED, tiny_config, tiny_state

GB = 10**9
QUANT_CONFIGS = ("bf16", "fp8", "int8", "nvfp4", "int4", "int4+fp8", "fp8+int8")


def published() -> ModelConfig:
    return ModelConfig.from_file(PUBLISHED / "config.json")


def test_weights_of_the_published_model():
    groups = weight_bytes(published(), 2)
    billions = {name: round(size / 2e9, 2) for name, size in groups.items()}
    known = {"experts": 22.84, "attention": 1.11, "embedding": 0.74, "dense": 0.54}
    assert {name: billions[name] for name in known} == known
    assert sum(groups.values()) == 50_501_973_624  # the published tensors less the 356 of vision


def test_weights_agree_with_tensors():
    assert sum(weight_bytes(tiny_config(), 4).values()) == sum(
        tensor.nbytes for tensor in tiny_state().values()
    )


def test_kv_by_hand():
    # two sliding layers: 2 x (window 5 - 1 + 2 canvases) entries x 2 heads x 8; one full layer: 2 x 100 x 1 head x 12
    slots = 4 + 2 * tiny_config().canvas_length
    assert estimate_memory(tiny_config(), torch.float32, 100).kv == (2 * 2 * slots * 2 * 8 + 2 * 100 * 12) * 4
    assert (
        estimate_memory(tiny_config(), "bfloat16", 100, batch=3).kv
        == (2 * 2 * slots * 2 * 8 + 2 * 100 * 12) * 2 * 3
    )


def test_kv_agrees_with_the_cache_of_the_model():
    build = pytest.importorskip("dgemma.model.build")
    cache = build.build(tiny_config(), "cpu", torch.float32).new_cache(capacity=50)
    stored = 2 * sum(buffer.nbytes for buffer in [*cache.keys, *cache.values])
    assert estimate_memory(tiny_config(), torch.float32, 50, batch=2).kv == stored


def test_kv_grows_with_context_only_on_full_layers():
    step = (
        estimate_memory(published(), "bfloat16", 131_072).kv
        - estimate_memory(published(), "bfloat16", 65_536).kv
    )
    assert step == 5 * 2 * 2 * 512 * 65_536 * 2
    sliding_only = dataclasses.replace(published(), layers=published().layers[:5])
    assert (
        estimate_memory(sliding_only, "bfloat16", 131_072).kv
        == estimate_memory(sliding_only, "bfloat16", 4096).kv
    )


def test_what_fits_is_what_one_expects():
    short = estimate_memory(published(), "bfloat16", 4096)
    assert not short.fits(48 * GIB) and short.fits(80 * GIB)
    assert not estimate_memory(published(), "float32", 4096).fits(80 * GIB)
    assert estimate_memory(published(), "float32", 4096).fits(141 * GIB)
    assert short.fits(short.total + RESERVE) and not short.fits(short.total + RESERVE - 1)


def test_the_step_is_at_least_its_largest_arrays(monkeypatch):
    monkeypatch.setattr(plan, "lacks_avx512", lambda: False)
    # the probabilities of two steps of a 256-token canvas over 262,144 tokens
    assert estimate_memory(published(), "bfloat16", 4096).work > 256 * 262_144 * (2 + 2)
    on_card, on_host = (
        estimate_memory(published(), "bfloat16", 131_072, device=device).work for device in ("cuda", "cpu")
    )
    made = (
        attention.SCORES * 4 * 2 + 2 * 131_072 * 512 * 4
    )  # scores and their softmax, K in float32: of one full layer, never on a CPU
    assert (
        made < on_card - on_host < 2 * made < 16 * 512 * 131_072 * 4
    )  # less than the scores of a chunk alone


SHAPES = {  # what is most of the work, and what plan may say at most, in what was counted
    "hidden": ({"hidden_size": 512}, 1.5), "queries": ({"num_attention_heads": 16, "head_dim": 64, "global_head_dim": 128}, 1.5),
    "experts": ({"moe_intermediate_size": 256}, 1.5), "dense": ({"intermediate_size": 2048}, 1.5),
    "vocabulary": ({"vocab_size": 16_300}, 2.2), "context": ({"max_position_embeddings": 8192}, 1.5),
}  # fmt: skip


def counted(shape: dict, dtype: torch.dtype, prompts: dict[int, int]) -> tuple[int, int]:
    """(what the plan says, the most bytes that lived at once) of requests, {prompt tokens: steps}, alone or beside each other."""
    wide = {
        "hidden_size": 128,
        "intermediate_size": 64,
        "sliding_window": 64,
        "canvas_length": 32,
        "max_position_embeddings": 1024,
    }
    model = build_random(shaped(**(wide | shape)), dtype=dtype)
    engine = Engine(model, EngineConfig(memory=2**40, prefix_cache=0, prefill_chunk=256))
    requests = [
        Request((1,) * prompt, 64, config=DenoiseConfig(max_denoising_steps=steps, eos_token_id=None))
        for prompt, steps in prompts.items()
    ]
    list(
        engine.run([dataclasses.replace(requests[0], prompt_ids=(1,) * 3)])
    )  # what is made once is no part of a request
    return sum(engine.scheduler.need(one) for one in requests), most_bytes(lambda: list(engine.run(requests)))


def most_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors that lived at once, beyond those that lived before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as watched:
        work()
    now = most = 0
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_the_work_is_what_is_counted_and_little_more(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, most = SHAPES[name]
    prompts = {4000 if name == "context" else 300: 2}
    said, lived = counted(shape, dtype, prompts)
    assert lived <= said  # with the C kernels, where they run, which make less
    monkeypatch.setenv(CHOICE, "torch")
    said, lived = counted(shape, dtype, prompts)
    assert lived <= said <= most * lived


def test_requests_beside_each_other_need_no_more_than_the_sum() -> None:
    for name in ("hidden", "vocabulary"):
        said, lived = counted(SHAPES[name][0], torch.float32, {20: 2, 90: 3, 5: 5})
        assert lived <= said


@pytest.mark.parametrize(("name", "part"), [("experts", "_mlp_bytes"), ("queries", "_attention_bytes")])
def test_a_twin_that_forgets_a_part_is_rejected(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, part, lambda *arguments: 0)
    said, lived = counted(SHAPES[name][0], torch.float32, {300: 2})
    assert said < lived


def test_packed_copies_of_the_embedding_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan, matmul):
        monkeypatch.setattr(module, "lacks_avx512", lambda: False)
    model = pack(build_random(tiny_config()))
    if model.packed:
        table, columns = model.packed
        copies = sum(part.numel() * part.element_size() for part in (*table, columns))
        assert estimate_memory(tiny_config(), torch.float32, 100, device="cpu").packed == copies
    on_host, on_card = (
        estimate_memory(published(), "bfloat16", 4096, device=device) for device in ("cpu", "cuda")
    )
    assert on_host.packed == 262_144 * 2816 * 2 and on_card.packed == 0
    assert on_host.total == on_host.weight_bytes + on_host.packed + on_host.kv + on_host.work
    assert estimate_memory(tiny_config(), "float64", 100, device="cpu").packed == 0


def test_unknown_dtypes_are_refused():
    with pytest.raises(ValueError, match="int8"):
        estimate_memory(tiny_config(), torch.int8, 100)


def test_this_machine_has_memory():
    host = machine()[0]
    assert host.name == "RAM" and 0 < host.free <= host.total


def test_a_container_limit_counts(monkeypatch):
    limits = {"/sys/fs/cgroup/memory.max": GIB, "/sys/fs/cgroup/memory.current": GIB // 4}
    monkeypatch.setattr(plan, "_number", limits.get)
    host = plan._host()
    assert host.total == GIB and host.free <= GIB - GIB // 4


def held(model: nn.Module) -> int:
    """Bytes of everything that a model holds: parameters, buffers and matrices in few bits."""
    few = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, formats.QuantTensor)
    ]
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers(), *few])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", [*QUANT_CONFIGS, "q8_0", "tables"])
def test_the_weights_of_every_format_are_those_of_the_model(name: str, dtype: torch.dtype) -> None:
    made = {
        "q8_0": {"experts": Format("q8_0"), "dense": Format("q8_0")},
        "tables": {"embedding": Format("int8"), "router": Format("fp8")},
    }
    chosen = made.get(name) or quant_config(name)
    model = build(published(), "meta", dtype)
    for target in expected_tensors(published()).values():
        if found := format_of(target, chosen):
            assign(model, target.model_name, formats.empty(found, target.shape, "meta"))
    said = estimate_memory(published(), dtype, 4096, formats=chosen)
    assert said.weight_bytes == held(model)
    if chosen:
        assert said.weight_bytes < estimate_memory(published(), dtype, 4096).weight_bytes
        other = chosen | {"experts": Format("int4", 64)}  # a twin in other groups
        assert estimate_memory(published(), dtype, 4096, formats=other).weight_bytes != held(model)


def test_a_matrix_may_have_a_format_of_its_own() -> None:
    name = "layers.3.mlp.up_proj.weight"
    one, plain = (
        estimate_memory(published(), "bfloat16", 100, formats={name: Format("fp8")}),
        estimate_memory(published(), "bfloat16", 100),
    )
    assert plain.weight_bytes - one.weight_bytes == 2112 * 2816 - 2112 * 4


@pytest.mark.parametrize("triton", [False, True], ids=["torch", "triton"])
def test_four_bits_fit_a_card_of_24_gb(triton: bool) -> None:
    for name in ("int4", "nvfp4"):
        model = build(published(), "meta", torch.bfloat16)
        for target in expected_tensors(published()).values():
            if found := format_of(target, quant_config(name)):
                assign(model, target.model_name, formats.empty(found, target.shape, "meta"))
        long = estimate_memory(published(), "bfloat16", 32_768, formats=quant_config(name), triton=triton)
        assert long.weight_bytes == held(model) <= 19.5 * GB and long.fits(24 * GB)
        cache = model.new_cache(32_768)
        assert long.kv == sum(buffer.nbytes for buffer in [*cache.keys, *cache.values])
    assert not estimate_memory(
        published(), "bfloat16", 32_768, formats=quant_config("fp8"), triton=triton
    ).fits(24 * GB)


def test_tables_in_few_bits_have_no_packed_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "lacks_avx512", lambda: False)
    assert (
        estimate_memory(
            published(), "bfloat16", 4096, device="cpu", formats={"embedding": Format("int8")}
        ).packed
        == 0
    )
    assert (
        estimate_memory(published(), "bfloat16", 4096, device="cpu", formats=quant_config("int4")).packed
        == 262_144 * 2816 * 2
    )


def test_whole_groups_are_asked_for() -> None:
    assert divides(published(), quant_config("int4")) and not divides(
        published(), {"experts": Format("int4", 128)}
    )
    assert not divides(tiny_config(), quant_config("int4")) and divides(tiny_config(), quant_config("fp8"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["fp8", "nvfp4", "int4", "q8_0"])
def test_decoding_is_counted(name: str, dtype: torch.dtype) -> None:
    """One product with a matrix that is decoded in pieces, beside what plan says of a piece."""
    rows, outputs, inputs = 8, 2048, 1024
    matrix = formats.quantise(torch.randn(outputs, inputs), Format("fp8" if name == "q8_0" else name))
    if name == "q8_0":
        matrix = formats.empty(Format(name), (outputs, inputs), "cpu")
        matrix.parts["codes"].zero_()
    x = torch.randn(rows, inputs).to(dtype)
    lived = most_bytes(lambda: formats.product(x, matrix))
    config = shaped(hidden_size=inputs, intermediate_size=outputs)
    said = plan._decoding_bytes(
        config, rows, dtype.itemsize, {"layers.0.mlp.up_proj.weight": matrix.format}, False, False
    )
    assert lived <= said + 2 * rows * outputs * dtype.itemsize
    assert lived > 2 * plan.PIECES["cpu"]  # a twin that counts the codes alone would say too little


def test_a_quantised_table_is_counted() -> None:
    table = formats.quantise(torch.randn(4096, 1024), Format("int8"))
    p = torch.rand(8, 4096).bfloat16()
    lived = most_bytes(lambda: formats.mixture(p, table))
    config = shaped(hidden_size=1024, vocab_size=4096)
    assert (
        lived
        <= plan._decoding_bytes(config, 8, 2, {"embedding": Format("int8")}, False, False) + 2 * 8 * 1024 * 4
    )


def test_a_quantised_model_needs_what_is_said() -> None:
    config = shaped(
        hidden_size=512,
        intermediate_size=512,
        moe_intermediate_size=256,
        canvas_length=32,
        max_position_embeddings=1024,
    )
    for name in ("fp8", "int4", "nvfp4"):
        model = quantise(build_random(config, dtype=torch.bfloat16), quant_config(name))
        engine = Engine(model, EngineConfig(memory=2**40, prefix_cache=0, prefill_chunk=256))
        request = Request((1,) * 300, 64, config=DenoiseConfig(max_denoising_steps=2, eos_token_id=None))
        list(engine.run([request]))
        said = estimate_memory(
            config, "bfloat16", 364, prefill_chunk=256, device="cpu", formats=quant_config(name)
        )
        assert most_bytes(lambda: list(engine.run([request]))) <= said.kv + said.work  # noqa: B023


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("rows", "seen", "scores"), [(512, 2048, 1 << 21), (512, 1024, 1 << 25), (256, 8192, 1 << 22)]
)
def test_the_scores_of_cards_are_what_is_counted(
    rows: int, seen: int, scores: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA does for masks and wide heads, run on the CPU, whole and in pieces; torch's own form is the twin that does not fit."""
    layer = published().layers[5]
    heads, groups, width = 16, layer.num_key_value_heads, layer.head_dim
    q, k, v = (
        torch.randn(1, n, m, width).to(dtype) for n, m in ((heads, rows), (groups, seen), (groups, seen))
    )
    mask = torch.ones(rows, seen, dtype=torch.bool)
    for place in (plan, attention):
        monkeypatch.setattr(place, "SCORES", scores)
    lived = most_bytes(lambda: attention.scored(q, k, v, mask))
    said = plan._attention_bytes(layer, published(), rows, rows, seen, dtype.itemsize, True)
    assert lived <= said <= 2.5 * lived
    with sdpa_kernel(SDPBackend.MATH):
        theirs = most_bytes(
            lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0, enable_gqa=True)
        )
    assert theirs > said


def test_what_flows_in_triton_is_what_it_takes() -> None:
    fast = pytest.importorskip("dgemma.kernels.triton.attention")
    for size in (2, 4):
        for width in (8, 12, 16, 64, 96, 256, 512, 1024):
            assert plan._flows(width, size) == fast.takes(
                width, SimpleNamespace(is_cuda=True, element_size=lambda size=size: size)
            )


def test_the_margin_of_a_small_memory_is_small() -> None:
    assert (
        margin(64 * GIB, "cpu") == margin(64 * GIB) == margin(GIB) == RESERVE
        and margin(GIB, "cpu") == GIB // 8
    )
    assert margin(400 * 2**20, "cpu") == 96 * 2**20 and margin(4000, "cpu") == 1000
    small = estimate_memory(tiny_config(), "float32", 100, device="cpu")
    assert small.fits(GIB) and not dataclasses.replace(small, device="cuda").fits(GIB)


shapes = st.builds(
    lambda layers, hidden, inner, vocab: shaped(
        layers + "F", hidden_size=32 * hidden, intermediate_size=32 * inner, moe_intermediate_size=32 * inner, vocab_size=64 * vocab
    ),
    st.text("SF", max_size=8), st.integers(1, 8), st.integers(1, 8), st.integers(1, 64),
)  # fmt: skip
memories = st.one_of(
    st.integers(2 * 10**5, 10**7), st.integers(RESERVE, RESERVE + 10**7)
)  # about what these need
devices = st.sampled_from(["cpu", "cuda"])
names = st.sampled_from(QUANT_CONFIGS)


@settings(deadline=None, max_examples=60)
@given(shapes, names, devices, memories, memories, st.integers(1, 400), st.integers(1, 400))
def test_more_context_never_fits_better_and_more_memory_never_worse(
    config: ModelConfig, name: str, device: str, memory: int, other: int, context: int, longer: int
) -> None:
    chosen = quant_config(name) if divides(config, quant_config(name)) else {}
    (less, more), (short, long) = sorted((memory, other)), sorted((context, longer))
    first, second = (
        estimate_memory(config, "bfloat16", tokens, device=device, formats=chosen) for tokens in (short, long)
    )
    assert first.total <= second.total and first.weights == second.weights
    assert not second.fits(less) or (first.fits(less) and second.fits(more))
    assert longest_context(config, first, less) <= longest_context(config, first, more)
    most = longest_context(config, first, more)
    if 0 < most < config.max_position_embeddings:
        assert estimate_memory(config, "bfloat16", most, device=device, formats=chosen).fits(more)
        assert not estimate_memory(config, "bfloat16", most + 1, device=device, formats=chosen).fits(more)
