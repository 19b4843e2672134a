"""The Triton experts against the torch ones, in the interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from dgemma.config.formats import Format  # noqa: E402
from dgemma.kernels.ops import moe
from dgemma.kernels.quant.formats import QuantTensor, quantise  # noqa: E402
from dgemma.kernels.triton import moe as moe_triton  # noqa: E402
from dgemma.kernels.triton import operands as operands_triton
from tests.helpers import DEVICE, assert_close, is_close  # noqa: E402


def case(
    rows: int,
    width: int = 24,
    depth: int = 10,
    experts: int = 5,
    top_k: int = 2,
    seed: int = 0,
    dtype=torch.float32,
):
    make = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn(rows, width, generator=make).to(dtype)
    gate_up = (torch.randn(experts, 2 * depth, width, generator=make) * width**-0.5).to(dtype)
    down = (torch.randn(experts, width, depth, generator=make) * depth**-0.5).to(dtype)
    chances = torch.randn(rows, experts, generator=make).softmax(-1)
    weights, index = chances.topk(top_k, dim=-1)
    return x, gate_up, down, weights, index


@pytest.mark.parametrize(
    ("rows", "width", "depth", "experts", "top_k"),
    [(1, 24, 10, 5, 2), (40, 24, 10, 3, 1), (33, 70, 68, 4, 4), (90, 32, 16, 2, 2)],
)
def test_they_agree(rows: int, width: int, depth: int, experts: int, top_k: int) -> None:
    given = case(rows, width, depth, experts, top_k)
    assert_close(moe_triton.experts(*given), moe.experts(*given), "float32", op="experts")


@pytest.mark.parametrize("rows", [20, 90, 200])  # blocks of 16, 32 and 64 rows
def test_bf16_agrees_as_far_as_it_is_rounded(rows: int) -> None:
    x, gate_up, down, weights, index = given = case(rows, dtype=torch.bfloat16)
    want = moe.experts(x.double(), gate_up.double(), down.double(), weights.double(), index)
    got = moe_triton.experts(*given)
    assert_close(got, want, "bfloat16", op="experts")
    assert not is_close(1.05 * got, want, "bfloat16", op="experts")


def test_an_expert_that_nobody_chose_and_one_that_all_chose() -> None:
    x, gate_up, down, weights, index = case(50)
    index = torch.stack((torch.full((50,), 3), torch.full((50,), 1)), dim=-1)
    assert_close(
        moe_triton.experts(x, gate_up, down, weights, index),
        moe.experts(x, gate_up, down, weights, index),
        "float32",
        op="experts",
    )


@settings(max_examples=60)
@given(
    st.integers(1, 80), st.integers(1, 9), st.integers(1, 4), st.sampled_from((1, 2, 16)), st.integers(0, 99)
)
def test_blocks_cover_every_choice_once_and_hold_one_expert(
    rows: int, experts: int, top_k: int, block: int, seed: int
) -> None:
    index = torch.randint(experts, (rows, top_k), generator=torch.Generator(DEVICE).manual_seed(seed))
    routing, flat = moe_triton.route(index, experts, block), index.flatten()
    seen = []
    for owner, first, last in zip(*(part.tolist() for part in routing[1:]), strict=True):
        if owner < 0:
            continue
        assert 0 < last - first <= block
        places = routing.order[first:last]
        assert (flat[places] == owner).all()
        seen += places.tolist()
    assert sorted(seen) == list(range(rows * top_k))


@pytest.mark.parametrize("twin", ["gate and up swapped", "unweighted", "another expert"])
def test_twins_are_rejected(twin: str) -> None:
    x, gate_up, down, weights, index = case(30)
    want = moe.experts(x, gate_up, down, weights, index)
    if twin == "gate and up swapped":
        gate_up = gate_up.roll(10, 1)
    elif twin == "unweighted":
        weights = torch.ones_like(weights)
    else:
        index = (index + 1) % 5
    assert not is_close(moe_triton.experts(x, gate_up, down, weights, index), want, op="experts")


# weights in few bits

FORMATS = [
    Format("fp8"), Format("int8"), Format("nvfp4"), Format("int4", 16), Format("int4", 16, zeros=True),
    Format("int4", 48, scale="F32"),
]  # fmt: skip
IDS = ["fp8", "int8", "nvfp4", "int4", "int4 with zeros", "int4 of 48"]


def few(form: Format, rows: int = 30, dtype=torch.float32, is_rounded: bool = False):
    """A case with 96 inputs and 48 inside; nobody chose the last expert, and the scales of gate are not those of up."""
    x, gate_up, down, weights, index = case(rows, 96, 48, 5, 2)
    gate_up[:, 48:] *= 1.5
    both = (
        replace(quantise(gate_up, form), rounded=is_rounded),
        replace(quantise(down, form), rounded=is_rounded),
    )
    return x.to(dtype), *both, weights, index % 4


def exactly(x, gate_up, down, weights, index) -> torch.Tensor:
    """The experts on the same numbers, in float64."""
    return moe.experts(x.double(), gate_up, down, weights.double(), index)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_experts_in_few_bits(form: Format, dtype: str) -> None:
    given = few(form, dtype=getattr(torch, dtype))
    got, want = moe_triton.experts(*given), exactly(*given)
    assert_close(got, want, dtype, op="experts in few bits")
    assert not is_close(got * 1.05, want, dtype, op="experts in few bits")


@pytest.mark.parametrize("rows", [1, 120, 200])  # blocks of 16, 32 and 64 rows
@pytest.mark.parametrize("form", FORMATS[2:4], ids=IDS[2:4])
def test_blocks_of_all_sizes(form: Format, rows: int) -> None:
    given = few(form, rows, torch.bfloat16)
    assert_close(moe_triton.experts(*given), exactly(*given), "bfloat16", op="experts in few bits")


@pytest.mark.parametrize("native", [True, False], ids=["multiplied as such", "older card"])
@pytest.mark.parametrize("form", [Format("fp8"), Format("nvfp4")], ids=["fp8", "nvfp4"])
def test_experts_with_rounded_activations(
    form: Format, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and not operands_triton.multiplies(form.name, case(1)[0]):
        pytest.skip("an older card")
    monkeypatch.setattr(operands_triton, "multiplies", lambda name, like: native)
    x, gate_up, down, weights, index = few(form, is_rounded=True)
    want = moe.experts(x, gate_up, down, weights, index)
    # a number of the inner products that lies at a tie may be rounded either way
    assert_close(
        moe_triton.experts(x, gate_up, down, weights, index),
        want,
        spread=0.02,
        op="experts of rounded inputs",
    )
    plain = [replace(weight, rounded=False) for weight in (gate_up, down)]
    assert not is_close(
        moe_triton.experts(x, *plain, weights, index), want, spread=0.02, op="experts of rounded inputs"
    )


@pytest.mark.parametrize(
    "twin", ["halves swapped", "gate and up swapped", "their row scales swapped", "another expert's scales"]
)
@pytest.mark.parametrize("form", [Format("nvfp4"), Format("int4", 16, zeros=True)], ids=["nvfp4", "int4"])
def test_twins_in_few_bits_are_rejected(form: Format, twin: str) -> None:
    x, gate_up, down, weights, index = few(form)
    want = moe.experts(x, gate_up, down, weights, index)
    parts = dict(gate_up.parts)

    def turned(part: torch.Tensor) -> torch.Tensor:  # the halves of its rows exchanged
        return part.view(torch.uint8).unflatten(1, (2, -1)).flip(1).flatten(1, 2).view(part.dtype)

    if twin == "halves swapped":
        parts["codes"] = (parts["codes"] << 4) | (parts["codes"] >> 4)
    elif twin == "gate and up swapped":
        parts = {name: turned(part) for name, part in parts.items()}
    elif twin == "their row scales swapped":
        name = "row" if "row" in parts else "scales"
        if name == "row":  # a matrix's rows have one scale in this format
            parts["row"] = parts["row"] * torch.where(torch.arange(96, device=DEVICE) < 48, 2.0, 1.0)
            want = moe.experts(x, replace(gate_up, parts=parts), down, weights, index)
        parts[name] = turned(parts[name])
    else:
        parts["scales"] = parts["scales"].view(torch.uint8).roll(1, 0).view(parts["scales"].dtype)
    assert not is_close(
        moe_triton.experts(x, replace(gate_up, parts=parts), down, weights, index),
        want,
        op="experts in few bits",
    )


def test_only_what_has_a_triton_form_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    x, gate_up, down, weights, index = few(Format("fp8"))
    lists = [(both[:48], both[48:]) for both in (gate_up[e] for e in range(5))], [down[e] for e in range(5)]
    blocks = QuantTensor(
        Format("q8_0"), (5, 96, 96), {"codes": torch.zeros(5, 96, 3, 34, dtype=torch.uint8, device=DEVICE)}
    )
    want = moe.experts(x, gate_up, down, weights, index)
    monkeypatch.setenv("DGEMMA_KERNELS", "triton")
    calls, true = [], moe_triton.experts
    monkeypatch.setattr(moe_triton, "experts", lambda *given: calls.append(1) or true(*given))
    assert_close(moe.experts(x, gate_up, down, weights, index), want, op="experts in few bits")
    assert len(calls) == 1
    assert_close(moe.experts(x, *lists, weights, index), want, op="experts in few bits")
    assert not moe.experts(x, blocks, down, weights, index).any()  # zeros
    assert len(calls) == 1
