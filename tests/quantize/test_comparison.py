"""What is observed of a model's matrices, and what is told of a quantised one's predictions and steps."""

from __future__ import annotations

import copy

import pytest
import torch

from dgemma.config import DenoiseConfig
from dgemma.config.formats import Format
from dgemma.errors import UsageError
from dgemma.kernels.ops.vocab import soft_capped_logits
from dgemma.kernels.quant.formats import quantise as quantised
from dgemma.model.build import pack, quantise
from dgemma.quantize import calibration as observing
from dgemma.quantize.calibration import observe
from dgemma.quantize.comparison import compare
from dgemma.weights.names import expected_tensors
from tests.helpers import lively_model, tiny_config

SETTINGS = DenoiseConfig(max_denoising_steps=5, eos_token_id=None)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "head_dim": 16,
    "global_head_dim": 16,
}
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4] * 4


@pytest.fixture
def model():
    return lively_model(tiny_config("SF", **SIZES))


def test_every_matrix_that_may_be_quantised_is_observed(model) -> None:
    found = observe(model, IDS, 2, SETTINGS)
    wanted = {
        target.model_name: (*target.shape[:-2], target.shape[-1]) for target in expected_tensors(model.config).values()
        if len(target.shape) > 1 and target.group in ("experts", "attention", "dense", "self_conditioning")
    }  # fmt: skip
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == wanted
    for tensor in found.values():
        assert (tensor >= 0).all() and torch.allclose(tensor.mean(-1), torch.ones(tensor.shape[:-1]))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "form",
    [Format("fp8"), Format("int8"), Format("nvfp4"), Format("int4", 16, zeros=True)],
    ids=lambda f: f.name,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_is_quantised_already_is_observed_as_well(form: Format, dtype: str) -> None:
    """Its experts are no parameters; what they are multiplied with is what their dequantised numbers are."""
    groups = ("experts", "attention", "dense", "self_conditioning")
    few, plain = (lively_model(tiny_config("SF", **SIZES), dtype=dtype) for _ in range(2))
    quantise(few, dict.fromkeys(groups, form))
    for target in expected_tensors(plain.config).values():
        if target.group in groups and len(target.shape) > 1:
            weight = plain.get_parameter(target.model_name)
            weight.data.copy_(quantised(weight.data, form).dequantised(weight.dtype))
    got, want = (observe(model, IDS, 2, SETTINGS) for model in (few, plain))
    assert got.keys() == want.keys() and any("experts.down_proj" in name for name in got)
    for name, tensor in want.items():
        assert got[name].shape == tensor.shape and bool(got[name].isfinite().all())
        if dtype == "float32":  # in 16 bits another order of sums sends some rows to other experts
            torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-3)


def test_an_input_that_is_always_zero_does_not_count(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what comes in front of them: norms for what reads the residual, rows of up for what reads the gated product."""
    monkeypatch.setattr(observing, "ROWS", 1e-3)  # of the layer's mean, which has no such zero
    layer = model.layers[1]
    layer.input_layernorm.weight[3] = layer.pre_feedforward_layernorm.weight[5] = 0.0
    layer.pre_feedforward_layernorm_2.weight[7] = 0.0
    layer.mlp.up_proj.weight[9] = 0.0
    layer.experts.gate_up_proj[2, 32 + 11] = 0.0
    found = observe(model, IDS, 2, SETTINGS)
    zeros = {name: (tensor == 0).nonzero().tolist() for name, tensor in found.items()}
    name = "layers.1."
    assert zeros.pop(name + "self_attn.q_proj.weight") == zeros.pop(name + "self_attn.k_proj.weight") == [[3]]
    assert zeros.pop(name + "mlp.gate_proj.weight") == zeros.pop(name + "mlp.up_proj.weight") == [[5]]
    assert zeros.pop(name + "mlp.down_proj.weight") == [[9]]
    assert zeros.pop(name + "experts.gate_up_proj") == [[expert, 7] for expert in range(4)]
    down = found[name + "experts.down_proj"]
    assert (down < 1e-2).nonzero().tolist() == [[2, 11]]
    zeros.pop(name + "experts.down_proj")
    assert not any(zeros.values())


def test_packed_weights_are_observed_alike(model) -> None:
    want, got = observe(model, IDS, 2, SETTINGS), observe(pack(copy.deepcopy(model)), IDS, 2, SETTINGS)
    assert want.keys() == got.keys()
    assert all(torch.allclose(got[name], tensor, rtol=1e-3, atol=1e-4) for name, tensor in want.items())


def test_experts_that_nobody_chose_get_the_mean_of_their_layer() -> None:
    sums = observing.Sums(3, 2)
    sums.add(torch.tensor([[2.0, 0.0]] * 100), 0, torch.ones(100))
    sums.add(torch.tensor([[0.0, 2.0]] * 100), 1, torch.full((100,), 0.5))
    got = sums.mean()
    assert got[0, 0] > got[2, 0] > got[1, 0]
    assert torch.allclose(got[2], torch.tensor([4 / 3, 2 / 3]))


def test_a_text_that_is_too_short(model) -> None:
    with pytest.raises(UsageError, match="has 11 tokens; at least 12"):
        observe(model, IDS[:11], 2, SETTINGS)
    assert observe(model, IDS[:12], 2, SETTINGS)


def test_a_model_beside_itself(model) -> None:
    found = compare(model, model, [[1, 2, 3], [4, 5]], SETTINGS)
    assert found.kl == found.kl_first == found.kl_later == 0.0 and found.agreement == 1.0
    assert found.steps_before == found.steps_after and found.states == sum(found.steps_before)
    assert found.steps_change == 0.0 and found.steps_error == 0.0


def test_fewer_bits_are_seen_and_more_of_them_less(model) -> None:
    found = {
        name: compare(
            model,
            quantise(copy.deepcopy(model), {"experts": Format(name), "attention": Format(name)}),
            [[1, 2, 3]],
            SETTINGS,
        )
        for name in ("fp8", "int4")
    }
    assert 0 < found["fp8"].kl < found["int4"].kl and found["int4"].agreement < 1.0


def test_the_divergence_of_first_steps_by_hand(model) -> None:
    """One step at T = t_max, on the noise that the request starts from."""
    other = quantise(copy.deepcopy(model), {"experts": Format("int4")})
    once = SETTINGS.replace(max_denoising_steps=1)
    found = compare(model, other, [[1, 2, 3]], once)
    from dgemma.engine.canvases import begin_canvases
    from dgemma.engine.denoise import read_prompts
    from dgemma.engine.requests import Request

    request = Request((1, 2, 3), 6, 0, once)
    canvas, both = begin_canvases(model, [request], [0]).canvas, []
    for one in (model, other):
        hidden = one.denoise(canvas, read_prompts(one, [[1, 2, 3]], 8, 6))
        both.append(
            (
                soft_capped_logits(hidden[0], one.table, one.config.final_logit_softcapping) / once.t_max
            ).log_softmax(-1)
        )
    want = (both[0].exp() * (both[0] - both[1])).sum(-1).mean()
    assert found.kl == found.kl_first == pytest.approx(float(want), rel=1e-4) and found.kl_later == 0.0
    turned = (both[1].exp() * (both[1] - both[0])).sum(-1).mean()
    assert found.kl != pytest.approx(float(turned), rel=1e-4)
