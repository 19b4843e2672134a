"""Clients share slots, passes and the prefix cache: nobody waits for another's long prompt, and everybody's tokens stay the same."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.config import EngineConfig
from dgemma.engine import engine as engines
from dgemma.engine.engine import Engine, by_turns
from dgemma.engine.prefixes import Prefixes
from dgemma.engine.requests import CommitRecord, Request
from dgemma.engine.scheduler import OVERTAKEN
from dgemma.engine.shares import divide
from tests.engine.test_denoise import MODEL, WIDTH, by_row, request
from tests.engine.test_engine import plainly

ROOM = 2**40


@given(st.integers(0, 60), st.lists(st.integers(0, 30), max_size=6))
def test_shares_are_equal_but_for_who_wants_less(room: int, wants: list[int]) -> None:
    shares = divide(room, wants)
    assert sum(shares) == min(room, sum(wants))
    for share, want in zip(shares, wants, strict=True):
        assert 0 <= share <= want
        if share < want:
            assert share >= max(shares) - 1


def of(client: str, one: Request) -> Request:
    return dataclasses.replace(one, client=client)


def prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(48), k=length))


def ends(engine: Engine, asked: list[Request], later: dict[int, list[Request]] | None = None) -> list[int]:
    """The pass in which each request ends; `later`: by the pass before which they come."""
    tickets = [engine.submit(one) for one in asked]
    ended: dict[int, int] = {}
    for count in range(10_000):
        tickets += [engine.submit(one) for one in (later or {}).get(count, [])]
        if engine.idle:
            return [ended[ticket] for ticket in tickets]
        engine.advance()
        for ticket in tickets:
            for record in engine.poll(ticket):
                if isinstance(record, CommitRecord) and record.finish_reason is not None:
                    ended[ticket] = count
    raise AssertionError("it does not end")


def test_a_short_prompt_does_not_wait_for_another_client_s_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BESIDE_OTHERS", 2)
    long, short = request(prompt(1, 200), max_tokens=WIDTH), request(prompt(2, 4), max_tokens=WIDTH)
    config = EngineConfig(prefill_chunk=8, memory=ROOM)
    alone = ends(Engine(MODEL, config), [short])[0]
    slow, quick = ends(Engine(MODEL, config), [of("a", long), of("b", short)])
    assert quick == alone and slow > 25
    slow, last = ends(Engine(MODEL, config), [of("a", long), of("a", short)])
    assert last > slow - 10, "of one client's the first prompt is read first"


def test_a_pass_reads_no_more_of_a_prompt_than_others_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BESIDE_OTHERS", 2)
    engine = Engine(MODEL, EngineConfig(prefill_chunk=64, memory=ROOM))
    engine.submit(of("b", request(prompt(1, 4), max_tokens=WIDTH * 3)))
    engine.advance()
    engine.submit(of("a", request(prompt(2, 300), max_tokens=WIDTH)))
    seen = Counter()
    while not engine.idle:
        beside = any(slot.client == "b" for slot in engine.scheduler.taken)
        engine.advance()
        if beside and engine.last.clean:
            seen[engine.last.clean] += 1
        elif engine.last.clean > WIDTH:
            assert engine.last.clean in (64, 300 % 64, engine.last.clean)
    assert max(seen) <= 2 * WIDTH, "a chunk of the prompt, and a canvas that is committed"


def test_reading_by_turns_keeps_to_the_same_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BESIDE_OTHERS", 2)
    engine = Engine(MODEL, EngineConfig(prefill_chunk=64, memory=ROOM))
    ids = prompt(3, 130)
    turns = [sum(1 for _ in engine.read(ids, client="a"))]
    engine.submit(of("b", request(prompt(1, 4), max_tokens=WIDTH * 3)))
    engine.advance()
    turns.append(sum(1 for _ in engine.read(ids[::-1], client="a")))
    turns.append(sum(1 for _ in engine.read(prompt(4, 130), client="b")))
    assert turns == [2, 130 // WIDTH, 2]
    assert by_turns(engine, engine.read(ids, client="a")).length == 130


def test_slots_go_in_turn_to_who_holds_least() -> None:
    engine = Engine(MODEL, EngineConfig(max_slots=2, memory=ROOM))
    for seed in range(6):
        engine.submit(of("a", request(prompt(seed, 5), max_tokens=WIDTH * 2, seed=seed)))
    engine.advance()
    assert [slot.ticket for slot in engine.scheduler.taken] == [0, 1], "a client alone has everything"
    engine.submit(of("b", request(prompt(9, 5), max_tokens=WIDTH, seed=9)))
    for _ in range(100):
        engine.advance()
        if any(slot.client == "b" for slot in engine.scheduler.taken):
            break
    assert sorted(slot.client for slot in engine.scheduler.taken) == ["a", "b"]
    assert {slot.ticket for slot in engine.scheduler.taken if slot.client == "a"} <= {0, 2}


def long_and_short(config: EngineConfig) -> tuple[list[Request], list[int]]:
    """Long answers of one client that take everything, a short one of another, and when each ended."""
    asked = [of("a", request(prompt(seed, 6), max_tokens=WIDTH * 6, seed=seed)) for seed in range(4)]
    later = of("b", request(prompt(9, 5), max_tokens=WIDTH, seed=9))
    return [*asked, later], ends(Engine(MODEL, config), asked, {3: [later]})


@pytest.mark.parametrize("scarce", ["slots", "memory"])
def test_long_answers_make_room_between_two_canvases(scarce: str) -> None:
    asked, _ = long_and_short(EngineConfig(memory=ROOM))
    need = Engine(MODEL, EngineConfig(memory=ROOM)).scheduler.need(asked[0])
    config = EngineConfig(max_slots=4, memory=ROOM) if scarce == "slots" else EngineConfig(memory=4 * need)
    _, ended = long_and_short(config)
    assert ended[4] < min(ended[:4])
    assert ended[3] > max(ended[:3]), "the newest made room, and came to its end after the others"


@pytest.mark.parametrize(("when", "begun"), [(3, False), (13, True)])
@pytest.mark.parametrize("cached", [0, None])
def test_who_made_room_goes_on_with_the_same_tokens(cached: int | None, when: int, begun: bool) -> None:
    """Long prompts and long answers, given back while they are read and between canvases; nothing is told twice."""
    asked = [of("a", request(prompt(seed, 30 + seed), max_tokens=WIDTH * 6, seed=seed)) for seed in range(3)]
    asked += [of("b", request(prompt(seed, 9), max_tokens=WIDTH * 2, seed=seed)) for seed in range(4)]
    asked += [of("c", request(prompt(7, 20), seed=3))]
    engine = Engine(MODEL, EngineConfig(max_slots=3, prefill_chunk=8, memory=ROOM, prefix_cache=cached))
    given_up = []
    right = engine.scheduler.admit

    def admit(waiting):
        found = right(waiting)
        given_up.extend(slot.canvas > 0 for slot in found if slot.between_canvases)
        return found

    engine.scheduler.admit = admit
    tickets = {engine.submit(one): index for index, one in enumerate(asked[:3])}
    records = []
    for count in range(10_000):
        if count == when:
            tickets |= {engine.submit(one): index for index, one in enumerate(asked) if index >= 3}
        if engine.idle:
            break
        engine.advance()
        for ticket, index in tickets.items():
            records += [record.of(index) for record in engine.poll(ticket)]
    assert by_row(records, len(asked)) == plainly(asked)
    assert begun in given_up


def test_one_that_does_not_fit_is_overtaken_so_often_and_no_more() -> None:
    small = [of("b", request(prompt(seed, 5), max_tokens=WIDTH, seed=seed)) for seed in range(OVERTAKEN + 8)]
    large = of("a", request(prompt(1, 40), max_tokens=WIDTH * 8))
    probe = Engine(MODEL, EngineConfig(memory=ROOM)).scheduler
    engine = Engine(MODEL, EngineConfig(memory=max(probe.need(large), 2 * probe.need(small[0])) + 1))
    first = [engine.submit(one) for one in small[:1]]
    engine.advance()
    assert first and engine.scheduler.taken
    engine.submit(large)
    for one in small[1:]:
        engine.submit(one)
    order = []
    while not engine.idle:
        engine.advance()
        order += [slot.ticket for slot in engine.scheduler.taken if slot.ticket not in order]
    assert order.index(1) == 1 + OVERTAKEN, "ticket 1 is the large one"


class Held:
    """A sequence's keys and values of so many bytes."""

    def __init__(self, nbytes: int):
        self.nbytes, self.length = nbytes, 20
        self.keys, self.values = [self], []

    def window(self, length: int) -> list:
        return []

    def retire(self) -> None:
        """Nothing to give back."""


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=40))
def test_what_is_forgotten_is_of_who_holds_most(arrivals: list[tuple[str, int]]) -> None:
    cache = Prefixes(100)
    for number, (client, nbytes) in enumerate(arrivals):
        before = cache._held()
        sequence = cache.open(Held(nbytes), [number], "", client=client)
        sequence.tokens = [number] * 20
        cache.close(sequence, keep=True)
        after = cache._held()
        assert after.total() <= 100
        for name, held in before.items():
            if name != client and after[name] < held:
                assert held >= after[client], "it held no less than the one who came"
        if client not in before and nbytes <= 100 // (len(before) + 1):
            assert after[client] == nbytes, "an equal share is always kept"


def test_a_client_s_prefix_outlives_many_of_another_s() -> None:
    engine = Engine(MODEL, EngineConfig(memory=ROOM, prefix_cache=60_000))
    mine = of("b", request(prompt(1, 40), max_tokens=WIDTH))
    list(engine.run([mine]))
    for seed in range(2, 14):
        list(engine.run([of("a", request(prompt(seed, 40), max_tokens=WIDTH))]))
        assert engine.scheduler.prefixes.nbytes <= 60_000
    kept = Counter(sequence.client for sequence in engine.scheduler.prefixes.cached)
    assert kept["b"] == 1 and 1 <= kept["a"] < 12, "the twelve did not all fit"
    assert engine.scheduler.prefixes.known(mine.prompt_ids, "") > 30
