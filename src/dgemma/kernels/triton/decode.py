"""Sums over the inputs of a block of rows and a block of a weight's rows, for Triton kernels: the weight
decoded on its way in.

    _sums            x in 16 or 32 bits, weights plain or in few bits: codes become numbers of x's dtype in
                     registers
    _sums_of_fp8     both in e4m3 (rounding.py), multiplied as such; sm_89 and newer
    _sums_of_nvfp4   both in e2m1 with e4m3 scales, multiplied as such; sm_100 and sm_120
    products         one of them, and the scales of rows and tokens; operands.py says with what a kernel
                     calls it

Bytes of codes are read in runs along the inputs and put together to 32-bit words, which is nothing to do on
a card. Two codes of a word become numbers at a time (codes.py), and the columns of x are put in the same
order (`_arranged`). With 32 rows a weight costs 3.7 (int4), 4.0 (fp8) or 4.6 (nvfp4) instructions of the
inner loop, all of its loads, products and addresses counted (read from sm_90's machine code, 128 x 64 of the
weight at a time).

Traps: what is summed for nvfp4 is the product times 2^-8, taken back with the row's scale: a group's scale
times the 2^126 that e2m1 needs would leave bfloat16. Groups' scales are read without their sign: they have
none. The interpreter multiplies 16-bit numbers wrongly, so there (WIDEN) the same bits go
through float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .codes import e4m3, fourth_of, group_of, half_of, numbers_of, words_of


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
        words = words_of(words, COLS, DEEP // PER)
    if PER == 1:
        numbers = words.to(tl.float32 if WIDEN else KIND)
    elif PER == 4:
        if PACKED:
            scale = tl.full(
                words.shape, 0x5C005C00 if HALF == tl.float16 else 0x7B807B80, tl.int32
            )  # 2^8, 2^120
        else:
            scale = 2.0**8 if HALF == tl.float16 else 2.0**120
        first = numbers_of(half_of(words, 0, HALF), scale, scale, NAME, False, KIND, HALF, PACKED, WIDEN)
        second = numbers_of(half_of(words, 1, HALF), scale, scale, NAME, False, KIND, HALF, PACKED, WIDEN)
        numbers = tl.reshape(tl.permute(tl.join(first, second), (0, 1, 3, 2)), (COLS, DEEP))
    else:
        scale, zero = group_of(
            scales, zeros, line, real, start, width, NAME, GROUP, HALF, PACKED, COLS, DEEP, SPAN
        )
        bits = fourth_of(words, 0, NAME, HALF)
        a = numbers_of(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
        bits = fourth_of(words, 1, NAME, HALF)
        b = numbers_of(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
        bits = fourth_of(words, 2, NAME, HALF)
        c = numbers_of(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
        bits = fourth_of(words, 3, NAME, HALF)
        d = numbers_of(bits, scale, zero, NAME, zeros is not None, KIND, HALF, PACKED, WIDEN)
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
