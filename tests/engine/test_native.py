"""With the C kernels a row's numbers depend on nothing but that row, so requests in company equal the plain loop token for token in float32 and
bfloat16 as well. Traps: not across chunks of a prompt or a cached prefix, which move a window's keys to other lanes; and not where the
embedding is too small a part of the model to be held turned as well, so that torch multiplies with it (memory/tensors.py: copies_of_table)."""

from __future__ import annotations

import contextlib
import functools
import random

import pytest

from dgemma.api import Model, load
from dgemma.config import EngineConfig
from dgemma.engine.denoise import run
from dgemma.engine.engine import Engine
from dgemma.engine.requests import CommitRecord, Request, StepRecord
from dgemma.errors import ResourceError
from dgemma.kernels.c import native
from dgemma.model.build import pack
from dgemma.model.dgemma import DiffusionGemma
from tests.engine.test_denoise import by_row, request
from tests.helpers import lively_model, tiny_config
from tests.native import dtypes, native_kernels, skip  # noqa: F401

DTYPES = [str(dtype).removeprefix("torch.") for dtype in dtypes()]
pytestmark = pytest.mark.usefixtures("native_kernels")
SIZES = {
    "hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "head_dim": 32, "global_head_dim": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "num_experts": 4, "top_k_experts": 2, "canvas_length": 6,
}  # fmt: skip


@functools.cache
def model(dtype: str) -> DiffusionGemma:
    return pack(lively_model(tiny_config("SSF", **SIZES), seed=7, dtype=dtype, sharpness=4.0))


@pytest.mark.parametrize("dtype", DTYPES or [pytest.param("", marks=skip)])
def test_company_changes_no_token(dtype: str) -> None:
    assert native.in_panels(model(dtype).layers[0].experts.down_proj) and native.in_panels(
        model(dtype).columns
    )
    draw = random.Random(3)
    requests = [
        request(
            tuple(draw.choices(range(64), k=draw.randint(1, 40))), max_tokens=draw.choice((6, 12, 17)), seed=n
        )
        for n in range(9)
    ]
    engine = Engine(model(dtype), EngineConfig(max_slots=4, memory=2**40, prefix_cache=0))
    got = by_row(list(engine.run(requests)), len(requests))
    for found, one in zip(got, requests, strict=True):
        assert found == by_row(list(run(model(dtype), [one])), 1)[0]


@pytest.mark.parametrize("dtype", DTYPES or [pytest.param("", marks=skip)])
def test_layers_that_are_read_from_files_change_no_token(dtype: str) -> None:
    """On narrow canvases as on wider ones."""
    resident, mapped = load(dtype=dtype), mapped_model(dtype)
    for text, most in (("def f(", 4), ("import os", 16), ("class A:", 24)):
        assert (
            mapped.generate(text, max_tokens=most).token_ids
            == resident.generate(text, max_tokens=most).token_ids
        )


def mapped_model(dtype: str) -> Model:
    """The shipped model in the least memory that it loads in, most of its layers in files."""
    for megabytes in range(10, 200, 5):
        with contextlib.suppress(ResourceError):
            made = load(dtype=dtype, memory=megabytes * 10**6)
            assert "read from the checkpoint's files" in made.notes[0]
            return made
    raise AssertionError("it does not load in 200 MB")


def test_the_comparison_sees_a_step() -> None:
    """Requests that differ in their seed only are told apart."""
    if not DTYPES:
        pytest.skip("no C kernels: see hatch_build.py")
    both = [by_row(list(run(model(DTYPES[0]), [Request((1, 2, 3), 6, seed)])), 1)[0] for seed in (1, 2)]
    assert both[0] != both[1] and {type(record) for record in run(model(DTYPES[0]), [request((1,))])} == {
        StepRecord,
        CommitRecord,
    }
