"""The engine on tiny models in float64: whoever shares a pass, whatever is cached, the plain loop's tokens come out."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgemma.engine.canvas_batch
import dgemma.engine.scheduler
from dgemma.config import EngineConfig
from dgemma.engine.denoise import run
from dgemma.engine.engine import Engine, by_turns
from dgemma.engine.requests import CommitRecord, Request, StepRecord
from dgemma.errors import ResourceError, UsageError
from dgemma.model.stack import Stack
from tests.engine.test_denoise import MODEL, WIDTH, any_request, by_row, request

ROOMY = EngineConfig(memory=2**40)


def despite_errors(engine: Engine) -> Iterator[None]:
    """Passes until nobody is left, whoever finds no memory."""
    while not engine.idle:
        with contextlib.suppress(torch.OutOfMemoryError):
            engine.advance()
        yield


def plainly(requests: Sequence[Request]) -> list[list[tuple]]:
    """What the plain loop tells of each request, alone."""
    return [by_row(list(run(MODEL, [one])), 1)[0] for one in requests]


@settings(max_examples=25)
@given(st.lists(any_request(), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 4))
def test_the_engine_equals_the_plain_loop(requests: list[Request], chunk: int, slots: int) -> None:
    engine = Engine(MODEL, EngineConfig(prefill_chunk=chunk, max_slots=slots, memory=2**40))
    assert by_row(list(engine.run(requests)), len(requests)) == plainly(requests)
    assert engine.idle


@settings(max_examples=15)
@given(st.lists(any_request(), min_size=2, max_size=6), st.integers(0, 2**32))
def test_requests_may_join_at_any_time(requests: list[Request], seed: int) -> None:
    engine, draw = Engine(MODEL, EngineConfig(prefill_chunk=4, memory=2**40)), random.Random(seed)
    waiting, tickets, told = list(enumerate(requests)), {}, []
    while waiting or not engine.idle:
        while waiting and draw.random() < 0.5:
            index, one = waiting.pop(0)
            tickets[engine.submit(one)] = index
        engine.advance()
        for ticket, index in tickets.items():
            told += [record.of(index) for record in engine.poll(ticket)]
    assert by_row(told, len(requests)) == plainly(requests)


def test_canvases_of_different_widths_share_a_pass() -> None:
    requests = [request((1, 2, 3)), request((4, 5), canvas_width=3), request((6,), canvas_width=3, seed=4)]
    engine = Engine(MODEL, ROOMY)
    assert by_row(list(engine.run(requests)), 3) == plainly(requests)
    alone = sum(len([r for r in run(MODEL, [one]) if isinstance(r, StepRecord)]) for one in requests)
    assert engine.passes < alone


def test_reading_and_committing_cost_no_pass_of_their_own() -> None:
    one = request((1, 2, 3), max_tokens=3 * WIDTH)
    engine = Engine(MODEL, ROOMY)
    steps = [record for record in engine.run([one]) if isinstance(record, StepRecord)]
    assert {record.canvas for record in steps} == {0, 1, 2} and engine.passes == len(steps)


def test_a_second_turn_reads_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    right = Stack.run

    def counting(self, x, *rest):
        rows.append(x.shape[1])
        return right(self, x, *rest)

    monkeypatch.setattr(Stack, "run", counting)
    history = tuple(random.Random(0).choices(range(48), k=60))
    engine = Engine(MODEL, EngineConfig(prefill_chunk=16, memory=2**40))
    first = request(history, max_tokens=2 * WIDTH)
    answer = [record for record in engine.run([first]) if isinstance(record, CommitRecord)]
    grown = request((*history, *answer[0].token_ids, 7, 7, 7), seed=3)
    rows.clear()
    got = by_row(list(engine.run([grown])), 1)
    assert rows[0] == 3 + WIDTH, "the prompt and its first committed canvas are known"
    rows.clear()
    late = request((*history[:50], 9, 9, 9), seed=4)
    also = by_row(list(engine.run([late])), 1)
    assert rows[0] == 53 - 48 + WIDTH, "chunks end at 16, 32 and 48"
    assert [got[0], also[0]] == plainly([grown, late])


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=6),
    st.integers(3, 20), st.lists(st.integers(0, 39), max_size=12, unique=True).map(sorted),
)  # fmt: skip
def test_a_cached_prefix_changes_nothing(
    turns: list[tuple[int, int, int]], chunk: int, resume_points: list[int]
) -> None:
    """Prompts that begin alike for `shared` tokens of one of four trunks and then go their own way; some places are marked."""
    trunks = [random.Random(trunk).choices(range(48), k=40) for trunk in range(4)]
    prompts = [
        (*trunks[trunk][:shared], *random.Random(100 + i).choices(range(48), k=1 + tail))
        for i, (shared, trunk, tail) in enumerate(turns)
    ]
    requests = [
        request(ids, seed=i, resume_points=tuple(place for place in resume_points if place < len(ids)))
        for i, ids in enumerate(prompts)
    ]
    engine = Engine(MODEL, EngineConfig(prefill_chunk=chunk, memory=2**40))
    in_turn = [by_row(list(engine.run([one])), 1)[0] for one in requests]
    together = by_row(list(engine.run(requests)), len(requests))
    assert in_turn == together == plainly(requests)


def test_the_same_prompt_at_once_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    right = Engine._readers

    def counting(self):
        readers = right(self)
        read.extend(slot.reading for slot in readers)
        return readers

    monkeypatch.setattr(Engine, "_readers", counting)
    prompt = tuple(random.Random(1).choices(range(48), k=40))
    requests = [request(prompt, seed=seed) for seed in range(3)]
    assert by_row(list(Engine(MODEL, ROOMY).run(requests)), 3) == plainly(requests)
    assert sum(read) == 40


def test_tenants_share_nothing() -> None:
    prompt = tuple(range(40))
    engine = Engine(MODEL, ROOMY)
    list(engine.run([dataclasses.replace(request(prompt), cache_salt="one")]))
    known = engine.scheduler.prefixes.known
    assert known(prompt, "one") == 40 and known(prompt, "two") == 0 and known(prompt, "") == 0


def test_the_cache_keeps_to_its_bytes() -> None:
    engine = Engine(MODEL, EngineConfig(memory=2**40, prefix_cache=100_000))
    for trunk in range(12):
        list(engine.run([request(tuple(random.Random(trunk).choices(range(48), k=60)))]))
        assert engine.scheduler.prefixes.nbytes <= 100_000
    assert 1 <= len(engine.scheduler.prefixes.cached) < 12
    off = Engine(MODEL, EngineConfig(memory=2**40, prefix_cache=0))
    list(off.run([request(tuple(range(40)))]))
    assert not off.scheduler.prefixes.cached and off.scheduler.prefixes.known(tuple(range(40)), "") == 0


def test_a_thousand_joins_cancels_and_finishes_leak_nothing_and_disturb_nobody() -> None:
    draw = random.Random(5)
    kinds = [request((1 + kind, 2, 3), max_tokens=WIDTH * (1 + kind % 2), seed=kind) for kind in range(6)]
    want, engine = plainly(kinds), Engine(MODEL, EngineConfig(max_slots=5, memory=2**40))
    told: dict[int, list] = {}
    asked: dict[int, int] = {}
    cancelled, joined = 0, 0
    while joined < 1000 or not engine.idle:
        while joined < 1000 and draw.random() < 0.6:
            kind = draw.randrange(6)
            ticket = engine.submit(kinds[kind])
            asked[ticket], told[ticket], joined = kind, [], joined + 1
        if asked and draw.random() < 0.5:
            ticket = draw.choice([*asked])
            engine.cancel(ticket)
            assert ticket not in [slot.ticket for slot in engine.scheduler.taken]
            assert all(slot.ticket != ticket for batch in engine.batches.values() for slot in batch.slots)
            asked.pop(ticket)
            cancelled += 1
        engine.advance()
        for ticket in [*asked]:
            told[ticket] += engine.poll(ticket)
            if told[ticket] and getattr(told[ticket][-1], "finish_reason", None):
                records = [record.of(0) for record in told[ticket]]
                assert by_row(records, 1)[0] == want[asked.pop(ticket)]
                engine.cancel(ticket)
    assert cancelled > 100 and not engine._records and not engine.scheduler.prefixes.live
    assert all(not batch.slots and batch.prev_probs is None for batch in engine.batches.values())


def test_leaving_early_frees_the_slot() -> None:
    engine = Engine(MODEL, ROOMY)
    records = engine.run([request(), request(seed=2)])
    next(records)
    assert len(engine.scheduler.taken) == 2
    records.close()
    assert engine.idle and not engine._records


def test_two_streams_drive_each_other() -> None:
    engine = Engine(MODEL, ROOMY)
    one, other = request((1, 2, 3), max_tokens=2 * WIDTH), request((4, 5), max_tokens=2 * WIDTH, seed=2)
    streams = [engine.run([one]), engine.run([other])]
    told: list[list] = [[], []]
    open_ = [0, 1]
    while open_:
        for i in [*open_]:
            record = next(streams[i], None)
            open_.remove(i) if record is None else told[i].append(record)
    assert [by_row(records, 1)[0] for records in told] == plainly([one, other])
    assert engine.passes < sum(len([r for r in records if isinstance(r, StepRecord)]) for records in told)


def test_one_that_is_not_finite_ends_alone_and_is_never_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request((1,) * 20, seed=1), request((3,) * 30, seed=2), request((4,) * 25, seed=3)]
    healthy = plainly(requests)
    head_stats, calls = dgemma.engine.canvases.head_stats, []

    def poisoned(model, hidden, state, prev_probs):
        if len(calls) == 2:
            hidden = hidden.clone()
            hidden[1, 3, 0] = float("nan")
        calls.append(1)
        return head_stats(model, hidden, state, prev_probs)

    monkeypatch.setattr(dgemma.engine.canvases, "head_stats", poisoned)
    engine = Engine(MODEL, ROOMY)
    hurt = by_row(list(engine.run(requests)), 3)
    assert [hurt[0], hurt[2]] == [healthy[0], healthy[2]]
    assert hurt[1][-1][1]["finish_reason"] == "error" and hurt[1][-1][1]["token_ids"] == []
    known = engine.scheduler.prefixes.known
    assert known(requests[1].prompt_ids, "") == 0 and known(requests[0].prompt_ids, "") == 20


def test_admission_is_by_memory() -> None:
    one = request(tuple(range(30)), max_tokens=WIDTH)
    need = Engine(MODEL, ROOMY).scheduler.need(one)
    engine = Engine(MODEL, EngineConfig(memory=2 * need + need // 2, prefix_cache=0))
    requests = [dataclasses.replace(one, seed=seed) for seed in range(4)]
    for _ in engine.run(requests):
        assert len(engine.scheduler.taken) <= 2
    assert by_row(list(engine.run(requests)), 4) == plainly(requests)


def test_what_others_take_since_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a budget of its own, a request beside others needs what it takes to be free now; alone it is let in as ever."""
    engine, need = Engine(MODEL, EngineConfig(prefix_cache=0)), Engine(MODEL, ROOMY).scheduler.need(request())
    monkeypatch.setattr(dgemma.engine.scheduler, "free_on", lambda *_: need // 2)
    for seed in (1, 2):
        engine.submit(request(seed=seed))
    seen = set()
    while not engine.idle:
        engine.advance()
        seen.add(len(engine.scheduler.taken))
    assert seen == {0, 1}


@pytest.mark.parametrize("left", [1, 2])
def test_the_heap_gives_back_what_requests_leave(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether others are at work or not: a busy service has no idle moment."""
    still_in: list[int] = []
    engine, need = Engine(MODEL, ROOMY), Engine(MODEL, ROOMY).scheduler.need(request())
    monkeypatch.setattr(
        dgemma.engine.scheduler, "trim_memory", lambda: still_in.append(len(engine.scheduler.taken))
    )
    monkeypatch.setattr(dgemma.engine.scheduler, "GIVEN_BACK", left * need - 1)
    for _ in engine.run([request(seed=seed) for seed in range(3)]):
        pass
    assert len(still_in) == 3 // left
    assert max(still_in) > 0


def test_a_heap_is_given_back_sooner_where_nobody_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    engine = Engine(MODEL, ROOMY)
    monkeypatch.setattr(
        dgemma.engine.scheduler, "trim_memory", lambda: trims.append(len(engine.scheduler.taken))
    )
    monkeypatch.setattr(dgemma.engine.scheduler, "GONE_IDLE", 2)
    for count in (1, 3, 2):
        list(engine.run([request(seed=seed) for seed in range(count)]))
    assert trims == [0, 0], "behind the fourth request and the sixth"


def test_a_prompt_too_long_for_memory_is_refused_with_what_would_fit() -> None:
    config = EngineConfig(memory=Engine(MODEL, ROOMY).scheduler.need(request(tuple(range(30)))))
    engine = Engine(MODEL, config)
    with pytest.raises(ResourceError, match="at most 30 prompt tokens fit"):
        engine.submit(request(tuple(range(31))))
    assert by_row(list(engine.run([request(tuple(range(30)))])), 1) == plainly([request(tuple(range(30)))])
    with pytest.raises(ResourceError, match="no prompt fits"):
        Engine(MODEL, EngineConfig(memory=1)).submit(request())
    with pytest.raises(UsageError, match="prompt is empty"):
        engine.submit(request(()))
    assert engine.idle


def test_a_pass_that_fails_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory in the middle of a pass: nothing has moved."""
    one = request((1, 2, 3), max_tokens=2 * WIDTH)
    right, calls = Stack.run, []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) in (1, 4, 6):
            raise torch.OutOfMemoryError("no memory")
        return right(self, *arguments)

    engine = Engine(MODEL, ROOMY)
    ticket, told = engine.submit(one), []
    monkeypatch.setattr(Stack, "run", failing)
    for _ in despite_errors(engine):
        told += engine.poll(ticket)
    monkeypatch.setattr(Stack, "run", right)
    assert by_row([record.of(0) for record in told], 1) == plainly([one])


def mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beliefs of one row are handed to another when rows leave."""
    index = dgemma.engine.canvas_batch.CanvasBatch._index
    monkeypatch.setattr(
        dgemma.engine.canvas_batch.CanvasBatch, "_index", lambda self, rows: index(self, rows[::-1])
    )


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canvas that stood is not encoded for the next."""
    commit = dgemma.engine.canvas_batch.Slot.commit

    def half(self, canvas):
        commit(self, canvas)
        self.pending = None

    monkeypatch.setattr(dgemma.engine.canvas_batch.Slot, "commit", half)


@pytest.mark.parametrize("break_it", [mixed_up, forgetful], ids=lambda twin: twin.__name__)
def test_a_twin_that_mixes_requests_up_is_rejected(break_it, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request((1, 2, 3), max_tokens=2 * WIDTH, seed=seed) for seed in range(4)]
    want = plainly(requests)
    break_it(monkeypatch)
    assert by_row(list(Engine(MODEL, ROOMY).run(requests)), 4) != want


def test_what_is_read_is_what_encode_reads_and_the_cache_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(MODEL, EngineConfig(prefill_chunk=16, memory=2**40))
    prompt = tuple(random.Random(2).choices(range(48), k=50))
    list(engine.run([request(prompt[:40])]))
    rows: list[int] = []
    encode = type(MODEL).encode
    monkeypatch.setattr(
        type(MODEL), "encode", lambda self, ids, kv: (rows.append(ids.shape[1]), encode(self, ids, kv))[1]
    )
    kv, fresh = by_turns(engine, engine.read(prompt)), MODEL.new_cache()
    assert rows == [10] and kv.length == 50
    with torch.inference_mode():
        encode(MODEL, torch.tensor([prompt]), [fresh])
        canvas = torch.arange(WIDTH)[None]
        assert torch.allclose(MODEL.denoise(canvas, [kv]), MODEL.denoise(canvas, [fresh]), atol=1e-12)
    assert not engine.scheduler.prefixes.live


def test_others_have_passes_between_those_of_a_reader() -> None:
    engine, prompt = (
        Engine(MODEL, EngineConfig(prefill_chunk=16, memory=2**40)),
        tuple(random.Random(3).choices(range(48), k=50)),
    )
    reading, asked = engine.read(prompt, keep=True), request(prompt[:20])
    for _ in range(2):
        assert next(reading) is None and engine.scheduler.prefixes.live
        list(engine.run([asked]))
    assert by_turns(engine, reading).length == 50 and not engine.scheduler.prefixes.live
    assert engine.scheduler.prefixes.known(prompt, "") == 50
    for broken in (False, True):  # who stops reading leaves nothing behind, also after a pass that failed
        reading = engine.read(prompt[::-1], keep=True)
        next(reading)
        if broken:
            engine.abandon()
        reading.close()
        assert not engine.scheduler.prefixes.live and not engine.scheduler.prefixes.known(prompt[::-1], "")


def test_warming_up_leaves_nothing_behind() -> None:
    requests = [request((1,) * 20, seed=1), request((3,) * 30, seed=2)]
    engine = Engine(MODEL, ROOMY)
    engine.warm(3)
    assert engine.idle and engine.passes >= 3 * 4 and not engine.scheduler.prefixes.cached
    assert by_row(list(engine.run(requests)), 2) == plainly(requests)
