"""Marks inside a prompt: read whole and in order, or left alone; a marked prompt is the gap that a suffix would have made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from dgemma.server.schema.sentinels import MARKS, marked_gap, without_marks


@given(st.text(alphabet="ab \n<|"), st.text(alphabet="ab \n<|"))
def test_what_is_marked_comes_back(prefix: str, suffix: str) -> None:
    for start, between, end in MARKS:
        assert marked_gap(f"{start}{prefix}{between}{suffix}{end}") == (prefix, suffix)
    assert marked_gap(f"[SUFFIX]{suffix}[PREFIX]{prefix}") == (prefix, suffix)


@pytest.mark.parametrize("text", ["", "a", "<|fim_prefix|>a<|fim_middle|>", "x<fim_prefix>a<fim_suffix>b<fim_middle>", "[SUFFIX]a", "[PREFIX]a[SUFFIX]"])
def test_other_texts_are_texts(text: str) -> None:
    assert marked_gap(text) is None


def test_stops_that_are_marks_go() -> None:
    assert without_marks(["<|endoftext|>", "<EOT>", "\n\n", "<｜fim▁hole｜>", "[PREFIX]"]) == ["\n\n"] and without_marks(None) == []


def test_a_marked_prompt_is_a_gap(client: Callable[..., TestClient]) -> None:
    asking, more = client(), {"max_tokens": 3, "seed": 1}
    want = asking.post("/v1/completions", json={"prompt": "abc", "suffix": "xyz"} | more).json()["choices"]
    marked = {"prompt": "<|fim_prefix|>abc<|fim_suffix|>xyz<|fim_middle|>", "stop": ["<|endoftext|>"]} | more
    assert asking.post("/v1/completions", json=marked).json()["choices"] == want
    told = {"prompt": f"of {marked['prompt']}"} | more
    assert asking.post("/v1/completions", json=told).json()["choices"] != want
