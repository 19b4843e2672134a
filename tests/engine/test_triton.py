"""The whole engine on Triton's forms, in the interpreter: the same tokens as on torch's, in float32 on a tiny model."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from dgemma.config import DenoiseConfig, EngineConfig  # noqa: E402
from dgemma.engine.engine import Engine  # noqa: E402
from dgemma.engine.requests import Request, results  # noqa: E402
from dgemma.kernels.triton import attention as attention_triton  # noqa: E402
from dgemma.kernels.triton import moe as moe_triton
from dgemma.kernels.triton import vocab as vocab_triton
from tests.helpers import lively_model, tiny_config  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow)")


def test_the_engine_writes_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_model(tiny_config("SSF"), seed=7, sharpness=4.0)
    config = DenoiseConfig(max_denoising_steps=3, t_min=0.3, t_max=0.9, entropy_bound=1.0, eos_token_id=None)
    width = model.config.canvas_length
    requests = [
        Request(tuple(range(1, 1 + length)), 2 * width, seed, config)
        for seed, length in enumerate((3, 19, 8))
    ]
    engine = EngineConfig(prefill_chunk=8, memory=2**40)
    want = results(Engine(model, engine).run(requests), 3)
    called = set()
    for module, name in ((attention_triton, "attention"), (moe_triton, "experts"), (vocab_triton, "head")):
        right = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, right=right, name=name: (called.add(name), right(*a))[1])
    monkeypatch.setenv("DGEMMA_KERNELS", "triton")
    got = results(Engine(model, engine).run(requests), 3)
    assert called == {"attention", "experts", "head"}
    assert [result.token_ids for result in got] == [result.token_ids for result in want]
