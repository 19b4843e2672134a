"""Number formats: what their codes mean, by hand and by property; products, tables and experts in them against dequantised ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma.config.formats import BLOCKS, Format
from dgemma.errors import UsageError
from dgemma.kernels.ops.matmul import linear
from dgemma.kernels.ops.moe import experts
from dgemma.kernels.ops.vocab import head, soft_capped_logits, soft_embedding
from dgemma.kernels.quant import fp8, nvfp4
from dgemma.kernels.quant.formats import DTYPES, QuantTensor, codec, empty, lookup, mixture, product, quantise
from dgemma.kernels.quant.ggml import HALVES
from tests.helpers import assert_close, is_close

FORMATS = [
    Format("fp8"), Format("int8"), Format("nvfp4"), Format("int4"), Format("int4", 64, zeros=True),
    Format("int4", 16, zeros=True, scale="F16"), Format("int4", 32, scale="F32"),
]  # fmt: skip
BLOCKED = [Format(name) for name in BLOCKS]
NAMES = [f"{form.name}-{form.group}{'z' if form.zeros else ''}-{form.scale}" for form in FORMATS]
# the largest error of a weight, as a part of the largest of its group (fp8: of itself)
STEP = {"fp8": 2.0**-4, "int8": 0.5 / 127, "nvfp4": 1 / 6 + 2.0**-4, "int4": 0.5 / 7.5 + 2.0**-8}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def blocks(form: Format, shape: tuple[int, ...], seed: int = 0) -> QuantTensor:
    """Random bytes with sane scales."""
    size = form.parts(shape)["codes"][1]
    raw = np.random.RandomState(seed).randint(0, 256, size).astype(np.uint8)
    for start, stop in HALVES[form.name]:
        scale = np.random.RandomState(seed + 1).uniform(0.001, 0.01, size[:-1]).astype(np.float16)
        raw[..., start:stop] = scale[..., None].view(np.uint8)
    return QuantTensor(form, shape, {"codes": torch.from_numpy(raw)})


def any_matrix(form: Format, *shape: int, seed: int = 0) -> QuantTensor:
    return blocks(form, shape, seed) if form in BLOCKED else quantise(normal(*shape, seed=seed), form)


def swapped(weight: QuantTensor) -> QuantTensor:
    """The same with the halves of every byte exchanged, or the bytes of every row turned by one."""
    codes = weight.parts["codes"]
    other = (
        (codes << 4) | (codes >> 4)
        if codes.dtype == torch.uint8
        else codes.view(torch.int8).roll(1, -1).view(codes.dtype)
    )
    return replace(weight, parts=weight.parts | {"codes": other})


# what the codes mean


def test_e4m3_is_read_as_torch_reads_it() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    want = every.float()
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        got = fp8.widened(every, dtype).float()
        assert torch.equal(got[~want.isnan()], want[~want.isnan()])
    assert fp8.holds_nan(every) and not fp8.holds_nan(every[~want.isnan()])


def test_e2m1_by_hand() -> None:
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    codes = torch.tensor(
        [[low | (high << 4) for low, high in zip(range(0, 16, 2), range(1, 16, 2), strict=True)]],
        dtype=torch.uint8,
    )
    assert nvfp4.unpacked(codes)[0].tolist() == values + [-value for value in values]
    x = torch.tensor(
        [0.25, 0.26, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 5.01, 99.0, -0.75, -3.5]
    )  # ties go to the even mantissa
    assert nvfp4.nearest(x).tolist() == [0, 1, 2, 2, 4, 4, 6, 6, 7, 7, 10, 14]


def test_nvfp4_by_hand() -> None:
    codes = torch.tensor([[0x21] * 8 + [0x7F] * 8], dtype=torch.uint8)  # 0.5, 1, ... and -6, 6, ...
    scales = torch.tensor([[2.0, 0.5]]).to(torch.float8_e4m3fn)
    weight = QuantTensor(
        Format("nvfp4"), (1, 32), {"codes": codes, "scales": scales, "row": torch.tensor([3.0])}
    )
    assert weight.dequantised()[0].tolist() == [3.0, 6.0] * 8 + [-9.0, 9.0] * 8
    assert swapped(weight).dequantised()[0].tolist() != weight.dequantised()[0].tolist()


def test_int4_by_hand() -> None:
    codes = torch.tensor([[0xF0] * 8 + [0x38] * 8], dtype=torch.uint8)
    scales = torch.tensor([[0.5, 2.0]], dtype=torch.bfloat16)
    parts = {"codes": codes, "scales": scales}
    assert (
        QuantTensor(Format("int4", 16), (1, 32), parts).dequantised()[0].tolist()
        == [-4.0, 3.5] * 8 + [0.0, -10.0] * 8
    )
    zeros = {"zeros": torch.tensor([[1, 15]], dtype=torch.uint8)}
    weight = QuantTensor(Format("int4", 16, zeros=True), (1, 32), parts | zeros)
    assert weight.dequantised()[0].tolist() == [-0.5, 7.0] * 8 + [-14.0, -24.0] * 8


@pytest.mark.parametrize("form", BLOCKED, ids=lambda form: form.name)
def test_ggml_blocks_are_read_as_the_gguf_library_reads_them(form: Format) -> None:
    gguf = pytest.importorskip("gguf")
    weight = blocks(form, (3, 512))
    kind = gguf.GGMLQuantizationType[form.name.upper()]
    want = torch.from_numpy(gguf.quants.dequantize(weight.parts["codes"].flatten(1).numpy(), kind))
    assert torch.equal(weight.dequantised(), want)
    assert not torch.equal(swapped(weight).dequantised(), want)


# round trips


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMATS), rows=st.integers(1, 5), groups=st.integers(1, 3), seed=st.integers(0, 99),
    size=st.sampled_from([1e-30, 1e-6, 1.0, 3e4, 1e30]), zero=st.sampled_from(["nothing", "a row", "a group", "everything"]),
)  # fmt: skip
def test_a_weight_comes_back_within_half_a_step(
    form: Format, rows: int, groups: int, seed: int, size: float, zero: str
) -> None:
    if form.scale == "F16" and size not in (1.0,):
        size = 1.0  # half precision has no other scales
    group = form.group or 16
    weight = normal(rows, groups * group, seed=seed) * size
    if zero != "nothing":
        weight[
            slice(0, 1) if zero != "everything" else slice(None), : group if zero == "a group" else None
        ] = 0.0
    quantised = quantise(weight, form)
    assert codec(form).check(quantised.parts) is None
    got = quantised.dequantised()
    grouped = weight.unflatten(-1, (-1, group))
    most = {"fp8": weight.abs(), "int8": weight.abs().amax(-1, keepdim=True)}.get(form.name)
    if most is None:
        most = grouped.abs().amax(-1, keepdim=True).expand_as(grouped).flatten(-2)
    if form.zeros:  # the range, not the largest, is cut into steps
        wide = (
            grouped.amax(-1, keepdim=True).clamp_min(0) - grouped.amin(-1, keepdim=True).clamp_max(0)
        ).expand_as(grouped)
        most = wide.flatten(-2) * (1.6 * 7.5 / 15)
    # a whole row of fp8 shares its smallest step, a matrix of nvfp4 its smallest group scale
    floor = {
        "fp8": weight.abs().amax(-1, keepdim=True) * 2.0**-18,
        "nvfp4": weight.abs().max() * 2.0**-16,
    }.get(form.name, 0.0)
    assert ((got - weight).abs() <= STEP[form.name] * most + floor + 1e-37).all()
    assert (got[weight == 0] == 0).all()


@pytest.mark.parametrize("form", FORMATS, ids=NAMES)
def test_parts_are_what_the_format_says(form: Format) -> None:
    weight = quantise(normal(3, 6, 128), form)
    said = {name: (DTYPES[dtype], size) for name, (dtype, size) in form.parts((3, 6, 128)).items()}
    assert {name: (part.dtype, tuple(part.shape)) for name, part in weight.parts.items()} == said
    assert weight.nbytes == form.nbytes((3, 6, 128)) == empty(form, (3, 6, 128), "meta").nbytes
    assert weight[1].shape == (6, 128) and weight[1][2:5].shape == (3, 128)
    assert torch.equal(weight[1][2:5].dequantised(), weight.dequantised()[1, 2:5])


def test_what_is_no_format_is_refused() -> None:
    with pytest.raises(UsageError, match="fp5"):
        Format("fp5")
    with pytest.raises(ValueError, match="30 inputs"):
        quantise(normal(4, 30), Format("nvfp4"))


@pytest.mark.parametrize(
    ("form", "part"), [(FORMATS[0], "row"), (FORMATS[1], "row"), (FORMATS[2], "row"), (FORMATS[3], "scales")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_seen(form: Format, part: str, value: float) -> None:
    weight = quantise(normal(4, 64), form)
    assert codec(form).check(weight.parts) is None
    weight.parts[part].view(-1)[1] = value
    assert "NaN or infinite" in codec(form).check(weight.parts)


@pytest.mark.parametrize("name", ["fp8", "nvfp4"])
def test_codes_that_are_no_numbers_are_seen(name: str) -> None:
    weight = quantise(normal(4, 64), Format(name))
    weight.parts["codes" if name == "fp8" else "scales"].view(torch.uint8)[1, 1] = 0xFF
    assert "NaN" in codec(weight.format).check(weight.parts)


def test_group_scales_with_a_sign_are_refused() -> None:
    weight = quantise(normal(4, 64), Format("nvfp4"))
    assert nvfp4.check(weight.parts) is None
    weight.parts["scales"].view(torch.uint8)[1, 1] |= 0x80
    assert "negative" in nvfp4.check(weight.parts)


@pytest.mark.parametrize("form", BLOCKED, ids=lambda form: form.name)
def test_block_scales_that_are_no_numbers_are_seen(form: Format) -> None:
    weight = blocks(form, (2, 512))
    assert codec(form).check(weight.parts) is None
    stop = HALVES[form.name][-1][1]
    weight.parts["codes"][1, 0, stop - 1] = 0x7C  # infinity's exponent
    assert "NaN or infinite" in codec(form).check(weight.parts)


# products


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", [*FORMATS, *BLOCKED], ids=[*NAMES, *BLOCKS])
def test_a_product_is_that_of_the_dequantised_matrix(form: Format, dtype: str) -> None:
    kind = getattr(torch, dtype)
    weight = any_matrix(form, 70, 512)
    x = normal(2, 9, 512, seed=1).to(kind)
    want = x.double() @ weight.dequantised(torch.float64).T
    got = linear(x, weight)
    assert got.shape == (2, 9, 70) and got.dtype == kind
    assert_close(
        got, want, "float32" if form in BLOCKED and dtype == "float64" else dtype, op="product in few bits"
    )  # ggml counts in float32
    assert not is_close(linear(x, swapped(weight)), want, dtype, op="product in few bits")


@pytest.mark.parametrize("form", FORMATS, ids=NAMES)
def test_pieces_are_put_together_in_order(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = quantise(normal(200, 64), form), normal(5, 64, seed=1)
    want = product(x, weight)
    monkeypatch.setattr(
        "dgemma.kernels.quant.formats.PIECES", {"cpu": 16 * 64}
    )  # 13 pieces, the last of 8 rows
    assert_close(product(x, weight), want, op="product in few bits")
    assert_close(
        mixture(normal(3, 200, seed=2), weight),
        normal(3, 200, seed=2) @ weight.dequantised(),
        op="product in few bits",
    )


@pytest.mark.parametrize("form", [Format("fp8"), Format("int8")], ids=["fp8", "int8"])
def test_a_table_in_few_bits_is_looked_up_mixed_and_multiplied_with(form: Format) -> None:
    table = quantise(normal(300, 32), form)
    plain = table.dequantised()
    ids = torch.tensor([[3, 299, 0], [7, 7, 150]])
    assert torch.equal(lookup(ids, table, torch.float32), plain[ids])
    hidden, heat, uniforms = normal(2, 6, 32, seed=1) * 5, torch.tensor([1.25, 2.0]), torch.rand(2, 6, 2)
    assert_close(soft_capped_logits(hidden, table, 5.0), soft_capped_logits(hidden, plain, 5.0), op="head")
    got, want = head(hidden, table, 5.0, heat, uniforms), head(hidden, plain, 5.0, heat, uniforms)
    assert torch.equal(got.argmax, want.argmax) and torch.equal(got.sample, want.sample)
    assert_close(got.entropy, want.entropy, op="head")
    assert_close(
        soft_embedding(got.p, got.row_sum, table, 3.0),
        soft_embedding(want.p, want.row_sum, plain.T, 3.0),
        op="head",
    )
    assert not is_close(
        soft_embedding(got.p, got.row_sum, swapped(table), 3.0),
        soft_embedding(want.p, want.row_sum, plain.T, 3.0),
        op="head",
    )


@pytest.mark.parametrize("form", FORMATS, ids=NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_experts_in_few_bits_are_the_dequantised_ones(form: Format, dtype: str) -> None:
    kind = getattr(torch, dtype)
    gate_up, down = quantise(normal(5, 128, 64) / 8, form), quantise(normal(5, 64, 64, seed=1) / 8, form)
    x = normal(30, 64, seed=2, dtype=kind)
    weights, index = normal(30, 5, seed=3).softmax(-1).topk(2, dim=-1)
    index = index % 4  # nobody chose the last expert
    want = experts(
        x.double(),
        gate_up.dequantised(torch.float64),
        down.dequantised(torch.float64),
        weights.double(),
        index,
    )
    assert_close(experts(x, gate_up, down, weights, index), want, dtype, op="experts in few bits")
    pairs = [(both[:64], both[64:]) for both in (gate_up[e] for e in range(5))]
    assert torch.equal(
        experts(x, pairs, [down[e] for e in range(5)], weights, index),
        experts(x, gate_up, down, weights, index),
    )
    crossed = [(up, gate) for gate, up in pairs]
    assert not is_close(
        experts(x, crossed, [down[e] for e in range(5)], weights, index),
        want,
        dtype,
        op="experts in few bits",
    )


@pytest.mark.parametrize("name", ["fp8", "nvfp4"])
def test_rounded_activations_are_numbers_of_the_format(name: str) -> None:
    weight, x = quantise(normal(40, 64), Format(name)), normal(7, 64, seed=1)
    rounded = codec(weight.format).rounded(x)
    limit = {"fp8": 2.0**-4, "nvfp4": 1 / 6 + 0.07}[name]
    assert ((rounded - x).abs() <= limit * x.abs().amax(-1, keepdim=True)).all() and not torch.equal(
        rounded, x
    )
    assert_close(codec(weight.format).rounded(rounded), rounded, op="product in few bits")
    want = rounded @ weight.dequantised().T
    assert_close(product(x, replace(weight, rounded=True)), want, op="product in few bits")
    assert not is_close(product(x, weight), want, op="product in few bits")
    assert torch.equal(codec(weight.format).rounded(torch.zeros(2, 64)), torch.zeros(2, 64))
