"""The Triton attention against the torch one over spans of many sequences, in the interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from dgemma.kernels.ops.attention import attention  # noqa: E402
from dgemma.kernels.triton import attention as attention_triton  # noqa: E402
from dgemma.kernels.triton.attention import Layout, Spans  # noqa: E402
from dgemma.kernels.triton.attention import attention as fast  # noqa: E402
from tests.helpers import DEVICE, assert_close, is_close  # noqa: E402
from tests.kernels.twins import attention_of_rounded_scores  # noqa: E402

WIDTH = 16
KEYS = 8 if DEVICE == "cpu" else 16  # of a step: several steps even here; a card multiplies no fewer than 16
# (rows, tokens before, whether they are clean): prompts, canvases, a single row, a span that ends a block exactly
PASS = [(7, 0, True), (5, 20, False), (1, 9, True), (16, 33, True), (8, 2, False), (3, 0, False)]


def pass_of(window: int | None, groups: int, heads: int, dtype=torch.float32, slack: int = 3):
    """q, the buffers of every span, and their layouts; sliding buffers begin at a position of their own."""
    make = torch.Generator(DEVICE).manual_seed(heads + (window or 0))
    layouts, keys, values = [], [], []
    for number, (rows, before, clean) in enumerate(PASS):
        first = max(0, before - (window - 1)) if window else 0
        slot = max(0, first - number) if window else 0
        slots = before + rows - slot + slack
        layouts.append(Layout(rows, before, first, slot, slots, clean))
        keys.append(torch.randn(groups, slots, WIDTH, generator=make).to(dtype))
        values.append(torch.randn(groups, slots, WIDTH, generator=make).to(dtype))
    q = torch.randn(1, heads, sum(rows for rows, _, _ in PASS), WIDTH, generator=make).to(dtype)
    return q, keys, values, layouts


def slowly(q, keys, values, layouts, window: int | None, attend=attention) -> torch.Tensor:
    mixed, row = [], 0
    for k, v, span in zip(keys, values, layouts, strict=True):
        place = slice(span.first - span.slot, span.start + span.rows - span.slot)
        visible = None
        if span.clean:
            query = torch.arange(span.start, span.start + span.rows)[:, None]
            key = torch.arange(span.first, span.start + span.rows)
            visible = (key <= query) & ((key > query - window) if window else (key >= 0))
        mixed.append(attend(q[:, :, row : row + span.rows], k[None, :, place], v[None, :, place], visible))
        row += span.rows
    return torch.cat(mixed, dim=2)


def quickly(q, keys, values, layouts, window: int | None) -> torch.Tensor:
    at = [torch.tensor([buffer.data_ptr() for buffer in buffers]) for buffers in (keys, values)]
    groups = keys[0].shape[0]
    return fast(q, *at, Spans(layouts, WIDTH, q.shape[1] // groups, q.device), groups, window or 2**30)


@pytest.mark.parametrize("rows", [16, 64])  # of a block: spans end inside and at its ends
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (2, 2), (8, 1)])
@pytest.mark.parametrize("window", [None, 1, 6, 40])
def test_they_agree(
    window: int | None, heads: int, groups: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_triton, "shape_of", lambda width: attention_triton.Shape(rows, KEYS, 4, 1))
    given = pass_of(window, groups, heads)
    assert_close(quickly(*given, window), slowly(*given, window), "float32", op="attention")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("window", [None, 6])
def test_16_bits_agree_as_far_as_the_answer_is_rounded(window: int | None, dtype: str) -> None:
    """Scores of 30 and more, of which 16 bits would keep whole numbers and little else; the reference is exact."""
    q, keys, values, layouts = pass_of(window, 2, 4, getattr(torch, dtype))
    q = q * 8
    wide = q.double(), [k.double() for k in keys], [v.double() for v in values], layouts
    want = slowly(*wide, window)
    assert_close(quickly(q, keys, values, layouts, window), want, dtype, op="attention")
    twin = slowly(q, keys, values, layouts, window, attention_of_rounded_scores)
    assert not is_close(twin, want, dtype, op="attention")


def test_what_lies_behind_a_span_is_never_read() -> None:
    q, keys, values, layouts = pass_of(None, 2, 4)
    want = quickly(q, keys, values, layouts, None)
    for buffers in (keys, values):
        for buffer in buffers:
            buffer[:, -3:] = float("nan")
    assert torch.equal(quickly(q, keys, values, layouts, None), want)


def stored(by, window: int | None, groups: int, heads: int, dtype=torch.float32) -> list[torch.Tensor]:
    """All buffers of the pass, keys first, after `by` wrote K and V of every row."""
    _, keys, values, layouts = pass_of(window, groups, heads, dtype)
    make = torch.Generator(DEVICE).manual_seed(7)
    k, v = (
        torch.randn(1, groups, sum(rows for rows, _, _ in PASS), WIDTH, generator=make).to(dtype)
        for _ in range(2)
    )
    by(k, v, keys, values, layouts, heads // groups)
    return keys + values


def slices(k, v, keys, values, layouts, group: int) -> None:
    row = 0
    for buffer, other, span in zip(keys, values, layouts, strict=True):
        place = slice(span.start - span.slot, span.start - span.slot + span.rows)
        buffer[:, place], other[:, place] = k[0, :, row : row + span.rows], v[0, :, row : row + span.rows]
        row += span.rows


def launch(k, v, keys, values, layouts, group: int) -> None:
    at = [torch.tensor([buffer.data_ptr() for buffer in buffers]) for buffers in (keys, values)]
    attention_triton.store(k, v, *at, Spans(layouts, WIDTH, group, k.device), k.shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rows", [4, 16, 24, 64]
)  # of a block, all heads counted: one row each, not a power of two, all at once
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (8, 1)])
@pytest.mark.parametrize("window", [None, 6])
def test_store_writes_every_row_to_its_slot_and_nothing_else(
    window: int | None,
    heads: int,
    groups: int,
    rows: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_triton, "shape_of", lambda width: attention_triton.Shape(rows, KEYS, 4, 1))
    want, got = (stored(by, window, groups, heads, dtype) for by in (slices, launch))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert not any(
        torch.equal(a, b)
        for a, b in zip(got, stored(lambda *given: None, window, groups, heads, dtype), strict=True)
    )


@pytest.mark.parametrize("twin", ["k for v", "one slot on", "slots from zero", "spans in another order"])
def test_store_twins_are_rejected(twin: str) -> None:
    def wrong(k, v, keys, values, layouts, group):
        if twin == "k for v":
            v = k
        elif twin == "one slot on":
            layouts = [span._replace(start=span.start + 1) for span in layouts]
        elif twin == "slots from zero":
            layouts = [span._replace(start=0, slot=0) for span in layouts]
        else:
            keys, values, layouts = keys[::-1], values[::-1], layouts[::-1]
        launch(k, v, keys, values, layouts, group)

    want, got = (stored(by, 6, 2, 4) for by in (slices, wrong))
    assert not all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("twin", ["wrong window", "canvas made causal", "one key early"])
def test_twins_are_rejected(twin: str) -> None:
    q, keys, values, layouts = pass_of(6, 2, 4)
    want, window = slowly(q, keys, values, layouts, 6), 6
    if twin == "wrong window":
        window = 5
    elif twin == "canvas made causal":
        layouts = [span._replace(clean=True) for span in layouts]
    else:
        layouts = [span._replace(first=max(span.slot, span.first - 1)) for span in layouts]
    assert not is_close(quickly(q, keys, values, layouts, window), want, op="attention")
