"""Products with weights in few bits in Triton against the torch ones, in the interpreter; PTX, which it has not, in numpy."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from dgemma.config.formats import Format  # noqa: E402
from dgemma.kernels import select  # noqa: E402
from dgemma.kernels.ops import matmul
from dgemma.kernels.quant import fp8, nvfp4
from dgemma.kernels.quant.formats import QuantTensor, product, quantise  # noqa: E402
from dgemma.kernels.select import triton_version
from dgemma.kernels.triton import matmul as matmul_triton
from dgemma.kernels.triton import operands as operands_triton
from dgemma.kernels.triton import rounding as rounding_triton
from tests.helpers import DEVICE, assert_close, is_close  # noqa: E402

FORMATS = [
    Format("fp8"), Format("int8"), Format("nvfp4"), Format("int4"), Format("int4", 64, zeros=True),
    Format("int4", 16, zeros=True, scale="F16"), Format("int4", 48, scale="F32"), Format("int4", 192),
]  # fmt: skip
NAMES = [f"{form.name}-{form.group}{'z' if form.zeros else ''}-{form.scale}" for form in FORMATS]
ROUNDED = [Format("fp8"), Format("nvfp4")]
CARDS = {
    (8, 0): [],
    (8, 6): [],
    (8, 9): ["fp8"],
    (9, 0): ["fp8"],
    (10, 0): ["fp8", "nvfp4"],
    (12, 0): ["fp8", "nvfp4"],
    (12, 1): ["fp8"] if triton_version() < (3, 9) else ["fp8", "nvfp4"],
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator(DEVICE).manual_seed(seed)).to(dtype)


def any_codes(form: Format, rows: int, inputs: int, seed: int = 0) -> QuantTensor:
    """Every code and every group scale there is, but NaN and, of scales, negative ones."""
    make = torch.Generator(DEVICE).manual_seed(seed)
    weight = quantise(normal(rows, inputs, seed=seed), form)
    parts = dict(weight.parts)
    for name, part in parts.items():
        if part.element_size() == 1:
            most = {"scales": 0x7F, "zeros": 16}.get(name, 256)
            drawn = torch.randint(most, part.shape, generator=make).to(torch.uint8)
            if part.dtype == torch.float8_e4m3fn:
                drawn = torch.where((drawn & 0x7F) == 0x7F, torch.zeros_like(drawn), drawn)
            parts[name] = drawn.view(part.dtype)
    return replace(weight, parts=parts)


def swapped(weight: QuantTensor) -> QuantTensor:
    """The halves of every byte exchanged, or neighbours of every row."""
    codes = weight.parts["codes"]
    other = (
        (codes << 4) | (codes >> 4)
        if codes.dtype == torch.uint8
        else codes.view(torch.int8).roll(1, -1).view(codes.dtype)
    )
    return replace(weight, parts=weight.parts | {"codes": other})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", FORMATS, ids=NAMES)
def test_a_product_is_the_reference_s(form: Format, dtype: str) -> None:
    weight, x = quantise(normal(150, 192), form), normal(33, 192, seed=1, dtype=getattr(torch, dtype))
    got, want = matmul_triton.product(x, weight), product(x.double(), weight)
    assert got.dtype == x.dtype
    assert_close(got, want, dtype, op="product in few bits")
    assert not is_close(matmul_triton.product(x, swapped(weight)), want, "bfloat16", op="product in few bits")
    assert not is_close(got * 1.02, want, dtype, op="product in few bits")


@pytest.mark.parametrize("form", FORMATS, ids=NAMES)
def test_every_code_and_scale_is_read_as_the_reference_reads_it(form: Format) -> None:
    weight = any_codes(form, 64, 192)
    assert_close(
        matmul_triton.product(torch.eye(192, device=DEVICE), weight),
        weight.dequantised().T,
        "float64",
        op="product in few bits",
    )


@settings(max_examples=25)
@given(
    form=st.sampled_from(FORMATS[:5]), rows=st.sampled_from((1, 2, 16, 17, 40, 65)), outs=st.integers(1, 140),
    groups=st.integers(1, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_shapes_that_are_no_multiples_of_the_tiles(
    form: Format, rows: int, outs: int, groups: int, seed: int
) -> None:
    inputs = groups * (form.group or 16)
    weight, x = quantise(normal(outs, inputs, seed=seed), form), normal(rows, inputs, seed=seed + 1)
    assert_close(matmul_triton.product(x, weight), product(x, weight), op="product in few bits")


@pytest.mark.parametrize("rows", [64, 1024])
def test_blocks_of_many_rows(rows: int) -> None:  # there the weight's rows are the rows of the product
    weight, x = quantise(normal(40, 96), Format("int4")), normal(rows, 96, seed=1, dtype=torch.bfloat16)
    want = product(x.double(), weight)
    assert_close(matmul_triton.product(x, weight), want, "bfloat16", op="product in few bits")


# activations in few bits


@pytest.mark.parametrize("native", [True, False], ids=["multiplied as such", "older card"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", ROUNDED, ids=["fp8", "nvfp4"])
def test_rounded_activations(form: Format, dtype: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if native and not operands_triton.multiplies(form.name, normal(1)):
        pytest.skip("an older card")
    monkeypatch.setattr(operands_triton, "multiplies", lambda name, like: native)
    weight, x = (
        replace(quantise(normal(150, 192), form), rounded=True),
        normal(33, 192, seed=1, dtype=getattr(torch, dtype)),
    )
    want = product(
        x.float(), weight
    )  # bfloat16 numbers lie on the borders between codes: their scales must be found in the same arithmetic
    # not measured by itself yet: bfloat16's own limits are those of whole models, so float16's stand in
    limit = "float32" if dtype == "float32" else "float16"
    assert_close(matmul_triton.product(x, weight), want, limit)
    if dtype == "float32":
        assert not is_close(matmul_triton.product(x, replace(weight, rounded=False)), want)
        assert not is_close(matmul_triton.product(x, swapped(weight)), want)


@settings(max_examples=40)
@given(
    form=st.sampled_from(ROUNDED), groups=st.integers(1, 70), seed=st.integers(0, 99),
    size=st.sampled_from((1e-30, 1e-3, 1.0, 1e30)), zero=st.sampled_from(("nothing", "a row", "a group")),
)  # fmt: skip
def test_what_is_rounded_is_as_the_reference_rounds(
    form: Format, groups: int, seed: int, size: float, zero: str
) -> None:
    x = normal(3, 16 * groups, seed=seed) * size
    if zero != "nothing":
        x[0, : 16 if zero == "a group" else None] = 0.0
    if form.name == "fp8":
        codes, token = rounding_triton.to_fp8(x)
        got = codes.view(torch.float8_e4m3fn).float() * token[:, None]
    else:
        codes, scales, token = rounding_triton.to_nvfp4(x)
        steps = scales.view(torch.float8_e4m3fn).float()[..., None]
        got = (nvfp4.unpacked(codes).float().unflatten(-1, (-1, 16)) * steps * token[:, None, None]).flatten(
            -2
        )
    assert torch.equal(got, {"fp8": fp8, "nvfp4": nvfp4}[form.name].rounded(x))


def test_ties_and_subnormal_numbers_become_e4m3_as_torch_makes_them() -> None:
    every = torch.arange(0x7F, dtype=torch.uint8, device=DEVICE).view(torch.float8_e4m3fn).float()
    between = (every[1:] + every[:-1]) / 2
    x = torch.cat((every, between, between * (1 + 2.0**-20), between * (1 - 2.0**-20)))
    x = torch.cat((x, -x, x[:12]))[None]  # the largest is 448: the scale is 1
    codes, token = rounding_triton.to_fp8(x)
    assert token.item() == 1.0 and torch.equal(codes, x.to(torch.float8_e4m3fn).view(torch.uint8))


# the form that cards run


def _numbers(bits: np.ndarray, kind: str) -> np.ndarray:
    return (
        bits.view(np.float16) if kind == "f16" else (bits.astype(np.uint32) << 16).view(np.float32)
    ).astype(np.float64)


def _rounded(numbers: np.ndarray, kind: str) -> np.ndarray:
    """16 bits of float64 numbers, rounded once."""
    if kind == "f16":
        return numbers.astype(np.float16).view(np.uint16)
    return torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def run_ptx(text: str, operands: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The few instructions that codes.py uses, on registers that hold two numbers each."""
    names = {f"${2 + at}": value.view(np.uint32) for at, value in enumerate(operands)}
    for line in (part.strip(" {}\n") for part in text.split(";")):
        if found := re.fullmatch(r"mov\.b32 (\w+), (0x\w+)", line):
            names[found[1]] = np.uint32(int(found[2], 16))
        elif found := re.fullmatch(r"lop3\.b32 (\w+), (\S+), (0x\w+), (0x\w+), 0xEA", line):
            names[found[1]] = (names[found[2]] & np.uint32(int(found[3], 16))) | np.uint32(int(found[4], 16))
        elif found := re.fullmatch(r"fma\.rn\.(bf16|f16)x2 (\w+), (\S+), (\S+), (\S+)", line):
            kind, halves = found[1], []
            for shift in (0, 16):
                registers = (
                    np.atleast_1d(names[name] >> shift & 0xFFFF).astype(np.uint16)
                    for name in found.groups()[2:]
                )
                a, b, c = (_numbers(bits, kind) for bits in registers)
                halves.append(
                    _rounded(a * b + c, kind).astype(np.uint32)
                )  # exact in float64 for these numbers
            names[found[2]] = halves[0] | (halves[1] << 16)
        else:
            assert line in ("", ".reg .b32 t, none, one, middle, code", "mov.b32 {$0, $1}, t"), line
    return (names["t"] & 0xFFFF).astype(np.uint16), (names["t"] >> 16).astype(np.uint16)


@pytest.fixture(params=["right", "halves swapped"])
def ptx_in_numpy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The packed form in the interpreter. -> whether it is the true one, or the twin that must fail."""
    from triton.runtime import interpreter

    if DEVICE != "cpu":
        pytest.skip("a card runs it itself")

    class Results:
        def __init__(self, parts: tuple[np.ndarray, ...], kinds: list):
            of = interpreter.TensorHandle
            self.parts = [
                of(part.view(np.int16), kind.scalar) for part, kind in zip(parts, kinds, strict=True)
            ]

        def get_result(self, number: int) -> object:
            return self.parts[number]

    def call(self, text: str, constraints: str, values: list, kinds: list, pure: bool, pack: int) -> Results:
        shape = values[0].data.shape
        low, high = (part.reshape(shape) for part in run_ptx(text, [value.data.ravel() for value in values]))
        return Results((low, high) if request.param == "right" else (high, low), kinds)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", call)
    true = operands_triton.operands

    def packed(x, weight, rows):  # as on a card
        tensors, options = true(x, weight, rows)
        fits = weight.format.name != "int4" or weight.parts["scales"].dtype == x.dtype
        return tensors, options | {"PACKED": fits}

    monkeypatch.setattr(matmul_triton, "operands", packed)
    return request.param == "right"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["fp8", "nvfp4", "int4", "int4 with zeros"])
def test_the_packed_form_is_the_other_one_number_for_number(
    name: str, dtype: str, ptx_in_numpy: bool
) -> None:
    kind = getattr(torch, dtype)
    scale = "BF16" if kind == torch.bfloat16 else "F16"
    form = Format("int4", 32, zeros="zeros" in name, scale=scale) if name.startswith("int4") else Format(name)
    weight = any_codes(form, 64, 128)
    if weight.row is not None:
        weight.parts["row"].fill_(1.0)
    got = matmul_triton.product(torch.eye(128, dtype=kind), weight)
    assert torch.equal(got, weight.dequantised(kind).T) == ptx_in_numpy


# who goes where


def test_what_has_no_triton_form_is_not_taken() -> None:
    taken = [quantise(normal(8, 192), form) for form in FORMATS]
    assert all(map(matmul_triton.takes, taken))
    narrow = quantise(normal(8, 24), Format("fp8"))
    odd = quantise(normal(8, 72), Format("int4", 24))
    blocks = QuantTensor(Format("q8_0"), (8, 64), {"codes": torch.zeros(8, 2, 34, dtype=torch.uint8)})
    assert not any(map(matmul_triton.takes, (narrow, odd, blocks, [normal(8, 16)])))


@pytest.mark.parametrize(("inputs", "fast"), [(32, True), (24, False)])
def test_linear_sends_only_what_is_taken(inputs: int, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = quantise(normal(20, inputs), Format("fp8")), normal(2, 3, inputs, seed=1)
    want = matmul.linear(x, weight)
    monkeypatch.setenv("DGEMMA_KERNELS", "triton")
    calls, true = [], matmul_triton.product
    monkeypatch.setattr(matmul_triton, "product", lambda x, weight: calls.append(x.shape) or true(x, weight))
    assert_close(matmul.linear(x, weight), want, op="product in few bits")
    assert calls == ([(6, inputs)] if fast else [])


def test_which_cards_multiply_a_format_as_such() -> None:
    found = {
        card: [name for name in ("fp8", "nvfp4", "int4", "int8") if select.multiplies(name, card)]
        for card in CARDS
    }
    assert found == CARDS


@pytest.mark.parametrize(("each", "decoded", "generation", "rows"), [
    (4, True, 9, 16), (16, True, 9, 32), (16, False, 9, 16), (16, True, 12, 16), (30, True, 12, 32), (60, True, 10, 64),
])  # fmt: skip
def test_blocks_hold_more_rows_where_decoding_is_dear(
    each: int, decoded: bool, generation: int, rows: int
) -> None:
    assert operands_triton.rows_of(each, 2, decoded, generation) == rows
    assert operands_triton.rows_of(each, 4, decoded, generation) == 16  # float32
