"""The counter hash: known bits that every other form of it must give, and what a random source must not show."""

from __future__ import annotations

import pytest
import torch

from dgemma.kernels.ops import random
from dgemma.kernels.ops.random import counter_hash, noise, uniforms
from tests.helpers import chi_square

# (seed, canvas, step, width, stream) -> the first hashes, from a plain-integer form written from the description.
KNOWN = {
    (0, 0, 0, 4, 0): [2599769737, 2895514651, 4196227114, 3392473967],
    (1, 0, 0, 4, 0): [3821040095, 2740931385, 2651736996, 1662395499],
    (0, 1, 2, 4, 1): [1717401495, 356524303, 1188832258, 133312156],
    (2**62 + 12345, 7, 47, 4, 2): [880740913, 984806565, 3474642522, 3311461745],
    (2**32, 0, 0, 4, 0): [3958063, 2124306699, 797602458, 1303856083],
}


def column(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def plain_hash(seed: int, canvas: int, step: int, position: int, stream: int) -> int:
    """The same hash with Python's integers: one lowbias32 round per counter word."""

    def mix(h: int) -> int:
        h ^= h >> 16
        h = h * 0x7FEB352D % 2**32
        h ^= h >> 15
        h = h * 0x846CA68B % 2**32
        return h ^ h >> 16

    h = mix(seed % 2**32 ^ 0x9E3779B9)
    for word in (seed >> 32, canvas, step, stream):
        h = mix((h + word * 0x85EBCA6B + 1) % 2**32)
    return mix((h + position * 0xC2B2AE35 + 1) % 2**32)


@pytest.mark.parametrize("counter", KNOWN)
def test_known_bits(counter: tuple[int, int, int, int, int]) -> None:
    seed, canvas, step, width, stream = counter
    got = counter_hash(column(seed), column(canvas), column(step), width, stream)[0].tolist()
    assert got == KNOWN[counter] == [plain_hash(seed, canvas, step, place, stream) for place in range(width)]


def test_known_noise_and_uniforms() -> None:
    seed, canvas, step = column(3), column(0), column(1)
    assert noise(seed, canvas, step, 6, 262144)[0].tolist() == [20129, 78207, 116484, 220220, 18059, 87636]
    for stream in (1, 2):
        bits = [plain_hash(3, 0, 1, place, stream) >> 9 for place in range(6)]
        assert uniforms(seed, canvas, step, 6)[0, :, stream - 1].tolist() == [
            (bit + 0.5) / 2**23 for bit in bits
        ]


def test_a_row_does_not_know_its_batch() -> None:
    seeds, canvases, steps = column(5, 2**40, 7), column(0, 3, 1), column(9, 0, 4)
    together = counter_hash(seeds, canvases, steps, 8, 1)
    for row in range(3):
        alone = counter_hash(seeds[row : row + 1], canvases[row : row + 1], steps[row : row + 1], 8, 1)
        assert torch.equal(alone[0], together[row])
    wide = counter_hash(seeds, canvases, steps, 20, 1)
    assert torch.equal(wide[:, :8], together), "a narrower canvas has the same bits"


@pytest.mark.parametrize(
    ("bits", "want"), [(0, 2.0**-24), (2**32 - 1, 1 - 2.0**-24), (2**31, 0.5 + 2.0**-24)]
)
def test_uniforms_never_reach_their_ends(bits: int, want: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "counter_hash", lambda *words: torch.tensor([[bits]]))
    assert uniforms(column(0), column(0), column(0), 1).tolist() == [[[want, want]]] and 0 < want < 1


def test_uniforms_fill_their_range() -> None:
    draws = uniforms(torch.arange(4096), column(0).expand(4096), column(0).expand(4096), 64)
    assert 0 < draws.min() < 1e-4 and 1 - 1e-4 < draws.max() < 1


AXES = ("seed", "high seed", "canvas", "step", "position")


def lane(axis: str, count: int, other: int = 0) -> torch.Tensor:
    """`count` hashes along one counter word, all others fixed."""
    index, fixed = torch.arange(count), torch.full((count,), other)
    if axis == "position":
        return counter_hash(column(other), column(other), column(other), count, 0)[0]
    words = {name: index if name == axis else fixed for name in ("seed", "canvas", "step")}
    seed = (index << 32) + other if axis == "high seed" else words["seed"]
    return counter_hash(seed, words["canvas"], words["step"], 1, 0)[:, 0]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("shift", [24, 0], ids=["high bits", "low bits"])
def test_hashes_are_uniform_along_every_word(axis: str, shift: int) -> None:
    count = 65536
    bins = torch.bincount(lane(axis, count) >> shift & 255, minlength=256)
    assert chi_square(bins, torch.full((256,), count / 256)) > 1e-4


@pytest.mark.parametrize("axis", AXES)
def test_neighbours_are_independent(axis: str) -> None:
    count = 65537
    values = lane(axis, count) >> 28
    pairs = torch.bincount(values[:-1] * 16 + values[1:], minlength=256)
    assert chi_square(pairs, torch.full((256,), (count - 1) / 256)) > 1e-4
    flips = (lane(axis, count)[:-1] ^ lane(axis, count)[1:]).reshape(-1, 1) >> torch.arange(32) & 1
    assert (flips.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / (count - 1) ** 0.5


def test_the_two_uniforms_of_a_position_are_independent() -> None:
    draws = (
        (uniforms(torch.arange(1024), column(0).expand(1024), column(3).expand(1024), 64) * 16)
        .long()
        .view(-1, 2)
    )
    pairs = torch.bincount(draws[:, 0] * 16 + draws[:, 1], minlength=256)
    assert chi_square(pairs, torch.full((256,), len(draws) / 256)) > 1e-4


def test_a_twin_that_counts_up_is_rejected() -> None:
    values = (
        torch.arange(65537) * 0x9E3779B9 % 2**32 >> 28
    )  # a Weyl sequence: uniform, and its neighbours are not
    assert chi_square(torch.bincount(values, minlength=16), torch.full((16,), len(values) / 16)) > 1e-4
    pairs = torch.bincount(values[:-1] * 16 + values[1:], minlength=256)
    assert chi_square(pairs, torch.full((256,), 256.0)) < 1e-9


@pytest.mark.parametrize("vocabulary", [3, 48, 1000])
def test_noise_is_uniform_over_the_vocabulary(vocabulary: int) -> None:
    seeds = torch.arange(2048)
    ids = noise(seeds, seeds * 0, seeds * 0 + 5, 64, vocabulary)
    assert ids.min() >= 0 and ids.max() == vocabulary - 1
    counts = torch.bincount(ids.flatten(), minlength=vocabulary)
    assert chi_square(counts, torch.full((vocabulary,), ids.numel() / vocabulary)) > 1e-4
