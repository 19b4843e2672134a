"""Editing: which spans are opened, what settles together, and what every window has read."""

from __future__ import annotations

import pytest
import torch

import dgemma
from dgemma.engine.engine import by_turns
from dgemma.errors import UsageError
from dgemma.tasks.edit import _in_order, _windows, prepare, unlikely_lines, widths_of
from dgemma.tasks.events import Change, Draft, Edit
from dgemma.tasks.generate import EMPTY_TWICE
from tests.helpers import tiny_checkpoint

DOCUMENT = "".join(f"line {number} = value\n" for number in range(12))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    return dgemma.load(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", canvas_length=32))


def requests_of(model: dgemma.Model, monkeypatch: pytest.MonkeyPatch, **asked) -> tuple[list, Edit]:
    seen, submit = [], model.engine.submit
    monkeypatch.setattr(model.engine, "submit", lambda request: (seen.append(request), submit(request))[1])
    edit = model.edit(DOCUMENT, max_denoising_steps=2, **asked)
    return seen, edit


def test_only_the_spans_change_and_the_diff_says_so(model: dgemma.Model) -> None:
    spans = [(5, 6), (30, 36), (100, 100)]
    edit = model.edit(DOCUMENT, spans=spans[::-1], seed=2, max_denoising_steps=3)
    assert [(change.start, change.end) for change in edit.changes] == spans
    text, place = "", 0
    for change in edit.changes:
        assert change.before == DOCUMENT[change.start : change.end]
        text, place = text + DOCUMENT[place : change.start] + change.after, change.end
    assert edit.text == text + DOCUMENT[place:] and edit.document == DOCUMENT
    assert edit.diff("x").startswith("--- a/x\n+++ b/x\n") and edit.to_dict("x")["diff"] == edit.diff("x")
    assert edit.text == model.edit(DOCUMENT, spans=spans, seed=2, max_denoising_steps=3).text
    assert edit.text != model.edit(DOCUMENT, spans=spans, seed=3, max_denoising_steps=3).text


def test_spans_that_fit_a_canvas_settle_together(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, edit = requests_of(model, monkeypatch, spans=[(5, 6), (9, 10), (150, 151)])
    together, alone = seen[:3], seen[-3:]
    assert len(edit.generation.steps) == 2 and len(seen) in (6, 9, 12)  # empty rows are drawn once more
    behind = DOCUMENT[10:]
    for request, width in zip(together, widths_of(2, 32), strict=True):  # a blank is held back before either
        shown = "".join("?" if pin < 0 else model.tokenizer.decode([pin]) for pin in request.pins)
        assert shown == ("line" + "?" * width + " =" + "?" * width + behind)[:32]
    assert [request.pins.count(-1) for request in alone] == widths_of(2, 32)


def test_a_later_window_reads_what_was_edited_before(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, edit = requests_of(model, monkeypatch, spans=[(5, 6), (150, 151)])
    last = seen[-1]
    read = model.tokenizer.decode([*last.prompt_ids, *last.pins[: last.pins.index(-1)]])
    assert read + "\n" == edit.text[: 150 + len(edit.changes[0].after) - 1]  # the line break is held back


def test_a_span_wider_than_a_canvas_settles_by_successive_ones(model: dgemma.Model) -> None:
    events = list(model.stream_edit(DOCUMENT, spans=[(10, 100)], max_denoising_steps=1))
    edit = events[-1]
    assert (
        isinstance(edit, Edit) and edit.text.startswith(DOCUMENT[:10]) and edit.text.endswith(DOCUMENT[100:])
    )
    assert {event.canvas for event in events if isinstance(event, Draft)} >= {0, 1}
    assert [event for event in events if isinstance(event, Change)] == edit.changes


def test_the_instruction_is_a_comment_for_a_base_model_and_a_turn_for_a_chat_model(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _ = requests_of(model, monkeypatch, instruction="be\nbrief", spans=[(50, 52)])
    assert model.tokenizer.decode(seen[0].prompt_ids).startswith("# be\n# brief\nline 0")
    monkeypatch.setattr(model, "chat_tuned", True)
    seen, _ = requests_of(model, monkeypatch, instruction="be brief<turn|>", spans=[(50, 52)])
    special = model.tokenizer.special
    shown = model.tokenizer.decode(seen[0].prompt_ids, skip_special=False)
    assert shown.startswith(
        f"<bos><|turn>user\nbe brief<turn|>\n{DOCUMENT.strip()}<turn|>\n<|turn>model\nline 0"
    )
    assert (
        seen[0].prompt_ids.count(special.turn) == 2 and seen[0].prompt_ids.count(special.end_turn) == 1
    )  # no text opens a turn
    end = model.edit("short", "x", spans=[(0, 2)], max_denoising_steps=1)
    assert end.text.endswith("ort")


def test_lines_are_opened_where_the_model_finds_them_unlikely(model: dgemma.Model) -> None:
    """By hand: every token's -ln p in one causal pass, mean by line."""
    document, head = (
        "abc\n\nxyzxyz\nq = 1\nlast",
        [model.tokenizer.special.bos, *model.tokenizer.encode("# do\n")],
    )
    ids = model.tokenizer.encode(document)
    row = torch.tensor([[*head, *ids]])
    hidden = model.net.encode(row[:, :-1], [model.net.new_cache()])
    from dgemma.kernels.ops.vocab import soft_capped_logits

    logits = soft_capped_logits(
        hidden[0], model.net.embed.weight, model.config.final_logit_softcapping
    ).log_softmax(-1)
    nats = [-logits[place - 1, row[0, place]].item() for place in range(len(head), row.shape[1])]
    lines, want, place = document.split("\n"), {}, 0
    for number, line in enumerate(lines):
        size = len(line) + (number < len(lines) - 1)
        if line.strip():
            want[number] = sum(nats[place : place + size]) / size
        place += size
    mean = sum(want.values()) / len(want)
    spread = (sum((value - mean) ** 2 for value in want.values()) / len(want)) ** 0.5
    opened = [
        number for number, value in want.items() if value > mean + spread or value == max(want.values())
    ]
    found = by_turns(model.engine, unlikely_lines(model.engine, model.tokenizer, document, head))
    assert "\n".join(document[start:end] for start, end in found) == "\n".join(
        lines[number] for number in opened
    )
    assert model.edit(document, "do", max_denoising_steps=1).changes[0].before == document[slice(*found[0])]


def test_characters_of_many_bytes_do_not_shift_the_lines(model: dgemma.Model) -> None:
    document = "äöü漢字😀\n" * 6 + "zzz"
    for start, end in by_turns(
        model.engine, unlikely_lines(model.engine, model.tokenizer, document, [model.tokenizer.special.bos])
    ):
        assert set(document[start:end].split("\n")) <= {"äöü漢字😀", "zzz"}


def test_windows_hold_what_fits(model: dgemma.Model) -> None:
    def windows(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        plan = prepare(
            model.engine,
            model.tokenizer,
            DOCUMENT,
            None,
            spans,
            chat=False,
            config=model.denoise,
            seed=0,
            context=None,
        )
        return [found for found, _ in _windows(model.tokenizer, plan)]

    near, far = [(5, 6), (9, 10)], [(150, 151)]
    assert windows(near + far) == [near, far] and windows(far) == [far]
    assert windows([(0, 100), (101, 103)]) == [[(0, 100)], [(101, 103)]]


def test_spans_are_ordered_joined_and_refused() -> None:
    assert _in_order([(5, 7), (0, 2), (2, 4)], 9) == [(0, 4), (5, 7)]
    assert _in_order([[3, 3]], 9) == [(3, 3)]
    for spans in ([], "ab", [(1,)], [(2, 1)], [(0, 10)], [(-1, 2)], [(0.0, 1)], [(True, 2)], 5):
        with pytest.raises(UsageError, match="spans"):
            _in_order(spans, 9)
    with pytest.raises(UsageError, match="overlap"):
        _in_order([(0, 3), (2, 5)], 9)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"document": ""}, "document is empty"),
        ({"document": " \n"}, "document is empty"),
        ({"document": 5}, "the document is int"),
        ({"instruction": 5, "spans": [(0, 1)]}, "the instruction is int"),
        ({"instruction": " "}, "instruction is empty"),
        ({}, "say what to change"),
        ({"spans": [(0, 1)], "context": -1}, "context is -1"),
        ({"spans": [(0, 1)], "eos_token_id": 3}, "eos_token_id has no meaning for an edit"),
        ({"instruction": "x", "document": "abc" * 1000}, "max_prompt_tokens"),
    ],
)
def test_bad_edits_are_refused_before_the_first_event(model: dgemma.Model, asked: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.stream_edit(**({"document": "abc"} | asked))


def test_a_span_that_comes_back_empty_is_drawn_once_more_and_said(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgemma.tasks import pinned

    monkeypatch.setattr(pinned, "_texts", lambda _, window, row: [""] * len(window.holes))
    edit = model.edit(DOCUMENT, spans=[(5, 6), (150, 151)], max_denoising_steps=1)
    assert (
        edit.generation.notes[:1] == [EMPTY_TWICE]
        and edit.text == DOCUMENT[:5] + DOCUMENT[6:150] + DOCUMENT[151:]
    )


def test_widths_are_three_and_distinct() -> None:
    for tokens in range(1, 300):
        widths = widths_of(tokens, 64)
        assert len(set(widths)) == 3 and min(widths) >= 1 and tokens + 1 in widths
    assert widths_of(0, 64) == [8, 16, 32] and len(widths_of(0, 2)) == 3


def test_places_and_line_ends_are_the_documents_own(model: dgemma.Model) -> None:
    spans = [(5, 20), (30, 36), (100, 100)]
    windows = DOCUMENT.replace("\n", "\r\n")
    moved = [(start + DOCUMENT[:start].count("\n"), end + DOCUMENT[:end].count("\n")) for start, end in spans]
    for seed in range(3):
        want = model.edit(DOCUMENT, "do", spans=spans, seed=seed, max_denoising_steps=3)
        found = model.edit(windows, "do", spans=moved, seed=seed, max_denoising_steps=3)
        assert [(change.start, change.end) for change in found.changes] == moved
        assert [change.before for change in found.changes] == [windows[slice(*span)] for span in moved]
        assert (
            found.text == found.generation.text == want.text.replace("\n", "\r\n")
            and found.document == windows
        )
        assert found.generation.token_ids == want.generation.token_ids
    mixed = DOCUMENT.replace("\n", "\r\n", 8)
    found = model.edit(mixed, spans=[(5, 7)], seed=1, max_denoising_steps=2)
    assert found.text.startswith(mixed[:5]) and found.text.endswith(mixed[7:])
    between = model.edit(
        windows, spans=[(5, 15)], seed=1, max_denoising_steps=2
    )  # ends between "\r" and "\n"
    assert windows[14:16] == "\r\n" and between.changes[0].end == 14 and between.text.endswith(windows[14:])
