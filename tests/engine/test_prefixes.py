"""Where a sequence can be resumed, what is kept of the places, and what they may take; tokens against the plain loop."""

from __future__ import annotations

import random

import pytest
import torch

from dgemma.config import EngineConfig
from dgemma.engine.engine import Engine
from dgemma.engine.prefixes import Encoded
from dgemma.engine.slot import Slot
from dgemma.model.kv import KVCache
from tests.engine.test_denoise import MODEL, WIDTH, by_row, request
from tests.engine.test_engine import ROOMY, despite_errors, plainly

HISTORY = tuple(random.Random(3).choices(range(48), k=60))
EDITED = (*HISTORY[:45], 9, 9, 9)


def after_the_edit(
    told: EngineConfig = EngineConfig(prefill_chunk=16, memory=2**40), **asked
) -> tuple[list, Engine]:
    """What is told of an edited last turn after the turn that it replaces."""
    engine = Engine(MODEL, told)
    list(engine.run([request(HISTORY, **asked)]))
    return by_row(list(engine.run([request(EDITED, seed=4, **asked)])), 1)[0], engine


def test_an_edited_last_turn_is_read_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    right = Slot.has_read

    def counting(self):
        if self.pending is None:
            read.append(self.reading)
        right(self)

    monkeypatch.setattr(Slot, "has_read", counting)
    got, _ = after_the_edit(resume_points=(3, 20, 45))
    assert read[-1] == len(EDITED) - 45, "the turn begins in the middle of the third chunk"
    assert got == plainly([request(EDITED, seed=4)])[0]
    read.clear()
    after_the_edit()
    assert read[-1] == len(EDITED) - 32, "without marks chunks end at 16, 32, 48 and 60"


def test_a_twin_whose_window_is_one_token_off_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    right = KVCache.window
    monkeypatch.setattr(KVCache, "window", lambda self, length: right(self, length - (length < self.length)))
    assert after_the_edit(resume_points=(3, 20, 45))[0] != plainly([request(EDITED, seed=4)])[0]


def test_turns_outlive_the_ends_of_chunks() -> None:
    _, engine = after_the_edit(EngineConfig(prefill_chunk=4, memory=2**40), resume_points=(3, 17, 20, 30, 33))
    first, edited = engine.scheduler.prefixes.cached
    assert sorted(first.resume_points) == [17, 20, 30, 33, 52, 56, 60, 66], (
        "a canvas was committed; 3 is too early"
    )
    assert sorted(edited.resume_points) == [17, 20, 30, 33, 41, 45, 48, 54]
    places = range(20, 29)
    assert Encoded(None, "", frozenset((21, 23, 25, 27))).by_worth(places) == [
        20,
        22,
        24,
        26,
        23,
        25,
        21,
        27,
        28,
    ]


def test_marks_keep_to_the_cache_s_bytes_while_their_sequences_are_at_work() -> None:
    window = (
        2 * 2 * 2 * 8 * 4 * 8
    )  # two sliding layers, k and v of 2 heads x 8 over window 5 - 1 positions, float64
    engine = Engine(MODEL, EngineConfig(prefill_chunk=4, memory=2**40, prefix_cache=10 * window))
    requests = [
        request(tuple(random.Random(i).choices(range(48), k=50)), seed=i, resume_points=(18, 25, 40))
        for i in range(3)
    ]
    counts = []
    for _ in engine.run(requests):
        counts.append(sum(len(sequence.resume_points) for sequence in engine.scheduler.prefixes.live))
        assert engine.scheduler.prefixes.nbytes <= 10 * window
    assert max(counts) == 10 and [
        sorted(sequence.resume_points) for sequence in engine.scheduler.prefixes.cached
    ] == [[18, 40, 56]]
    assert by_row(list(engine.run(requests)), 3) == plainly(requests)


def test_requests_take_memory_before_prefixes() -> None:
    one = request(tuple(range(40)))
    need = Engine(MODEL, ROOMY).scheduler.need(one)
    engine = Engine(MODEL, EngineConfig(memory=2 * need, prefix_cache=2 * need))
    list(engine.run([one]))
    held = engine.scheduler.prefixes.nbytes
    assert 0 < held < need
    for _ in engine.run([request(tuple(range(40, 0, -1)), seed=seed) for seed in range(2)]):
        assert (
            sum(slot.memory for slot in engine.scheduler.taken) + engine.scheduler.prefixes.nbytes <= 2 * need
        )
    assert not any(sequence.tokens[:40] == [*range(40)] for sequence in engine.scheduler.prefixes.cached)


def test_a_mark_that_finds_no_memory_leaves_everybody_s_prompt_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = [request(tuple(range(20 + seed)), max_tokens=2 * WIDTH, seed=seed) for seed in range(3)]
    want, right, calls = plainly(requests), KVCache.window, []

    def failing(self, length):
        calls.append(1)
        if len(calls) in (1, 3):
            raise torch.OutOfMemoryError("no memory")
        return right(self, length)

    engine = Engine(MODEL, ROOMY)
    tickets, told = {engine.submit(one): index for index, one in enumerate(requests)}, []
    monkeypatch.setattr(KVCache, "window", failing)
    for _ in despite_errors(engine):
        for ticket, index in tickets.items():
            told += [record.of(index) for record in engine.poll(ticket)]
    assert by_row(told, 3) == want and len(calls) > 3
