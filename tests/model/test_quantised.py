"""A model in few bits is the model of its dequantised weights: hidden states, whole runs, and layers that stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

import dgemma
from dgemma.config import DenoiseConfig
from dgemma.config.formats import Format
from dgemma.engine.denoise import run
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, results
from dgemma.kernels.ops.vocab import soft_capped_logits
from dgemma.kernels.quant.formats import QuantTensor
from dgemma.kernels.quant.formats import quantise as quantised
from dgemma.model.build import build, pack, quantise
from dgemma.model.dgemma import DiffusionGemma
from dgemma.weights.names import expected_tensors
from dgemma.weights.reader import assign
from tests.helpers import assert_close, is_close, lively_model, tiny_config

MIXES = {
    "fp8": dict.fromkeys(("attention", "dense", "experts"), Format("fp8")),
    "nvfp4": {"experts": Format("nvfp4")},
    "int4": {"experts": Format("int4", 32)},
    "int4 with zeros, fp8 rest, fp8 table": {
        "experts": Format("int4", 16, zeros=True), "attention": Format("fp8"), "dense": Format("fp8"),
        "self_conditioning": Format("fp8"), "embedding": Format("fp8"),
    },
    "int8 table": {"embedding": Format("int8")},
}  # fmt: skip
SHIPPED = {
    "fp8": MIXES["fp8"] | {"self_conditioning": Format("fp8")},
    "nvfp4": MIXES["nvfp4"],
    "int4": MIXES["int4"],
    "int4 in 96, fp8 table": {"experts": Format("int4", 96), "embedding": Format("fp8")},
    "fp8, int8 table": MIXES["fp8"] | {"embedding": Format("int8")},
}
PROMPT = [2, *range(300, 2000, 70)]  # for the shipped model, whose numbers need no sense


def config():
    return tiny_config(
        hidden_size=64, moe_intermediate_size=32, intermediate_size=64, head_dim=16, global_head_dim=32
    )


def pair(mix: str, dtype: str = "float64") -> tuple[DiffusionGemma, DiffusionGemma]:
    """The model in few bits, and the one whose weights are what those bits stand for."""
    few, plain = (lively_model(config(), dtype=dtype) for _ in range(2))
    quantise(few, MIXES[mix])
    return few, rounded(plain, MIXES[mix])


@torch.no_grad()
def rounded(model: DiffusionGemma, formats: Mapping[str, Format]) -> DiffusionGemma:
    """Plain weights, in place, that are the numbers which a format has for them."""
    for target in expected_tensors(model.config).values():
        if target.group in formats and len(target.shape) > 1:
            weight = model.get_parameter(target.model_name)
            weight.copy_(quantised(weight, formats[target.group]).dequantised(weight.dtype))
    return model


def hidden(model: DiffusionGemma) -> torch.Tensor:
    cache = model.new_cache()
    model.encode(torch.arange(3, 12)[None], [cache])
    prev_probs = torch.rand(1, 6, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(
        model.dtype
    )
    return model.denoise(torch.arange(20, 26)[None], [cache], (prev_probs, prev_probs.double().sum(-1)))


@pytest.mark.parametrize("mix", MIXES)
def test_a_pass_is_that_of_the_dequantised_model(mix: str) -> None:
    few, plain = pair(mix)
    assert any(
        isinstance(getattr(module, "gate_up_proj", None), QuantTensor) for module in few.modules()
    ) == ("experts" in MIXES[mix])
    assert_close(hidden(few), hidden(plain), "float64")
    assert not is_close(hidden(few), hidden(lively_model(config(), dtype="float64")), "float64")


def shipped(dtype: str) -> DiffusionGemma:
    return dgemma.load(device="cpu", dtype=dtype, trainable=True).net  # plain weights, which may be replaced


def three_passes(model: DiffusionGemma, believed: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Logits [N, V] of a prompt's last tokens, of a first step, and of a second one with the first's belief.

    believed: the first step's logits of another model, which the second step then starts from.
    """
    canvas = torch.randint(
        model.config.vocab_size, (1, model.config.canvas_length), generator=torch.Generator().manual_seed(0)
    )
    cache = model.new_cache()
    softcap = model.config.final_logit_softcapping
    encoded = soft_capped_logits(model.encode(torch.tensor([PROMPT]), [cache])[0], model.table, softcap)
    first = soft_capped_logits(model.denoise(canvas, [cache])[0], model.table, softcap)
    p = (believed if believed is not None else first).softmax(-1)[None]
    canvas[:, ::2] = p.argmax(-1)[:, ::2]
    second = soft_capped_logits(
        model.denoise(canvas, [cache], (p.to(model.dtype), p.double().sum(-1)))[0], model.table, softcap
    )
    return [encoded, first, second]


@pytest.mark.parametrize("mix", SHIPPED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_shipped_model_in_few_bits_is_its_dequantised_self(mix: str, dtype: str) -> None:
    """float64: to the last bits; float32, packed as `load` packs it: to float32's own rounding."""
    few, other = quantise(shipped(dtype), SHIPPED[mix]), shipped(dtype)
    want = three_passes(rounded(other, SHIPPED[mix]))
    for got, right in zip(three_passes(pack(few), want[1]), want, strict=True):
        assert_close(got, right, dtype)
    for got, wrong in zip(three_passes(few, want[1]), three_passes(shipped(dtype), want[1]), strict=True):
        assert not is_close(got, wrong, dtype)  # the twin: as it was before rounding


@pytest.mark.parametrize("mix", MIXES)
def test_a_run_gives_the_dequantised_models_tokens(mix: str) -> None:
    few, plain = pair(mix)
    requests = [
        Request(
            tuple(range(3, 3 + length)), 12, seed, DenoiseConfig(max_denoising_steps=4, eos_token_id=None)
        )
        for seed, length in enumerate((5, 9))
    ]
    got, want = (
        [result.token_ids for result in results(Engine(model).run(requests), 2)] for model in (few, plain)
    )
    assert got == want
    assert got[0] == results(run(few, requests[:1]), 1)[0].token_ids  # the plain loop
    assert got != [
        result.token_ids
        for result in results(Engine(lively_model(config(), seed=1, dtype="float64")).run(requests), 2)
    ]


def test_rounded_activations_are_declared_by_the_weight() -> None:
    few, _ = pair("fp8", "float32")
    before = hidden(few)
    for target in expected_tensors(few.config).values():
        module, _, leaf = target.model_name.rpartition(".")
        weight = getattr(few.get_submodule(module), leaf)
        if isinstance(weight, QuantTensor):
            assign(few, target.model_name, replace(weight, rounded=True))
    after = hidden(few)
    assert not torch.equal(before, after) and is_close(after, before, spread=1.0)


def test_parameters_in_few_bits_are_none_any_more() -> None:
    few, plain = pair("fp8")
    assert sum(parameter.numel() for parameter in few.parameters()) < sum(
        parameter.numel() for parameter in plain.parameters()
    )
    assert build(config()).device.type == "meta" and few.device.type == "cpu" and few.dtype == torch.float64
