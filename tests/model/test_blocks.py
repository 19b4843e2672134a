"""Memory for what stays: zeros and copies like torch's own, in one mapping that goes when the last tensor goes."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgemma.model import blocks

CPU = torch.device("cpu")
SHAPES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 90), st.integers(1, 65)), min_size=1, max_size=6
)
DTYPES = st.sampled_from((torch.float32, torch.bfloat16, torch.float64, torch.uint8))
MAPS = Path("/proc/self/maps")


@given(SHAPES, DTYPES, st.sampled_from((1, 1 << 16)))
def test_blocks_are_zeros_that_do_not_overlap(shapes: list, dtype: torch.dtype, least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LEAST", least)
        tensors = blocks.zeros(shapes, dtype, CPU)
    assert [tuple(tensor.shape) for tensor in tensors] == shapes
    assert all(tensor.dtype == dtype and tensor.is_contiguous() and not tensor.any() for tensor in tensors)
    for number, tensor in enumerate(tensors):
        tensor.fill_(number + 1)
    assert all((tensor == number + 1).all() for number, tensor in enumerate(tensors))
    assert all(tensor.data_ptr() % blocks.ALIGNED == 0 for tensor in tensors if tensor.numel())


@given(SHAPES)
def test_copies_are_equal_and_their_own(shapes: list) -> None:
    originals = [torch.randn(shape) for shape in shapes]
    copies = blocks.copies([tensor.transpose(0, 1) for tensor in originals])
    for copy, tensor in zip(copies, originals, strict=True):
        assert torch.equal(copy, tensor.transpose(0, 1))
        copy += 1
        assert not torch.equal(copy, tensor.transpose(0, 1)) or not tensor.numel()
    assert blocks.copies([]) == []


@pytest.mark.skipif(not MAPS.exists(), reason="Linux, where a process tells its mappings")
def test_a_large_block_is_one_mapping_and_goes_with_its_last_tensor() -> None:
    def is_mapped(place: int) -> bool:
        spans = [line.split()[0].split("-") for line in MAPS.read_text().splitlines()]
        return any(int(start, 16) <= place < int(end, 16) for start, end in spans)

    first, second = blocks.zeros([(1, 1 << 22), (1, 1 << 22)], torch.float32, CPU)
    place = second.data_ptr() + (1 << 23)  # in the middle, where nobody else's mapping comes so soon
    assert second.data_ptr() - first.data_ptr() == 4 << 22
    del first
    gc.collect()
    assert is_mapped(place)
    del second
    gc.collect()
    assert not is_mapped(place)
