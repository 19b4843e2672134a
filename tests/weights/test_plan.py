import dataclasses

import pytest
import torch
from .weights_helpers import PUBLISHED, tiny_config, tiny_state

from dgemma.config import ModelConfig
from dgemma.weights import plan
from dgemma.weights.plan import GIB, RESERVE, fit, machine, weight_bytes


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
    # float32 logits and the kept probabilities of a 256-token canvas over 262,144 tokens
    assert fit(published(), "bfloat16", 4096).work > 256 * 262_144 * (4 + 2)
    on_card, on_host = (fit(published(), "bfloat16", 131_072, device=device).work for device in ("cuda", "cpu"))
    assert on_card - on_host > 16 * 512 * 131_072 * 4  # the scores of one full layer, which the CPU never makes


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
