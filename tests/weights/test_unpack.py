"""Packing of the published layouts: hand-made words with hand-computed numbers, compressed-tensors' own output, any shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgemma.config.formats import Format
from dgemma.kernels.quant.formats import QuantTensor, quantise
from dgemma.weights.quantization import parse
from dgemma.weights.schemes import Scheme
from dgemma.weights.unpack import unpack

from .layouts import FORMATS, description, fields

Tensors = dict[str, Tensor]


def read(scheme: Scheme, shape: tuple[int, int], stored: Tensors) -> QuantTensor:
    """Fields as the reader takes them, checked like a file's header first."""
    for leaf, want in scheme.fields(shape).items():
        assert leaf in stored or not want.needed, leaf
        assert leaf not in stored or tuple(stored[leaf].shape) in want.shapes, leaf
    assert stored.keys() <= scheme.fields(shape).keys()
    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    format = scheme.stored(names.get(stored[scheme.scales].dtype, ""))
    return QuantTensor(
        format, shape, {name: part.contiguous() for name, part in unpack(scheme, shape, stored).items()}
    )


def scheme_of(layout: str) -> Scheme:
    return parse(description(layout)).groups[0].scheme


def same(one: QuantTensor, other: QuantTensor) -> bool:
    return one.parts.keys() == other.parts.keys() and all(
        part.dtype == other.parts[name].dtype
        and torch.equal(part.view(torch.uint8), other.parts[name].view(torch.uint8))
        for name, part in one.parts.items()
    )


# ---- by hand: words written as hexadecimal digits, which are their codes from the last to the first


def int32(*words: int) -> Tensor:
    return torch.tensor([word - 2**32 if word >= 2**31 else word for word in words], dtype=torch.int32)


def test_modelopt_by_hand() -> None:
    """0x2B: low half first, so 0xB = -1.5, then 0x2 = 1; e4m3 0x40 is 2; 0.25 of the whole."""
    codes = torch.tensor([[0x2B] + [0x00] * 6 + [0x7E]], dtype=torch.uint8)
    stored = {
        "weight": codes, "weight_scale": torch.tensor([[0x40]], dtype=torch.uint8).view(torch.float8_e4m3fn),
        "weight_scale_2": torch.tensor(0.25), "input_scale": torch.tensor(9.0),
    }  # fmt: skip
    weight = read(scheme_of("modelopt"), (1, 16), stored).dequantised()
    assert weight.tolist() == [[-0.75, 0.5] + [0.0] * 12 + [-2.0, 3.0]]
    inverted = {
        "weight_packed": codes,
        "weight_scale": stored["weight_scale"],
        "weight_global_scale": torch.tensor([4.0]),
    }
    assert torch.equal(read(scheme_of("nvfp4"), (1, 16), inverted).dequantised(), weight)
    swapped = stored | {"weight": (codes >> 4) | (codes << 4)}  # twins
    assert not torch.equal(read(scheme_of("modelopt"), (1, 16), swapped).dequantised(), weight)
    not_inverted = inverted | {"weight_global_scale": torch.tensor([0.25])}
    assert not torch.equal(read(scheme_of("nvfp4"), (1, 16), not_inverted).dequantised(), weight)


def test_pack_quantized_by_hand() -> None:
    """Rows of eight; the zero points of eight rows stand in one word, row 0 in its lowest bits."""
    stored = {
        "weight_packed": int32(0x76543210, 0xFEDCBA98, 0x00000000)[:, None], "weight_shape": torch.tensor([3, 8]),
        "weight_scale": torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.bfloat16),
        "weight_zero_point": int32(0x00000A21)[:, None],
    }  # fmt: skip
    scheme = Scheme("pack-quantized", Format("int4", 8, zeros=True))
    weight = read(scheme, (3, 8), stored).dequantised()
    assert weight[0].tolist() == [(code - 1) * 0.5 for code in range(8)]
    assert weight[1].tolist() == [code - 2.0 for code in range(8, 16)]
    assert weight[2].tolist() == [-20.0] * 8
    symmetric = {name: stored[name] for name in ("weight_packed", "weight_scale")}
    assert read(Scheme("pack-quantized", Format("int4", 8)), (3, 8), symmetric).dequantised()[0].tolist() == [
        (code - 8) * 0.5 for code in range(8)
    ]


HALF = torch.tensor([[0.5, 1.0, 2.0, 4.0, 0.5, 1.0, 2.0, 4.0]], dtype=torch.float16)


def test_gptq_by_hand() -> None:
    """Eight inputs of a column in a word; zero points less one: 0x6 means 7, 0xF means 0."""
    stored = {
        "qweight": int32(0x76543210, 0xFEDCBA98, 0, 0, 0, 0, 0, 0x80000000)[None], "qzeros": int32(0x7FFFFF86)[None],
        "scales": HALF, "g_idx": torch.zeros(8, dtype=torch.int32),
    }  # fmt: skip
    scheme = Scheme("gptq", Format("int4", 8, zeros=True, scale="F16"))
    weight = read(scheme, (8, 8), stored).dequantised()
    assert weight[0].tolist() == [(code - 7) * 0.5 for code in range(8)]
    assert weight[1].tolist() == [code - 9.0 for code in range(8, 16)]
    assert weight[2].tolist() == [0.0] * 8 and weight[7].tolist() == [-32.0] * 7 + [0.0]
    second = Scheme("gptq_v2", scheme.format)
    assert (
        read(second, (8, 8), stored | {"qzeros": int32(0x80000097)[None]}).dequantised().tolist()
        == weight.tolist()
    )
    assert (
        read(second, (8, 8), stored).dequantised().tolist() != weight.tolist()
    )  # the twin: the other version


def test_awq_by_hand() -> None:
    """The digits of a word from the last are columns 0, 2, 4, 6, 1, 3, 5, 7."""
    scheme = Scheme("awq", Format("int4", 8, zeros=True, scale="F16"))
    stored = {
        "qweight": int32(0x75316420, *[0] * 7)[:, None],
        "qzeros": int32(0x80706010)[:, None],
        "scales": HALF,
    }
    weight = read(scheme, (8, 8), stored).dequantised()
    zeros = [0, 0, 1, 7, 0, 0, 6, 8]  # digits 0, 1, 0, 6, 0, 7, 0, 8 dealt out
    assert weight[:, 0].tolist() == [(column - zeros[column]) * HALF[0, column].item() for column in range(8)]
    assert weight[:, 1].tolist() == [-zeros[column] * HALF[0, column].item() for column in range(8)]
    in_order = stored | {"qweight": int32(0x76543210, *[0] * 7)[:, None]}  # the twin
    assert read(scheme, (8, 8), in_order).dequantised().tolist() != weight.tolist()


# ---- any shape


@st.composite
def matrices(draw: Any) -> tuple[str, QuantTensor]:
    """A layout and a matrix in its format, with groups of extreme and zero scales."""
    layout = draw(st.sampled_from(sorted(FORMATS)))
    format = FORMATS[layout]
    group = 16 if format.name == "nvfp4" else draw(st.sampled_from([8, 16, 32, 128]))
    rows, inputs = 8 * draw(st.integers(1, 5)), group * draw(st.integers(1, 4))
    if format.name == "int4":
        format = Format("int4", group, format.zeros, draw(st.sampled_from(["BF16", "F16", "F32"])))
    weight = torch.randn((rows, inputs), generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))
    weight *= draw(st.sampled_from([0.0, 1e-30, 1e-4, 1.0, 1e3]))
    weight[draw(st.integers(0, rows - 1))] = 0
    made = quantise(weight, format)
    if layout in (
        "fp8-tensor",
        "nvfp4",
        "modelopt",
    ):  # one scale of the whole; its inverse, which one of them keeps, is exact
        made.parts["row"].fill_(2.0 ** draw(st.integers(-126, 126)))
    if layout == "fp8-tensor":
        return layout, made
    scales = made.parts["row" if format.name in ("fp8", "int8") else "scales"]
    place = (
        divmod(draw(st.integers(0, scales.numel() - 1)), scales.shape[-1])
        if scales.dim() == 2
        else draw(st.integers(0, rows - 1))
    )
    least = 2.0**-9 if scales.dtype == torch.float8_e4m3fn else 1e-7
    scales[place] = draw(st.sampled_from([0.0, least, torch.finfo(scales.dtype).max]))
    return layout, made


def scheme_for(layout: str, format: Format) -> Scheme:
    whole = scheme_of(layout)
    return Scheme(whole.layout, Format(format.name, format.group, format.zeros), whole.rounded, whole.whole)


@given(matrices())
def test_any_matrix_is_read_as_it_was(case: tuple[str, QuantTensor]) -> None:
    layout, made = case
    found = read(scheme_for(layout, made.format), made.shape, fields(layout, made))
    assert found.format == made.format and same(found, made)


@pytest.mark.parametrize("layout", ["nvfp4", "modelopt", "int4", "int4-zeros", "gptq", "gptq_v2", "awq"])
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), groups=st.integers(1, 3))
def test_twins_of_every_layout_fail(layout: str, seed: int, rows: int, groups: int) -> None:
    format = FORMATS[layout]
    shape = (8 * rows, format.group * groups)
    made = quantise(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), format)
    stored, scheme = fields(layout, made), scheme_of(layout)
    if layout == "nvfp4":  # an inverse of an inverse is off by a bit at times
        made.parts["row"].copy_(1 / (1 / made.parts["row"]))
    assert same(read(scheme, shape, stored), made)
    codes = next(name for name in ("weight_packed", "qweight", "weight") if name in stored)
    bytes_of = stored[codes].contiguous().view(torch.uint8)
    swapped = stored | {codes: ((bytes_of >> 4) | (bytes_of << 4)).view(stored[codes].dtype)}
    assert not same(read(scheme, shape, swapped), made)
    scales = stored[scheme.scales]
    turned = stored | {scheme.scales: scales.T.contiguous().view(scales.shape)}
    if min(scales.shape) > 1:
        assert not same(read(scheme, shape, turned), made)
    if layout in ("gptq", "gptq_v2"):
        other = Scheme({"gptq": "gptq_v2", "gptq_v2": "gptq"}[layout], scheme.format)
        assert not same(read(other, shape, stored), made)
    if layout == "awq":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dgemma.weights.unpack.AWQ_ORDER", tuple(range(8)))
            assert not same(read(scheme, shape, stored), made)


@given(st.integers(1, 6), st.sampled_from([(16, 32), (32, 16), (16, 8)]))
def test_a_wrong_group_does_not_fit(groups: int, sizes: tuple[int, int]) -> None:
    right, wrong = (Scheme("pack-quantized", Format("int4", group)) for group in sizes)
    inputs = 32 * groups
    assert (
        right.fields((8, inputs))["weight_scale"].shapes != wrong.fields((8, inputs))["weight_scale"].shapes
    )


# ---- what compressed-tensors writes


@pytest.fixture(scope="module")
def library() -> Any:
    """compressed-tensors, which takes 15 s to import, with its compiled forms off: they need a C++ compiler."""
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    import compressed_tensors.compressors
    import compressed_tensors.quantization

    with torch.compiler.set_stance("force_eager"):
        yield compressed_tensors


def compressed(library: Any, layout: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    """(fields, what the library makes of them) of a weight and the scales that the library would choose."""
    quantization = library.quantization
    group = description(layout)["config_groups"]["group_0"]
    scheme = quantization.QuantizationScheme(**group)
    args = scheme.weights
    state: Tensors = {"weight": weight}
    if layout == "nvfp4":
        whole = quantization.utils.generate_gparam(*(end.reshape(1) for end in torch.aminmax(weight)))
        low, high = torch.aminmax(weight.unflatten(-1, (-1, 16)), dim=-1)
        scale, zero = quantization.utils.calculate_qparams(low, high, args, global_scale=whole)
        state |= {"weight_global_scale": whole}
    else:
        spread = weight.unflatten(-1, (-1, args.group_size or weight.shape[1]))
        low, high = torch.aminmax(spread, dim=-1)
        if layout == "fp8-tensor":
            low, high = low.amin().reshape(1), high.amax().reshape(1)
        scale, zero = quantization.utils.calculate_qparams(low, high, args)
    state |= {"weight_scale": scale, "weight_zero_point": zero}
    compressor = library.compressors.BaseCompressor.get_value_from_registry(description(layout)["format"])
    fields = compressor.compress(state, scheme)
    return fields, compressor.decompress(fields, scheme)["weight"]


@pytest.mark.parametrize("layout", ["fp8", "fp8-tensor", "int8", "nvfp4", "int4", "int4-zeros"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_compressed_tensors_writes_is_read_as_it_reads_it(
    library: Any, layout: str, dtype: torch.dtype
) -> None:
    weight = torch.randn((24, 96), generator=torch.Generator().manual_seed(3)).to(dtype)
    stored, opened = compressed(library, layout, weight)
    assert torch.equal(read(scheme_of(layout), (24, 96), stored).dequantised(opened.dtype), opened)
    for name in {"weight_packed", "weight_scale"} & stored.keys():  # twins
        if stored[name].numel() > 1:
            other = stored | {name: stored[name].flip(0)}
            assert not torch.equal(read(scheme_of(layout), (24, 96), other).dequantised(opened.dtype), opened)
