"""Filling a gap: what is pinned, what is free, what comes back."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dgemma
from dgemma.config import DenoiseConfig, TokenRules
from dgemma.engine.engine import by_turns
from dgemma.errors import UsageError
from dgemma.kernels.ops.vocab import soft_capped_logits
from dgemma.tasks import pinned
from dgemma.tasks.events import Draft, Filling
from dgemma.tasks.generate import EMPTY_ONCE, EMPTY_TWICE
from dgemma.tasks.infill import default_widths, prepare
from dgemma.tasks.pinned import _front, _requests, _rows, _take, _texts, hold_back, judge, lay_out
from tests.helpers import byte_tokenizer, tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    return dgemma.load(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def gap(model: dgemma.Model, prefix: str, suffix: str, **settings):
    config = DenoiseConfig(max_denoising_steps=6, eos_token_id=None)
    return prepare(model.net, model.tokenizer, prefix, suffix, config=config, **settings)


def test_the_canvas_is_prefix_gap_suffix(model: dgemma.Model) -> None:
    found = gap(model, "abcdefgh", "uvwxyz" * 4, widths=[3, 6])
    for request, width in zip(found.first(), found.holes[0].widths, strict=True):
        free = [i for i, pin in enumerate(request.pins) if pin < 0]
        assert free == list(range(1, 1 + width))  # an eighth of a canvas of 12 is one token of prefix
        text = model.tokenizer.decode([*request.prompt_ids, *(pin for pin in request.pins if pin >= 0)])
        assert text == "abcdefgh" + ("uvwxyz" * 4)[: 11 - width]


def test_a_suffix_that_ends_in_the_canvas_is_followed_by_the_end_of_text(model: dgemma.Model) -> None:
    special = model.tokenizer.special
    pins = gap(model, "abc", "z", widths=[4]).first()[0].pins
    assert pins[1:5] == (-1,) * 4
    assert pins[5:] == (model.tokenizer.encode("z")[0], special.eos, *[special.pad] * 5)


def test_long_texts_are_cut_around_the_gap(model: dgemma.Model) -> None:
    request = gap(model, "a" * 100_000, "b" * 100_000, context=20).first()[0]
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
    assert hold_back(prefix) == (kept, held)


@given(st.text(alphabet="ab \t\n", max_size=12))
def test_nothing_is_lost_at_the_seam(prefix: str) -> None:
    assert "".join(hold_back(prefix)) == prefix


WORDS = byte_tokenizer([("r", "e"), ("re", "t"), ("u", "r"), ("ret", "ur"), ("é"[0], "a")])


@pytest.mark.parametrize(
    ("text", "begun", "may"),
    [
        ("x ret", "ret", ["ret", "retur"]), ("x re", "re", ["re", "ret", "retur"]), ("xu", "u", ["u", "ur"]), ("x retur", "", []), ("x(", "", []),
        ("ret ", " ", []), ("", "", []), ("é", "", []),
    ],
)  # fmt: skip
def test_a_word_that_was_begun_may_be_any_word_that_begins_so(text: str, begun: str, may: list[str]) -> None:
    found = lay_out(
        WORDS,
        [text, "z"],
        [[3]],
        head=[2],
        context=20,
        end=1,
        canvas=12,
        config=DenoiseConfig(eos_token_id=None),
        seed=0,
    )
    hole = found.holes[0]
    assert (hole.held_back, sorted(map(WORDS.decode, ([token] for token in hole.only)))) == (begun, may)
    assert WORDS.decode(found.before[1:]) + begun == text
    row = _rows(found)[0]
    if may:
        (request,) = found.first()
        assert request.only == ((request.pins.index(-1), hole.only),)
        _take(found, row, WORDS.encode(f"{may[-1]}z")[:3], WORDS.control_ids)
        assert _texts(WORDS, found, row) == [f"{may[-1]}z".removeprefix(begun)]
        banned = TokenRules(banned_tokens=hole.only[1:])
        assert (
            not lay_out(
                WORDS,
                [text, "z"],
                [[3]],
                head=[2],
                context=20,
                end=1,
                canvas=12,
                config=found.config,
                seed=0,
                rules=banned,
            )
            .holes[0]
            .only
        )


def test_words_that_were_begun_before_several_spans() -> None:
    """Each hole's first cell is its own, and a hole of several canvases has it in the first one alone."""
    texts, config = ["x re", "-ret", "z" * 20], DenoiseConfig(eos_token_id=None)
    found = lay_out(WORDS, texts, [[3], [2]], head=[2], context=20, end=1, canvas=12, config=config, seed=0)
    (request,) = found.first()
    free = [cell for cell, pin in enumerate(request.pins) if pin < 0]
    assert [cell for cell, _ in request.only] == [free[0], free[3]] and [
        hole.held_back for hole in found.holes
    ] == ["re", "ret"]
    assert WORDS.decode(pin for pin in request.pins[free[2] + 1 : free[3]]) == "-"
    wide = lay_out(
        WORDS, ["x re", "z" * 20], [[30]], head=[2], context=20, end=1, canvas=12, config=config, seed=0
    )
    row = _rows(wide)[0]
    assert _requests(wide, [row])[0].only
    _take(wide, row, WORDS.encode("ret" + "a" * 20)[: row.front[0]], WORDS.control_ids)
    assert row.front and not _requests(wide, [row])[0].only


def read(model: dgemma.Model, free_text: str, held: str = "", filler: bool = False):
    """The row of a gap whose cells came to hold `free_text`, and its text."""
    found = gap(model, "a" + held, "z" * 30, widths=[len(free_text) + filler])
    cells = [*model.tokenizer.encode(free_text), *([model.tokenizer.special.pad] * filler)]
    row = _rows(found)[0]
    _take(found, row, [*cells, *found.after][:12], model.tokenizer.control_ids)
    return row, _texts(model.tokenizer, found, row)[0]


def test_filler_closes_a_gap(model: dgemma.Model) -> None:
    row, text = read(model, "hey", filler=True)
    assert (text, row.closed, row.lost) == ("hey", [True], 0)
    assert read(model, "hey")[0].closed == [False]


def test_text_behind_the_end_of_a_gap_is_left_out_and_counted(model: dgemma.Model) -> None:
    found = gap(model, "a", "z" * 30, widths=[5])
    row, special = _rows(found)[0], model.tokenizer.special
    _take(
        found,
        row,
        [*model.tokenizer.encode("ab"), special.eos, *model.tokenizer.encode("cd")],
        model.tokenizer.control_ids,
    )
    assert (_texts(model.tokenizer, found, row), row.closed, row.lost) == (["ab"], [True], 2)


def test_what_was_held_back_is_not_repeated(model: dgemma.Model) -> None:
    assert read(model, " b", held=" ")[1] == "b"
    assert read(model, "bc", held=" ")[1] == "bc"
    assert read(model, " b", held="  ")[1] == "b"


def test_candidates_are_judged_by_the_causal_pass_with_the_suffix_behind_them(model: dgemma.Model) -> None:
    found = gap(model, "abcdefgh", "uvwxyz" * 4, widths=[3, 6])
    texts = [model.tokenizer.encode("ij"), [], model.tokenizer.encode("longer")]
    scores = by_turns(model.engine, judge(model.engine, found, [[text] for text in texts]))
    after = model.tokenizer.encode("uvwxyz" * 4)[:16]
    for text, score in zip(texts, scores, strict=True):
        ids = torch.tensor(
            [[model.tokenizer.special.bos, *model.tokenizer.encode("abcdefgh"), *text, *after]]
        )
        hidden = model.net.encode(ids[:, :-1], [model.net.new_cache()])[0, 8:]
        logits = soft_capped_logits(hidden, model.net.embed.weight, model.config.final_logit_softcapping)
        want = -torch.nn.functional.cross_entropy(logits, ids[0, 9:]).item()
        assert score == pytest.approx(want, rel=1e-4)


def test_an_empty_gap_is_drawn_once_more_and_said(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = pinned._texts, []

    def first_two_empty(tokenizer, window, row):
        calls.append(row)
        return [""] if len(calls) <= 2 else honest(tokenizer, window, row)

    monkeypatch.setattr(pinned, "_texts", first_two_empty)
    filling = model.fill("abc", "xyz" * 5, widths=[2, 5], seed=4)
    assert filling.generation.seed == 5 and filling.generation.notes[:1] == [EMPTY_ONCE] and len(calls) == 4
    monkeypatch.setattr(pinned, "_texts", lambda *_: [""])
    assert model.fill("abc", "xyz" * 5, widths=[2, 5]).generation.notes[:1] == [EMPTY_TWICE]


@pytest.mark.parametrize("canvas", [1, 2, 7, 12, 64, 256])
def test_a_gap_wider_than_a_canvas_is_parted(canvas: int) -> None:
    for width in [*range(1, 4 * canvas), 1000]:
        front = _front(width, canvas)
        assert bool(front) == (width > canvas) and all(1 <= cells <= canvas - canvas // 8 for cells in front)
        assert not front or width - sum(front) == max(1, canvas // 2)


def test_a_long_gap_is_settled_by_successive_canvases(model: dgemma.Model) -> None:
    asked, submit = [], model.engine.submit
    try:
        model.engine.submit = lambda request: (asked.append(request), submit(request))[1]
        filling = model.fill("abcdefghijklmnop", "uvwxyz" * 4, widths=[4, 30], seed=3, max_denoising_steps=3)
    finally:
        del model.engine.submit
    long = [request for request in asked if request.pins.count(-1) != 4]
    free, tokens = [request.pins.count(-1) for request in long], model.tokenizer.encode("abcdefghijklmnop")
    assert len(asked) == 1 + len(long)
    for before, request in zip(
        [0, *free[:-1]], long, strict=True
    ):  # each reads what the canvases before wrote
        start = [*request.prompt_ids[1:], *request.pins[: request.pins.index(-1)]]
        assert start[: len(tokens)] == tokens and bool(before) == (len(start) > len(tokens))
    assert len(free) == 1 or free == [8, 8, 8, 6][: len(free)]  # it may close early
    assert filling.width in (4, 30) and len(filling.row_steps) == 2


def test_other_files_are_read_before_the_prefix(model: dgemma.Model) -> None:
    def prompt(**more) -> str:
        request = gap(model, "abcdefgh" * 3, "z", widths=[4], **more).first()[0]
        return model.tokenizer.decode(
            [*request.prompt_ids, *(pin for pin in request.pins[: request.pins.index(-1)])]
        )

    files = [("one.py", "x = 1\n"), ("two.py", "y = 2")]
    assert prompt(extra=files) == "# one.py\nx = 1\n\n# two.py\ny = 2\n\n" + "abcdefgh" * 3
    assert prompt(extra=files, context=30) == " two.py\ny = 2\n\n" + ("abcdefgh" * 3)[-15:]
    assert prompt(extra=files, context=0) == "" and prompt(extra=(), context=30) == "abcdefgh" * 3
    with pytest.raises(UsageError, match="extra holds"):
        prompt(extra=["one.py"])


def test_a_gap_is_filled_and_watched(model: dgemma.Model) -> None:
    events = list(model.stream_fill("abc", "xyz" * 5, widths=[2, 5], max_denoising_steps=4))
    drafts = [e for e in events if isinstance(e, Draft)]
    filling = events[-1]
    assert isinstance(filling, Filling) and filling.width in (2, 5)
    assert len(filling.candidates) == 2 and filling.text == filling.candidates[[2, 5].index(filling.width)]
    assert {d.row for d in drafts} == {0, 1} and all(any(d.pinned) for d in drafts)
    for d in drafts:
        held = [t for t, pinned in zip(d.token_ids, d.pinned, strict=True) if pinned]
        assert model.tokenizer.decode(held) == "c" + ("xyz" * 5)[: len(held) - 1]
    assert filling.text == model.fill("abc", "xyz" * 5, widths=[2, 5], max_denoising_steps=4).text


def test_gaps_that_do_not_fit_are_refused(model: dgemma.Model) -> None:
    with pytest.raises(UsageError, match="gap of 513 tokens leaves the model's positions; at most 498 fit"):
        model.fill("a", "b", widths=[513])
    for widths in ([], [2.5], [True], [0], "ab", 5):
        with pytest.raises(UsageError, match="widths"):
            model.fill("a", "b", widths=widths)
    with pytest.raises(UsageError, match="widths holds 17 gap widths; at most 16"):
        model.stream_fill("a", "b", widths=[1] * 17)
    assert len(gap(model, "a", "b", widths=[1] * 16).first()) == 16
    with pytest.raises(UsageError, match="context is -1"):
        model.stream_fill("a", "b", context=-1)
    with pytest.raises(UsageError, match="eos_token_id has no meaning for a gap"):
        model.fill("a", "b", eos_token_id=3)
    with pytest.raises(UsageError, match="nothing around the gap"):
        model.fill("", "")
    for width in (13, 10**7, 2**31, 2**63 - 1):  # asked for before a canvas of them is laid out
        tracemalloc.start()
        try:
            with pytest.raises(UsageError, match=f"canvas_width {width} exceeds"):
                model.stream_fill("a", "b", canvas_width=width)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
    assert (
        default_widths(64) == [8, 16, 32]
        and default_widths(64, 12) == [8, 12]
        and default_widths(64, 100) == [8, 16, 32, 100]
    )


def test_a_gap_ends_its_lines_as_the_text_around_it(model: dgemma.Model) -> None:
    prefix, suffix, extra = "a\nbc\n", "\nd\n", [("x.py", "y\nz")]
    often = {model.tokenizer.encode("\n")[0]: 7.0}
    want = model.fill(prefix, suffix, seed=1, widths=[3, 8], extra=extra, logit_bias=often)
    assert "\n" in want.text
    windows = [text.replace("\n", "\r\n") for text in (prefix, suffix, extra[0][1])]
    found = model.fill(
        windows[0], windows[1], seed=1, widths=[3, 8], extra=[("x.py", windows[2])], logit_bias=often
    )
    assert found.text == found.generation.text == want.text.replace("\n", "\r\n")
    assert found.candidates == [text.replace("\n", "\r\n") for text in want.candidates]
    assert found.generation.token_ids == want.generation.token_ids
    assert "\r" not in model.fill(windows[0], suffix * 9, seed=1, widths=[3, 8], logit_bias=often).text
