"""Filling a gap: what is pinned, what is free, what comes back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dgemma
from dgemma.config import DenoiseConfig
from dgemma.engine.requests import Result
from dgemma.errors import UsageError
from dgemma.tasks.events import Draft, Filling
from dgemma.kernels.vocab import soft_capped_logits
from dgemma.tasks import infill
from dgemma.tasks.generate import EMPTY_ONCE, EMPTY_TWICE
from dgemma.tasks.infill import _candidate, _hold_back, default_widths, judge, prepare
from tests.helpers import tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    return dgemma.load(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def gap(model: dgemma.Model, prefix: str, suffix: str, **settings):
    config = DenoiseConfig(max_denoising_steps=6, eos_token_id=None)
    return prepare(model.net, model.tokenizer, prefix, suffix, config=config, **settings)


def test_the_canvas_is_prefix_gap_suffix(model: dgemma.Model) -> None:
    found = gap(model, "abcdefgh", "uvwxyz" * 4, widths=[3, 6])
    for request, width in zip(found.requests, found.widths, strict=True):
        free = [i for i, pin in enumerate(request.pins) if pin < 0]
        assert free == list(range(1, 1 + width))  # an eighth of a canvas of 12 is one token of prefix
        text = model.tokenizer.decode([*request.prompt_ids, *(pin for pin in request.pins if pin >= 0)])
        assert text == "abcdefgh" + ("uvwxyz" * 4)[: 11 - width]


def test_a_suffix_that_ends_in_the_canvas_is_followed_by_the_end_of_text(model: dgemma.Model) -> None:
    special = model.tokenizer.special
    pins = gap(model, "abc", "z", widths=[4]).requests[0].pins
    assert pins[1:5] == (-1,) * 4
    assert pins[5:] == (model.tokenizer.encode("z")[0], special.eos, *[special.pad] * 5)


def test_long_texts_are_cut_around_the_gap(model: dgemma.Model) -> None:
    request = gap(model, "a" * 100_000, "b" * 100_000, context=20).requests[0]
    assert len(request.prompt_ids) == 1 + 20 - 1


@pytest.mark.parametrize(
    ("prefix", "kept", "held"),
    [
        ("x = ", "x =", " "),
        ("def f():\n", "def f():", "\n"),
        ("def f():\n\n", "def f():", "\n\n"),
        ("def f():\n    ", "def f():\n    ", ""),
        ("x", "x", ""),
        ("", "", ""),
    ],
)
def test_the_seam_is_held_back(prefix: str, kept: str, held: str) -> None:
    assert _hold_back(prefix) == (kept, held)


@given(st.text(alphabet="ab \t\n", max_size=12))
def test_nothing_is_lost_at_the_seam(prefix: str) -> None:
    assert "".join(_hold_back(prefix)) == prefix


def candidate(model: dgemma.Model, free_text: str, held: str = "", filler: bool = False):
    found = gap(model, "a" + held, "z" * 30, widths=[len(free_text) + filler])
    request, canvas = found.requests[0], []
    tokens = iter([*model.tokenizer.encode(free_text), *([model.tokenizer.special.pad] * filler)])
    canvas = [pin if pin >= 0 else next(tokens) for pin in request.pins]
    return _candidate(model.tokenizer, found, 0, Result(canvases=[canvas]))


def test_filler_closes_a_gap(model: dgemma.Model) -> None:
    found = candidate(model, "hey", filler=True)
    assert (found.text, found.closed) == ("hey", True)
    assert not candidate(model, "hey").closed


def test_what_was_held_back_is_not_repeated(model: dgemma.Model) -> None:
    assert candidate(model, " b", held=" ").text == "b"
    assert candidate(model, "bc", held=" ").text == "bc"
    assert candidate(model, " b", held="  ").text == "b"


def test_candidates_are_judged_by_the_causal_pass_with_the_suffix_behind_them(model: dgemma.Model) -> None:
    found = gap(model, "abcdefgh", "uvwxyz" * 4, widths=[3, 6])
    texts = [model.tokenizer.encode("ij"), [], model.tokenizer.encode("longer")]
    scores = judge(model.engine, found, texts)
    after = model.tokenizer.encode("uvwxyz" * 4)[:16]
    for text, score in zip(texts, scores, strict=True):
        ids = torch.tensor([[model.tokenizer.special.bos, *model.tokenizer.encode("abcdefgh"), *text, *after]])
        hidden = model.net.encode(ids[:, :-1], [model.net.new_cache()])[0, 8:]
        logits = soft_capped_logits(hidden, model.net.embed.weight, model.config.final_logit_softcapping)
        want = -torch.nn.functional.cross_entropy(logits, ids[0, 9:]).item()
        assert score == pytest.approx(want, rel=1e-4)


def test_an_empty_gap_is_drawn_once_more_and_said(model: dgemma.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = infill._candidate
    calls: list[int] = []

    def first_two_empty(tokenizer, gap, row, result):
        calls.append(row)
        found = honest(tokenizer, gap, row, result)
        return dataclasses.replace(found, text="", token_ids=[]) if len(calls) <= 2 else found

    monkeypatch.setattr(infill, "_candidate", first_two_empty)
    filling = model.fill("abc", "xyz" * 5, widths=[2, 5], seed=4)
    assert filling.generation.seed == 5 and filling.generation.notes == [EMPTY_ONCE] and len(calls) == 4
    monkeypatch.setattr(infill, "_candidate", lambda *args: dataclasses.replace(honest(*args), text="", token_ids=[]))
    assert model.fill("abc", "xyz" * 5, widths=[2, 5]).generation.notes == [EMPTY_TWICE]


def test_a_gap_is_filled_and_watched(model: dgemma.Model) -> None:
    events = list(model.stream_fill("abc", "xyz" * 5, widths=[2, 5], max_denoising_steps=4))
    drafts = [e for e in events if isinstance(e, Draft)]
    filling = events[-1]
    assert isinstance(filling, Filling) and filling.width in (2, 5)
    assert {d.row for d in drafts} == {0, 1} and all(any(d.pinned) for d in drafts)
    for d in drafts:
        held = [t for t, pinned in zip(d.token_ids, d.pinned, strict=True) if pinned]
        assert model.tokenizer.decode(held) == "c" + ("xyz" * 5)[: len(held) - 1]
    assert filling.text == model.fill("abc", "xyz" * 5, widths=[2, 5], max_denoising_steps=4).text


def test_gaps_that_do_not_fit_are_refused(model: dgemma.Model) -> None:
    with pytest.raises(UsageError, match="gap of 13 tokens"):
        model.fill("a", "b", widths=[13])
    for widths in ([], [2.5], [True], "ab", 5):
        with pytest.raises(UsageError, match="widths|does not fit"):
            model.fill("a", "b", widths=widths)
    with pytest.raises(UsageError, match="context is -1"):
        model.stream_fill("a", "b", context=-1)
    with pytest.raises(UsageError, match="eos_token_id changes nothing"):
        model.fill("a", "b", eos_token_id=3)
    with pytest.raises(UsageError, match="nothing around the gap"):
        model.fill("", "")
    assert default_widths(64) == [8, 16, 32]
