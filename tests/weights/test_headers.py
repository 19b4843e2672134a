import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from dgemma.errors import CheckpointError
from dgemma.weights.headers import HEADER_LIMIT, TensorInfo, check_ranges, read_header

from .weights_helpers import raw_file, tiny_state, write_folder


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def test_agrees_with_the_library(tmp_path):
    path = write_folder(tmp_path) / "model.safetensors"
    tensors, problems = read_header(path)
    assert problems == []
    with safe_open(path, "pt") as file:
        assert {tensor.name for tensor in tensors} == set(file.keys()) == set(tiny_state())
        for tensor in tensors:
            part = file.get_slice(tensor.name)
            assert (list(tensor.shape), tensor.dtype) == (part.get_shape(), part.get_dtype())


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ("{", b"", "no JSON"),
        ("[1]", b"", "no JSON object"),
        ("{" + '"a":{' * 5000, b"", "no JSON"),
        ('{"a":' + "9" * 5000 + "}", b"", "no JSON"),
        (
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32"}}',
            b"0123",
            "'a' stands twice",
        ),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"", "'a': the header entry"),
        ({"a": entry(0, 4) | {"extra": 1}}, b"0123", "'a': the header entry"),
        ({"a": entry(0, 4, dtype="Q4")}, b"0123", "dtype 'Q4' is not known"),
        ({"a": entry(0, 4, shape=[-1])}, b"0123", "'a': the shape"),
        ({"a": entry(0, 4, shape=[True])}, b"0123", "'a': the shape"),
        ({"a": entry(0, 4, shape=[2])}, b"0123", "4 bytes do not hold [2] elements of F32"),
        ({"a\n\x1b[2J": entry(0, 4)}, b"0123", r"'a\n\x1b[2J' holds control characters"),
        ({"a": entry(8, 4, shape=[1])}, b"0123", "'a': -4 bytes"),
        ({"a": entry(0, 4) | {"data_offsets": [0, 4.0]}}, b"0123", "data_offsets"),
    ],
)
def test_a_header_that_makes_no_sense_is_one_error(tmp_path, header, data, message):
    with pytest.raises(CheckpointError) as caught:
        read_header(raw_file(tmp_path / "model.safetensors", header, data))
    assert message in str(caught.value)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(0, 4), "b": entry(4, 8)}, b"0123456", "truncated inside tensor 'b'"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"0" * 12, "'b' overlaps"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, b"0" * 12, "4 unclaimed bytes before tensor 'b'"),
        ({"a": entry(4, 8)}, b"0" * 8, "4 unclaimed bytes before tensor 'a'"),
        ({"a": entry(0, 4)}, b"0" * 9, "5 unclaimed bytes after"),
        # a short tensor inside a long one: what follows the long one is neither a gap nor an overlap
        ({"a": entry(0, 12), "b": entry(4, 8), "c": entry(12, 16)}, b"0" * 16, "'b' overlaps"),
        ({"a": entry(0, 12), "b": entry(4, 8)}, b"0" * 12, "'b' overlaps"),
    ],
)
def test_byte_ranges_are_checked_against_the_file(tmp_path, header, data, message):
    tensors, problems = read_header(raw_file(tmp_path / "m.safetensors", header, data))
    assert len(tensors) == len(header)
    assert len(problems) == 1 and message in problems[0]


@st.composite
def laid_out(draw) -> tuple[list[TensorInfo], int, int, int]:
    """(tensors by offset, where data begins, the file's size, the alignment), sound or not."""
    alignment = draw(st.sampled_from([1, 2, 4]))
    start = alignment * draw(st.integers(0, 3))
    spans = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=5))
    tensors = [
        TensorInfo(f"t{number}", Path("m"), "U8", (nbytes,), start + offset, nbytes)
        for number, (offset, nbytes) in enumerate(sorted(spans))
    ]
    return tensors, start, start + draw(st.integers(0, 30)), alignment


@given(laid_out())
def test_problems_are_those_that_a_count_of_each_byte_finds(case):
    tensors, start, size, alignment = case
    claimed: set[int] = set(range(start))
    want = []
    for tensor in tensors:
        end = len(claimed)  # behind everything claimed so far
        padding = -end % alignment
        if tensor.offset % alignment:
            want.append("does not begin")
        elif tensor.offset < end:
            want.append("overlaps")
        elif tensor.offset > end + padding:
            want.append(f"{tensor.offset - end - padding} unclaimed bytes before")
        claimed |= set(range(max(end, tensor.offset + tensor.nbytes)))
    end = len(claimed)
    short = [tensor.name for tensor in tensors if tensor.offset + tensor.nbytes > size]
    if short:
        want.append(f"truncated inside tensor '{short[0]}': {size} of {end} bytes")
    elif size > end + -end % alignment:
        want.append(f"{size - end} unclaimed bytes after")
    problems = check_ranges(Path("m"), tensors, start, size, alignment)
    assert len(problems) == len(want)
    assert all(text in problem for text, problem in zip(want, problems, strict=True)), (want, problems)


def test_twin_a_sound_file_has_no_problem(tmp_path):
    header = {"b": entry(4, 12), "a": entry(0, 4), "__metadata__": {"format": "pt"}}
    tensors, problems = read_header(raw_file(tmp_path / "m.safetensors", header, b"0" * 12))
    assert [tensor.name for tensor in tensors] == ["a", "b"] and problems == []


def test_the_length_field_is_not_believed(tmp_path):
    path = raw_file(tmp_path / "m.safetensors", {}, length=2**60)
    with pytest.raises(CheckpointError, match="truncated"):
        read_header(path)
    path.write_bytes((HEADER_LIMIT + 1).to_bytes(8, "little"))
    os.truncate(path, 4 * HEADER_LIMIT)
    with pytest.raises(CheckpointError, match="claims"):
        read_header(path)
    path.write_bytes(b"123")
    with pytest.raises(CheckpointError, match="truncated"):
        read_header(path)


def test_pipes_folders_and_missing_files_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "regular"), (".", "regular"), ("none", "not readable")):
        with pytest.raises(CheckpointError, match=message):
            read_header(tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_any_damage_to_a_header_is_read_or_refused_never_a_crash(tmp_path, data):
    text = json.dumps({"a": entry(0, 4), "b": entry(4, 8)}).encode()
    whole = bytearray(len(text).to_bytes(8, "little") + text + b"01234567")
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        tensors, problems = read_header(path)
    except CheckpointError:
        return
    for tensor in tensors if not problems else ():
        assert 0 <= tensor.offset and tensor.offset + tensor.nbytes <= path.stat().st_size
