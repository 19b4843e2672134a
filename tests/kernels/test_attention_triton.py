"""The Triton attention against the torch one over spans of many sequences, in the interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from dgemma.kernels import attention_triton  # noqa: E402
from dgemma.kernels.attention import attention  # noqa: E402
from dgemma.kernels.attention_triton import Layout, Spans  # noqa: E402
from dgemma.kernels.attention_triton import attention as fast  # noqa: E402
from tests.helpers import assert_close, is_close  # noqa: E402

WIDTH = 16
# (rows, tokens before, whether they are clean): prompts, canvases, a single row, a span that ends a block exactly
PASS = [(7, 0, True), (5, 20, False), (1, 9, True), (16, 33, True), (8, 2, False), (3, 0, False)]


def pass_of(window: int | None, groups: int, heads: int, dtype=torch.float32, slack: int = 3):
    """q, the buffers of every span, and their layouts; sliding buffers begin at a position of their own."""
    make = torch.Generator().manual_seed(heads + (window or 0))
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


def slowly(q, keys, values, layouts, window: int | None) -> torch.Tensor:
    mixed, row = [], 0
    for k, v, span in zip(keys, values, layouts, strict=True):
        place = slice(span.first - span.slot, span.start + span.rows - span.slot)
        visible = None
        if span.clean:
            query = torch.arange(span.start, span.start + span.rows)[:, None]
            key = torch.arange(span.first, span.start + span.rows)
            visible = (key <= query) & ((key > query - window) if window else (key >= 0))
        mixed.append(attention(q[:, :, row : row + span.rows], k[None, :, place], v[None, :, place], visible))
        row += span.rows
    return torch.cat(mixed, dim=2)


def quickly(q, keys, values, layouts, window: int | None) -> torch.Tensor:
    at = [torch.tensor([buffer.data_ptr() for buffer in buffers]) for buffers in (keys, values)]
    groups = keys[0].shape[0]
    return fast(q, *at, Spans(layouts, WIDTH, q.shape[1] // groups, q.device), groups, window or 2**30)


@pytest.mark.parametrize("rows", [16, 64])  # of a block: spans end inside and at its ends
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (2, 2), (8, 1)])
@pytest.mark.parametrize("window", [None, 1, 6, 40])
def test_they_agree(window: int | None, heads: int, groups: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_triton, "shape_of", lambda width: attention_triton.Shape(rows, 8, 4, 1))
    given = pass_of(window, groups, heads)
    assert_close(quickly(*given, window), slowly(*given, window), "float32")


def test_bf16_agrees_as_far_as_it_is_rounded() -> None:
    given = pass_of(6, 2, 4, torch.bfloat16)
    assert_close(quickly(*given, 6), slowly(*given, 6), "bfloat16")


def test_what_lies_behind_a_span_is_never_read() -> None:
    q, keys, values, layouts = pass_of(None, 2, 4)
    want = quickly(q, keys, values, layouts, None)
    for buffers in (keys, values):
        for buffer in buffers:
            buffer[:, -3:] = float("nan")
    assert torch.equal(quickly(q, keys, values, layouts, None), want)


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
    assert not is_close(quickly(q, keys, values, layouts, window), want)
