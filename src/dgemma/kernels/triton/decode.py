"""Sums over the inputs of a block of rows and a block of a weight's rows, for Triton kernels: the weight
decoded on its way in.

    _sums            x in 16 or 32 bits, weights plain or in few bits: codes become numbers of x's dtype in
                     registers
    _sums_of_fp8     both in e4m3 (rounding.py), multiplied as such; sm_89 and newer
    _sums_of_nvfp4   both in e2m1 with e4m3 scales, multiplied as such; sm_100 and sm_120
    products         one of them, and the scales of rows and tokens; operands.py says with what a kernel
                     calls it

Bytes of codes are read in runs along the inputs and put together to 32-bit words, which is nothing to do on
a card. A word's codes are taken out two at a time, one into each half of a register: of 8 codes 0 and 4,
then 1 and 5, and so on, which takes a shift or two and a mask or two (neighbours would take more), and the
columns of x are put in the same order (`_arranged`). Bits in the places of a bfloat16's (float16's) are the
number times a power of two. No FP8 type appears in `_sums`, so that cards without FP8 (sm_80, sm_86) run
the same code. With 32 rows a weight costs 3.7 (int4), 4.0 (fp8) or 4.6 (nvfp4) instructions of the inner
loop, all of its loads, products and addresses counted (read from sm_90's machine code, 128 x 64 of the
weight at a time).

Traps: what is summed for nvfp4 is the product times 2^-8, taken back with the row's scale: a group's scale
times the 2^126 that e2m1 needs would leave bfloat16. Groups' scales are read without their sign: they have
none. The interpreter knows no inline assembly and multiplies 16-bit numbers wrongly, so there (WIDEN) the
same bits go through float32; what it does not run is `_times` alone, whose few lines of PTX the tests work
out in numpy.
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
def _words(bytes, COLS: tl.constexpr, WORDS: tl.constexpr):
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
def _fourth(word, NUMBER: tl.constexpr, NAME: tl.constexpr, HALF: tl.constexpr):
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
def _half(word, NUMBER: tl.constexpr, HALF: tl.constexpr):
    """Bytes NUMBER and NUMBER + 2 of a word, e4m3, in the places of a 16-bit number's bits: times 2^-120
    (2^-8).
    """
    top = word if NUMBER == 1 else word << 8
    return (top & -0x7FFF8000) | (
        ((top >> 1) & 0x3F803F80) if HALF == tl.float16 else ((top >> 4) & 0x07F007F0)
    )


@triton.jit
def _numbers(
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
def _group(
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


@triton.jit
def _decoded(
    codes,
    scales,
    zeros,
    line,
    real,
    start,
    width: tl.constexpr,
    NAME: tl.constexpr,
    GROUP: tl.constexpr,
    KIND: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    SPAN: tl.constexpr,
    PACKED: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Rows `line` of a weight, inputs from `start` -> [COLS, DEEP] numbers in the order of `_arranged`."""
    HALF: tl.constexpr = tl.float16 if KIND == tl.float16 else tl.bfloat16
    PER: tl.constexpr = 8 if NAME == "nvfp4" or NAME == "int4" else 4 if NAME == "fp8" else 1
    WIDE: tl.constexpr = 2 if PER == 8 else 1  # inputs of a byte
    place = start // WIDE + tl.arange(0, DEEP // WIDE)
    inside = real[:, None] if width % DEEP == 0 else real[:, None] & (place < width // WIDE)[None, :]
    words = tl.load(codes + line[:, None] * (width // WIDE) + place[None, :], inside, 0)
    if PER > 1:
        words = _words(words, COLS, DEEP // PER)
    if PER == 1:
        numbers = words.to(tl.float32 if WIDEN else KIND)
    elif PER == 4:
        if PACKED:
            scale = tl.full(
                words.shape, 0x5C005C00 if HALF == tl.float16 else 0x7B807B80, tl.int32
            )  # 2^8, 2^120
        else:
            scale = 2.0**8 if HALF == tl.float16 else 2.0**120
        first = _numbers(_half(words, 0, HALF), scale, scale, NAME, False, KIND, HALF, PACKED, WIDEN)
        second = _numbers(_half(words, 1, HALF), scale, scale, NAME, False, KIND, HALF, PACKED, WIDEN)
        numbers = tl.reshape(tl.permute(tl.join(first, second), (0, 1, 3, 2)), (COLS, DEEP))
    else:
        scale, zero = _group(
            scales, zeros, line, real, start, width, NAME, GROUP, HALF, PACKED, COLS, DEEP, SPAN
        )
        bits = _fourth(words, 0, NAME, HALF)
        a = _numbers(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
        bits = _fourth(words, 1, NAME, HALF)
        b = _numbers(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
        bits = _fourth(words, 2, NAME, HALF)
        c = _numbers(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
        bits = _fourth(words, 3, NAME, HALF)
        d = _numbers(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
        four = tl.join(tl.join(a, c), tl.join(b, d))  # [COLS, words, half, which of a pair, which pair]
        numbers = tl.reshape(tl.permute(four, (0, 1, 3, 4, 2)), (COLS, DEEP))
    return numbers


@triton.jit
def _arranged(a, NAME: tl.constexpr, ROWS: tl.constexpr, DEEP: tl.constexpr):
    """The columns of x [ROWS, DEEP] in the order in which `_decoded` takes codes out of words."""
    if NAME == "nvfp4" or NAME == "int4":
        a = tl.reshape(tl.permute(tl.reshape(a, (ROWS, DEEP // 8, 2, 4)), (0, 1, 3, 2)), (ROWS, DEEP))
    elif NAME == "fp8":
        a = tl.reshape(tl.permute(tl.reshape(a, (ROWS, DEEP // 4, 2, 2)), (0, 1, 3, 2)), (ROWS, DEEP))
    return a


@triton.jit
def _sums(
    x,
    codes,
    scales,
    zeros,
    row,
    row_mask,
    line,
    real,
    width: tl.constexpr,
    NAME: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    SPAN: tl.constexpr,
    PACKED: tl.constexpr,
    TURN: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Rows `row` [ROWS] of x [., width] times rows `line` [COLS] of a weight [., width] -> [ROWS, COLS]
    float32; no row scales.

    own, real: which of them exist. NAME: "plain" or the format. TURN: the weight's rows are the rows of the
    product: then sm_90 and sm_100 multiply 64 of them and more with one instruction, the decoded weight from
    registers or tensor memory.
    """
    KIND: tl.constexpr = x.dtype.element_ty
    total = tl.zeros((COLS, ROWS) if TURN else (ROWS, COLS), dtype=tl.float32)
    for start in range(0, width, DEEP):
        deep = start + tl.arange(0, DEEP)
        inside = row_mask[:, None] if width % DEEP == 0 else row_mask[:, None] & (deep < width)[None, :]
        a = tl.load(x + row[:, None] * width + deep[None, :], inside, 0.0)
        a = _arranged(a.to(tl.float32) if WIDEN else a, NAME, ROWS, DEEP)
        w = _decoded(
            codes, scales, zeros, line, real, start, width, NAME, GROUP, KIND, COLS, DEEP, SPAN, PACKED, WIDEN
        )
        if WIDEN:
            w = w.to(tl.float32)
        if TURN:
            total = tl.dot(w, tl.trans(a), total, input_precision="ieee")
        else:
            total = tl.dot(a, tl.trans(w), total, input_precision="ieee")
    return tl.trans(total) if TURN else total


@triton.jit
def _sums_of_fp8(
    x,
    codes,
    row,
    row_mask,
    line,
    real,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The same of x [., width] and a weight both in e4m3 codes (uint8), multiplied as such; no scales.

    sm_90 adds up with 14 bits inside its instruction: every DEEP inputs the sums go to float32.
    """
    total = tl.zeros((COLS, ROWS), dtype=tl.float32)
    for start in range(0, width, DEEP):
        deep = start + tl.arange(0, DEEP)
        inside = deep < width
        a = tl.load(x + row[:, None] * width + deep[None, :], row_mask[:, None] & inside[None, :], 0)
        w = tl.load(codes + line[:, None] * width + deep[None, :], real[:, None] & inside[None, :], 0)
        if WIDEN:
            total = tl.dot(e4m3(w), tl.trans(e4m3(a)), total, input_precision="ieee")
        else:
            a = a.to(tl.float8e4nv, bitcast=True)
            w = w.to(tl.float8e4nv, bitcast=True)
            total = tl.dot(w, tl.trans(a), total, max_num_imprecise_acc=DEEP)
    return tl.trans(total)


@triton.jit
def _spelled(codes, scales, LINES: tl.constexpr, DEEP: tl.constexpr):
    """float32 [LINES, DEEP] of e2m1 codes uint8 [LINES, DEEP / 2] and their e4m3 scales: the product in the
    interpreter only.
    """
    code = tl.reshape(tl.join(codes & 15, codes >> 4), (LINES, DEEP)).to(tl.int32)
    number = (((code & 8) << 28) | ((code & 7) << 22)).to(tl.float32, bitcast=True) * 2.0**126
    return tl.reshape(tl.reshape(number, (LINES, DEEP // 16, 16)) * e4m3(scales)[:, :, None], (LINES, DEEP))


@triton.jit
def _sums_of_nvfp4(
    x,
    x_scales,
    codes,
    scales,
    row,
    row_mask,
    line,
    real,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The same of x and a weight both in e2m1 codes (uint8 [., width / 2]) with e4m3 scales (uint8 [., width
    / 16]).
    """
    total = tl.zeros((COLS, ROWS), dtype=tl.float32)
    for start in range(0, width, DEEP):
        deep = start // 2 + tl.arange(0, DEEP // 2)
        group = start // 16 + tl.arange(0, DEEP // 16)
        inside = (deep < width // 2)[None, :]
        known = (group < width // 16)[None, :]
        a = tl.load(x + row[:, None] * (width // 2) + deep[None, :], row_mask[:, None] & inside, 0)
        w = tl.load(codes + line[:, None] * (width // 2) + deep[None, :], real[:, None] & inside, 0)
        a_scale = tl.load(
            x_scales + row[:, None] * (width // 16) + group[None, :], row_mask[:, None] & known, 0
        )
        w_scale = tl.load(scales + line[:, None] * (width // 16) + group[None, :], real[:, None] & known, 0)
        if WIDEN:
            a = _spelled(a, a_scale, ROWS, DEEP)
            w = _spelled(w, w_scale, COLS, DEEP)
            total = tl.dot(w, tl.trans(a), total, input_precision="ieee")
        else:
            a_scale = a_scale.to(tl.float8e4nv, bitcast=True)
            w_scale = w_scale.to(tl.float8e4nv, bitcast=True)
            total = tl.dot_scaled(w, w_scale, "e2m1", tl.trans(a), a_scale, "e2m1", total)
    return tl.trans(total)


@triton.jit
def products(
    x,
    x_scales,
    token,
    codes,
    scales,
    zeros,
    row_scale,
    row,
    row_mask,
    line,
    real,
    width: tl.constexpr,
    NAME: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    PACKED: tl.constexpr,
    ROUNDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEEP: tl.constexpr,
    TURN: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Rows `row` [ROWS] of x [., width] times rows `line` [COLS] of a weight [., width] -> [ROWS, COLS]
    float32, all scales in.

    own, real: which of them exist. The rest is what operands.operands gives.
    """
    if ROUNDED and NAME == "fp8":
        total = _sums_of_fp8(x, codes, row, row_mask, line, real, width, ROWS, COLS, DEEP, WIDEN)
    elif ROUNDED:
        total = _sums_of_nvfp4(
            x, x_scales, codes, scales, row, row_mask, line, real, width, ROWS, COLS, DEEP, WIDEN
        )
    else:
        total = _sums(
            x,
            codes,
            scales,
            zeros,
            row,
            row_mask,
            line,
            real,
            width,
            NAME,
            GROUP,
            ROWS,
            COLS,
            DEEP,
            SPAN,
            PACKED,
            TURN,
            WIDEN,
        )
    if row_scale is not None:
        factor = tl.load(row_scale + line, real, 0.0)
        total = total * (factor * 256.0 if NAME == "nvfp4" and not ROUNDED else factor)[None, :]
    if ROUNDED:
        total = total * tl.load(token + row, row_mask, 0.0)[:, None]
    return total
