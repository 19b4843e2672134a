"""Codes of a weight in few bits become numbers, inside a Triton kernel: 32-bit words, two codes of each
at a time.

A word's codes are taken out two at a time, one into each half of a register: of 8 codes 0 and 4, then 1 and
5, and so on, which takes a shift or two and a mask or two (neighbours would take more). Bits in the places of
a bfloat16's (float16's) are the number times a power of two. No FP8 type appears here, so that cards without
FP8 (sm_80, sm_86) run the same code.

Trap: the interpreter knows no inline assembly, so `_times` alone never runs in it; the tests work its few
lines of PTX out in numpy.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .norm import rounded


def _packed(kind: str, *steps: str) -> tl.constexpr:
    """PTX that works on two numbers of `kind` in a register at once, each step a multiplication and an
    addition, and gives both.

    Rounded once a step, as the reference rounds: a product is a step that adds -0, a sum one that multiplies
    with 1. `code` is the lowest four bits of each half of $2 as the mantissas of `base`: one instruction
    here, two if Triton writes it.
    """
    one, base, middle = (
        ("0x3F803F80", "0x43004300", "0xC308C308")
        if kind == "bf16"
        else ("0x3C003C00", "0x64006400", "0xE408E408")
    )
    text = (
        f".reg .b32 t, none, one, middle, code; mov.b32 none, 0x80008000; mov.b32 one, {one}; "
        f"mov.b32 middle, {middle};"
    )
    if "code" in steps[0]:
        text += f" lop3.b32 code, $2, 0x000F000F, {base}, 0xEA;"  # (a & b) | c
    return tl.constexpr(
        f"{{ {text} {' '.join(f'fma.rn.{kind}x2 t, {step};' for step in steps)} mov.b32 {{$0, $1}}, t; }}"
    )


TIMES_BF16, TIMES_F16 = (_packed(kind, "$2, $3, none") for kind in ("bf16", "f16"))
LESS_EIGHT_BF16, LESS_EIGHT_F16 = (
    _packed(kind, "code, one, middle", "t, $3, none") for kind in ("bf16", "f16")
)
LESS_ZERO_BF16, LESS_ZERO_F16 = (_packed(kind, "code, one, $4", "t, $3, none") for kind in ("bf16", "f16"))


@triton.jit
def _times(bits, scale, zero, NAME: tl.constexpr, ZEROS: tl.constexpr, HALF: tl.constexpr):
    """Two codes' bits, plus two zeros (int4), times two scales, all of them pairs in an int32 -> [..., 2] of
    HALF.
    """
    F16: tl.constexpr = HALF == tl.float16
    if NAME != "int4":
        times: tl.constexpr = TIMES_F16 if F16 else TIMES_BF16
        low, high = tl.inline_asm_elementwise(
            times, "=h,=h,r,r", [bits, scale], dtype=(tl.int16, tl.int16), is_pure=True, pack=1
        )
    elif ZEROS:
        less_zero: tl.constexpr = LESS_ZERO_F16 if F16 else LESS_ZERO_BF16
        low, high = tl.inline_asm_elementwise(
            less_zero, "=h,=h,r,r,r", [bits, scale, zero], dtype=(tl.int16, tl.int16), is_pure=True, pack=1
        )
    else:  # a constant as a tensor would lead Triton to carry the weight through shared memory
        less_eight: tl.constexpr = LESS_EIGHT_F16 if F16 else LESS_EIGHT_BF16
        low, high = tl.inline_asm_elementwise(
            less_eight, "=h,=h,r,r", [bits, scale], dtype=(tl.int16, tl.int16), is_pure=True, pack=1
        )
    return tl.join(low, high).to(HALF, bitcast=True)


@triton.jit
def _halves(bits, HALF: tl.constexpr):
    """The two 16-bit numbers in an int32 -> [..., 2] float32."""
    if HALF == tl.float16:
        low = (bits & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        high = (bits >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:  # by hand: the interpreter's conversion has subnormal numbers wrong
        low = (bits << 16).to(tl.float32, bitcast=True)
        high = (bits & -0x10000).to(tl.float32, bitcast=True)
    return tl.join(low, high)


@triton.jit
def _twice(number):
    """A number's 16 bits, in an int32, in both of its halves."""
    return (number & 0xFFFF) * 0x10001


@triton.jit
def e4m3(code):
    """float32 numbers of e4m3 codes, integers up to 255."""
    code = code.to(tl.int32)
    return (((code & 0x80) << 24) | ((code & 0x7F) << 20)).to(tl.float32, bitcast=True) * 2.0**120


@triton.jit
def words_of(bytes, COLS: tl.constexpr, WORDS: tl.constexpr):
    """uint8 [COLS, 4 WORDS] -> int32 [COLS, WORDS]."""
    even, odd = tl.split(tl.reshape(bytes.to(tl.int32), (COLS, WORDS, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first | (second << 8) | (third << 16) | (fourth << 24)


@triton.jit
def _per_word(groups, COLS: tl.constexpr, GROUPS: tl.constexpr, WORDS: tl.constexpr):
    """[COLS, GROUPS], one value for each group of inputs -> [COLS, WORDS], at each word of them."""
    return tl.reshape(tl.broadcast_to(groups[:, :, None], (COLS, GROUPS, WORDS // GROUPS)), (COLS, WORDS))


@triton.jit
def fourth_of(word, NUMBER: tl.constexpr, NAME: tl.constexpr, HALF: tl.constexpr):
    """Codes NUMBER and NUMBER + 4 of a word of eight: int4 in the lowest bits of each half, e2m1 in the
    places of a 16-bit number's.
    """
    if NAME == "int4":
        bits = word >> (4 * NUMBER)
    else:  # e2m1: times 2^-126 (2^-14)
        up: tl.constexpr = (9 if HALF == tl.float16 else 6) - 4 * NUMBER
        size = (word << up) if up >= 0 else (word >> -up)
        sign = word << (12 - 4 * NUMBER)
        bits = (sign & -0x7FFF8000) | (size & (0x0E000E00 if HALF == tl.float16 else 0x01C001C0))
    return bits


@triton.jit
def half_of(word, NUMBER: tl.constexpr, HALF: tl.constexpr):
    """Bytes NUMBER and NUMBER + 2 of a word, e4m3, in the places of a 16-bit number's bits: times 2^-120
    (2^-8).
    """
    top = word if NUMBER == 1 else word << 8
    return (top & -0x7FFF8000) | (
        ((top >> 1) & 0x3F803F80) if HALF == tl.float16 else ((top >> 4) & 0x07F007F0)
    )


@triton.jit
def numbers_of(
    bits,
    scale,
    zero,
    NAME: tl.constexpr,
    ZEROS: tl.constexpr,
    KIND: tl.constexpr,
    HALF: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Two codes' bits -> [..., 2] numbers of x's dtype (float32 in the interpreter). scale, zero: see
    _group.
    """
    if PACKED:
        numbers = _times(bits, scale, zero, NAME, ZEROS, HALF)
    else:
        if NAME == "int4":  # mantissas of 128 (1024)
            bits = (bits & 0x000F000F) | (0x64006400 if HALF == tl.float16 else 0x43004300)
        exact = _halves(bits, HALF)
        if NAME == "int4":
            exact = exact - (zero[:, :, None] if ZEROS else 1032.0 if HALF == tl.float16 else 136.0)
        exact = exact * (scale[:, :, None] if NAME != "fp8" else scale)
        numbers = rounded(exact, KIND, WIDEN) if WIDEN else exact.to(KIND)
    return numbers


@triton.jit
def group_of(
    scales,
    zeros,
    line,
    real,
    start,
    width: tl.constexpr,
    NAME: tl.constexpr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    PACKED: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    SPAN: tl.constexpr,
):
    """The scales of a tile, and its zeros on top of the mantissa's base, at each of its words; SPAN inputs
    have one in common.

    float32, or pairs of HALF where PACKED (the zeros negative). Without zeros the second is not to be used.
    """
    GROUPS: tl.constexpr = DEEP // SPAN
    number = (
        start // GROUP + tl.arange(0, GROUPS)
        if SPAN == GROUP
        else (start + SPAN * tl.arange(0, GROUPS)) // GROUP
    )
    inside = real[:, None] & (number < width // GROUP)[None, :]
    at = line[:, None] * (width // GROUP) + number[None, :]
    F16: tl.constexpr = HALF == tl.float16
    if NAME == "nvfp4":
        exact = e4m3(tl.load(scales + at, inside, 0) & 0x7F) * (2.0**6 if F16 else 2.0**118)
        if not PACKED:
            scale = exact
        elif F16:
            scale = _twice(exact.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32))
        # a bfloat16 is the upper half of a float32; to convert it takes a unit that is four times as slow
        else:
            scale = _twice(exact.to(tl.int32, bitcast=True) >> 16)
    else:
        scale = tl.load(scales + at, inside, 0.0)
        scale = _twice(scale.to(tl.int16, bitcast=True).to(tl.int32)) if PACKED else scale.to(tl.float32)
    scale = _per_word(scale, COLS, GROUPS, DEEP // 8)
    zero = scale
    if zeros is not None:
        zero = tl.load(zeros + at, inside, 0).to(tl.int32)
        zero = (
            _twice(zero | (0xE400 if F16 else 0xC300))
            if PACKED
            else (zero + (1024 if F16 else 128)).to(tl.float32)
        )
        zero = _per_word(zero, COLS, GROUPS, DEEP // 8)
    return scale, zero
