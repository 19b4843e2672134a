"""No pinned byte ever changes: 520 random infills and edits, on a tiny random model and on the shipped one
(40 of them where `slow` tests are left out).

Looked at from three sides: the canvas of every draft and of every commit holds its pins, what is pinned are the document's own bytes, and
the result is the document outside its gaps.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import dgemma
from dgemma.cli.edit import splice
from dgemma.cli.files import as_in_file, seen
from dgemma.engine.requests import CommitRecord, Record, Request, StepRecord
from dgemma.text.lines import plain
from tests.helpers import tiny_checkpoint

CODE = "def area(r):\n    return 3.14 * r ** 2\n\n\nclass Größe:\n\tname = '漢字😀'\n    \n"
PIECES = st.sampled_from(
    [*CODE.split(" "), "\r\n", "\n", " ", "    ", "\t", "é", "é", "😀", "\x00", "<pad>", "<turn|>"]
)
DOCUMENTS = st.lists(PIECES, min_size=1, max_size=6).map(" ".join).filter(str.strip)


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    tiny = request.param == "tiny"
    return dgemma.load(
        tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", canvas_length=24) if tiny else None
    )


class Watched:
    """An engine of which every record is compared with its request's pins."""

    def __init__(self, model: dgemma.Model):
        self._engine, self.requests, self.pinned = model.engine, [], 0

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def run(self, requests: list[Request]) -> Iterator[Record]:
        self.requests += requests
        for record in self._engine.run(requests):
            canvas = record.argmax if isinstance(record, StepRecord) else record.canvas_ids
            assert isinstance(record, StepRecord | CommitRecord)
            for token, pin in zip(canvas, requests[record.request].pins, strict=True):
                assert pin < 0 or token == pin
                self.pinned += pin >= 0
            yield record


def watch(model: dgemma.Model, call) -> tuple[object, Watched]:
    watched, model.engine = Watched(model), model.engine
    model.engine, engine = watched, watched._engine
    try:
        return call(), watched
    finally:
        model.engine = engine


def given_text(model: dgemma.Model, request: Request) -> list[bytes]:
    """The bytes of every run of pinned cells, up to the end of the text."""
    runs, control = [[]], model.tokenizer.control_ids
    for pin in request.pins:
        if pin < 0:
            runs.append([])
        elif pin not in control:
            runs[-1].append(pin)
    return [b"".join(map(model.tokenizer.token_bytes, run)) for run in runs if run]


def an_infill_keeps_both_sides(model: dgemma.Model, document: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(document)))
    end = data.draw(st.integers(start, len(document) - (start == 0)))
    prefix, suffix = document[:start], document[end:]
    widths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=2))
    seed = data.draw(st.integers(0, 2**40))
    filled, watched = watch(
        model, lambda: model.fill(prefix, suffix, seed=seed, widths=widths, max_denoising_steps=2)
    )
    whole = prefix + filled.text + suffix
    assert whole.encode().startswith(prefix.encode()) and whole.encode().endswith(suffix.encode())
    for request in watched.requests:
        first, *more = (
            given_text(model, request) if request.pins[0] >= 0 and any(given_text(model, request)) else [b""]
        )
        # a model reads line feeds alone
        assert not more or (len(more) == 1 and plain(suffix).encode().startswith(more[0]))


def an_edit_keeps_what_is_outside_its_spans(model: dgemma.Model, document: str, data: st.DataObject) -> None:
    raw = (data.draw(st.sampled_from(["", "\ufeff"])) + document).encode()
    text = seen(raw)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=6, unique=True)))
    spans = [*zip(places[::2], places[1::2], strict=False)]
    seed = data.draw(st.integers(0, 2**40))
    edit, watched = watch(model, lambda: model.edit(text, spans=spans, seed=seed, max_denoising_steps=2))
    assert [(change.start, change.end) for change in edit.changes] == spans
    edges = [0, *(place for span in spans for place in span), len(text)]
    kept = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    want = kept[0] + "".join(change.after + rest for change, rest in zip(edit.changes, kept[1:], strict=True))
    assert edit.text == want
    made, place = splice(raw, edit.changes), 0
    for change in edit.changes:  # the file's own bytes, carriage returns and byte order mark included
        after = as_in_file(change.after, raw)
        place = made.index(after, place) + len(after)
    assert seen(made).replace("\r", "") == edit.text.replace("\r", "") or "\r" in text
    assert made.startswith(raw[: len(raw) - len(raw.lstrip(b"\xef\xbb\xbf"))])
    for (
        request
    ) in watched.requests:  # behind a hole stands the document; before it also what another canvas wrote
        assert all(run in text.encode() for run in given_text(model, request)[request.pins[0] >= 0 :])
    assert watched.pinned or len(document) < 4


PROPERTIES = [an_infill_keeps_both_sides, an_edit_keeps_what_is_outside_its_spans]


def hold(model: dgemma.Model, keeps, examples: int, **more) -> None:
    @settings(max_examples=examples, **more)
    @given(DOCUMENTS, st.data())
    def check(document: str, data: st.DataObject) -> None:
        keeps(model, document, data)

    check()


@pytest.mark.parametrize("keeps", PROPERTIES)
def test_pins_hold(model: dgemma.Model, keeps) -> None:
    hold(model, keeps, 10)


@pytest.mark.parametrize("keeps", PROPERTIES)
def test_a_step_that_lets_go_of_a_pin_is_seen(
    model: dgemma.Model, keeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: cells that are not held again behind a step are caught by either property."""
    monkeypatch.setattr("dgemma.sampling.step.hold", lambda canvas, pins: canvas)
    with pytest.raises(AssertionError):
        hold(model, keeps, 15, phases=[Phase.generate], database=None)


@pytest.mark.slow
@pytest.mark.parametrize("keeps", PROPERTIES)
def test_pins_hold_five_hundred_times(model: dgemma.Model, keeps) -> None:
    hold(model, keeps, 130)
