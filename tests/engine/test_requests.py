"""Every parameter a request can get wrong is refused by name, before anything runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.config import DenoiseConfig
from dgemma.engine.requests import Request, next_seed
from dgemma.errors import UsageError
from tests.helpers import tiny_config

CONFIG = tiny_config()  # canvas 6, vocabulary 48, 512 positions
GOOD = {"prompt_ids": (1, 2, 3), "max_tokens": 8}


def test_good_requests_pass() -> None:
    Request(**GOOD).check(CONFIG)
    Request((1,) * 506, 6).check(CONFIG)
    Request(**GOOD, seed=2**63 - 1, canvas_ids=((0,) * 6, (47,) * 6), pins=(-1, 0, 47, -1, -1, -1)).check(
        CONFIG
    )
    Request(**GOOD, canvas_ids=((0,) * 4,), pins=(-1,) * 4).check(CONFIG)
    Request([1, 2], 1, config=DenoiseConfig(canvas_width=1), pins=[5]).check(CONFIG)
    Request((1,) * 9, 6).check(CONFIG, max_prompt_tokens=9)
    Request(**GOOD, resume_points=(0, 2)).check(CONFIG)
    Request(**GOOD, only=((5, (47,)), (0, (1, 2))), pins=(-1, 0, 47, -1, -1, -1)).check(CONFIG)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": -1}),
        ("max_tokens", {"max_tokens": 2.0}),
        ("max_tokens", {"max_tokens": True}),
        ("max_tokens", {"max_tokens": None}),
        ("max_tokens", {"max_tokens": 510}),
        ("max_tokens", {"max_tokens": 10**30}),
        ("only", {"only": ((6, (1,)),)}),
        ("only", {"only": ((0, (1,)), (0, (2,)))}),
        ("only", {"only": ((1, (1,)),), "pins": (-1, 0, 47, -1, -1, -1)}),
        ("only", {"only": ((1, (48,)),)}),
        ("only", {"only": ((1, ()),)}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**63}),
        ("seed", {"seed": 1.5}),
        ("seed", {"seed": True}),
        ("prompt", {"prompt_ids": ()}),
        ("prompt_ids", {"prompt_ids": (1, 48)}),
        ("prompt_ids", {"prompt_ids": (-1,)}),
        ("prompt_ids", {"prompt_ids": (1, "a")}),
        ("prompt_ids", {"prompt_ids": (True,)}),
        ("max_prompt_tokens", {"prompt_ids": (1,) * 507}),
        ("starting canvas", {"canvas_ids": ((0,) * 6, (0,) * 5)}),
        ("canvas_width", {"canvas_ids": ((0,) * 7,)}),
        ("canvas_ids", {"canvas_ids": ((),)}),
        ("canvas_ids", {"canvas_ids": ((0, 0, 0, 0, 0, 48),)}),
        ("more than max_tokens", {"canvas_ids": ((0,) * 6,) * 3}),
        ("pins", {"pins": (-1,) * 5}),
        ("pins", {"pins": (-1, -1, -1, -1, -1, 48)}),
        ("pins", {"pins": (-2, -1, -1, -1, -1, -1)}),
        ("canvas_width", {"config": DenoiseConfig(canvas_width=7)}),
        ("resume_points", {"resume_points": (3,)}),
        ("resume_points", {"resume_points": (-1,)}),
        ("resume_points", {"resume_points": (1, 1)}),
        ("resume_points", {"resume_points": (2, 1)}),
        ("resume_points", {"resume_points": (1.0,)}),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_by_name(name: str, change: dict) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        Request(**GOOD | change).check(CONFIG)
    assert "\n" not in str(caught.value)


def test_the_process_may_bound_prompts_further() -> None:
    with pytest.raises(UsageError, match="max_prompt_tokens is 9"):
        Request((1,) * 10, 6).check(CONFIG, max_prompt_tokens=9)
    with pytest.raises(UsageError, match="at most 12 fit"):
        Request((1,) * 500, 20).check(CONFIG)


LAST_SEED = 2**63 - 1


@given(st.integers(0, LAST_SEED), st.integers(0, 2**20))
def test_a_seed_behind_another_is_one_that_may_be_asked_for(seed: int, places: int) -> None:
    found = next_seed(seed, places)
    assert (found - seed - places) % 2**63 == 0
    Request((1,), 1, found).check(CONFIG)


def test_behind_the_last_seed_comes_the_first() -> None:
    Request((1,), 1, LAST_SEED).check(CONFIG)
    with pytest.raises(UsageError, match="seed is"):
        Request((1,), 1, LAST_SEED + 1).check(CONFIG)
    assert [next_seed(LAST_SEED - 1), next_seed(LAST_SEED), next_seed(LAST_SEED, 3)] == [LAST_SEED, 0, 2]
