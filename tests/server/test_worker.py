"""The one thread that owns the device: passes that fail, clients that leave, and who touches what from where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dgemma
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine.engine import Engine, by_turns
from dgemma.engine.requests import CommitRecord, Request, Result, results
from dgemma.errors import Cancelled, DeviceError, DgemmaError, ResourceError, UsageError
from dgemma.server.engine_proxy import EngineProxy
from dgemma.server.worker import Batch, Worker, WorkerError

POISON = 77  # a token that breaks the pass that reads it


class Recording(Engine):
    """An engine that notes its passes, and breaks on a prompt that holds POISON."""

    error: Exception = MemoryError("a prompt's text")

    def __init__(self, model: Any, config: EngineConfig = EngineConfig()):
        super().__init__(model, config)
        self.log: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        self.carried: list[list[int]] = []  # of each pass: the second token of each prompt in it

    def advance(self) -> None:
        self.threads.add(threading.get_ident())
        super().advance()
        self.log.append(("pass", [slot.ticket for slot in self.scheduler.taken]))
        self.carried.append(
            [slot.request.prompt_ids[1] for slot in self.scheduler.taken if slot.request.prompt_ids[1:]]
        )
        if any(POISON in slot.request.prompt_ids for slot in self.scheduler.taken):
            raise self.error

    def cancel(self, ticket: int) -> None:
        self.log.append(("cancel", ticket))
        super().cancel(ticket)


@pytest.fixture
def worker(model: dgemma.Model) -> Iterator[Worker]:
    found = Worker(Recording(model.net))
    found.start()
    yield found
    found.stop()


def request(*prompt: int, max_tokens: int = 24, seed: int = 0) -> Request:
    config = DenoiseConfig(eos_token_id=None, max_denoising_steps=5, stability_threshold=9)
    return Request((2, *prompt), max_tokens, seed, config)


def in_threads(worker: Worker, asked: list[Request]) -> list[Result | Exception]:
    """Each request by an EngineProxy on a thread of its own, as the service runs them."""
    found: list[Any] = [None] * len(asked)

    def run(place: int) -> None:
        try:
            found[place] = results(EngineProxy(worker).run([asked[place]]), 1)[0]
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_requests_get_what_the_engine_alone_gives(worker: Worker, model: dgemma.Model) -> None:
    asked = [request(30 + n, seed=n) for n in range(5)]
    alone = [results(Engine(model.net).run([one]), 1)[0] for one in asked]
    assert in_threads(worker, asked) == alone
    assert worker.engine.threads == {worker._thread.ident}


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [(MemoryError("secret"), ResourceError, "out of memory"), (ValueError("secret"), WorkerError, "ValueError"),
     (UsageError("named"), UsageError, "named")],
)  # fmt: skip
def test_a_pass_that_fails_costs_only_who_broke_it(
    worker: Worker, model: dgemma.Model, error: Exception, kind: type[DgemmaError], text: str
) -> None:
    worker.engine.error = error
    asked = [request(30 + n, seed=n) for n in range(4)] + [request(POISON)] + [request(50, seed=9)]
    *good, bad, last = in_threads(worker, asked)
    alone = [results(Engine(model.net).run([one]), 1)[0] for one in (*asked[:4], asked[5])]
    assert [*good, last] == alone
    assert isinstance(bad, kind) and text in str(bad) and "secret" not in str(bad)
    assert in_threads(worker, asked[:1]) == alone[:1] and worker.failures >= 1
    assert not worker.engine.scheduler.taken and worker.waiting == 0


def carried(model: dgemma.Model, prompts: list[int], slots: int = 8) -> list[list[int]]:
    """Who is together in the passes, one after the other; all are asked for before the first. On this thread, so the order is one."""
    worker = Worker(Recording(model.net, EngineConfig(max_slots=slots)))
    batches = [Batch([request(prompt)]) for prompt in prompts]
    for batch in batches:
        worker.submit(batch)
    worker._obey()
    while not worker.engine.idle:
        worker._advance()
        worker._hand_out()
    assert [batch.closed for batch in batches] == [prompt == POISON for prompt in prompts]
    assert worker.waiting == 0 and not worker.engine.scheduler.taken and worker.failures >= 1
    passes = [who for who in worker.engine.carried if who]
    return [who for place, who in enumerate(passes) if place == 0 or who != passes[place - 1]]


ORDERS = {
    "the oldest broke it": ([POISON, 31, 32, 33], [[POISON, 31, 32, 33], [33], [32], [31], [POISON]]),
    "the newest broke it": ([31, 32, 33, POISON], [[31, 32, 33, POISON], [POISON], [31, 32, 33]]),
    "one between": ([31, POISON, 33, 34], [[31, POISON, 33, 34], [34], [33], [POISON], [31]]),
    "it was alone": ([POISON], [[POISON]]),
}


@pytest.mark.parametrize(("prompts", "want"), ORDERS.values(), ids=ORDERS)
def test_the_newest_is_tried_first_and_the_rest_go_on_once_one_was_found(
    model: dgemma.Model, prompts: list[int], want: list[list[int]]
) -> None:
    assert carried(model, prompts) == want


def test_of_those_who_waited_the_oldest_is_tried_and_the_others_keep_their_turn(model: dgemma.Model) -> None:
    """With room for two. The oldest who waited may have broken the pass by being let in, so it is tried before all."""
    assert carried(model, [POISON, 31, 32, 33, 34], slots=2) == [
        [POISON, 31],
        [32],
        [31],
        [POISON],
        [33, 34],
    ]
    assert carried(model, [31, POISON, 32, 33, 34], slots=2) == [
        [31, POISON],
        [32],
        [POISON],
        [31, 33],
        [34],
    ]


def test_nothing_is_told_twice_after_a_failed_pass(worker: Worker, model: dgemma.Model) -> None:
    """A long answer that has told some canvases already is run again behind them."""
    long, told = request(31, max_tokens=96), []
    records = EngineProxy(worker).run([long])
    while sum(isinstance(record, CommitRecord) for record in told) < 2:
        told.append(next(records))
    assert isinstance(in_threads(worker, [request(POISON)])[0], ResourceError)
    told += records
    want = [record for record in Engine(model.net).run([long]) if isinstance(record, CommitRecord)]
    assert [record for record in told if isinstance(record, CommitRecord)] == want


def test_a_second_attempt_that_differs_is_an_error(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    records, commits = EngineProxy(worker).run([request(31, max_tokens=96)]), []
    while len(commits) < 2:
        commits += [record for record in [next(records)] if isinstance(record, CommitRecord)]
    worker.call(lambda: [entry.commits[0].reverse() for entry in worker._entries.values()])
    in_threads(worker, [request(POISON)])
    with pytest.raises(WorkerError, match="ask again"):
        list(records)


def test_who_leaves_is_gone_before_the_next_pass(worker: Worker) -> None:
    remote = EngineProxy(worker)
    records = remote.run([request(31, max_tokens=400)])
    next(records)
    remote.close()
    with pytest.raises(Cancelled):
        list(records)
    worker.call(lambda: None)
    log = worker.engine.log
    cancelled = next(place for place, (what, _) in enumerate(log) if what == "cancel")
    assert not any(what == "pass" and 0 in who for what, who in log[cancelled:])
    assert not worker.engine.scheduler.taken
    with pytest.raises(Cancelled):
        [*remote.run([request(31)])]


def test_a_generator_that_is_dropped_frees_its_slot(worker: Worker) -> None:
    records = EngineProxy(worker).run([request(31, max_tokens=400)])
    next(records)
    records.close()
    worker.call(lambda: None)
    assert worker.call(lambda: len(worker.engine.scheduler.taken)) == 0


class Panic(BaseException):
    """What a Rust library's panic looks like from Python."""


@pytest.mark.parametrize("where", ["advance", "submit", "call"])
def test_what_is_no_exception_costs_only_who_caused_it(
    worker: Worker, model: dgemma.Model, monkeypatch: Any, where: str
) -> None:
    good = results(Engine(model.net).run([request(30)]), 1)[0]
    if where == "advance":
        worker.engine.error = Panic("secret")  # type: ignore[assignment]
        found, bad = in_threads(worker, [request(30), request(POISON)])
        assert (
            found == good
            and isinstance(bad, WorkerError)
            and "Panic" in str(bad)
            and "secret" not in str(bad)
        )
    elif where == "submit":
        with monkeypatch.context() as broken:
            broken.setattr(worker.engine, "submit", lambda request: (_ for _ in ()).throw(Panic("secret")))
            with pytest.raises(WorkerError, match="Panic"):
                [*EngineProxy(worker).run([request(31)])]
    else:
        with pytest.raises(Panic):
            worker.call(lambda: (_ for _ in ()).throw(Panic("secret")))
    assert in_threads(worker, [request(30)]) == [good]
    assert worker.fault is None and worker.running


def test_a_lost_device_ends_the_thread_and_everybody_learns_of_it(worker: Worker) -> None:
    waiting = EngineProxy(worker).run([request(31, max_tokens=400)])
    next(waiting)
    worker.call(
        lambda: setattr(worker.engine, "_pass", lambda readers: (_ for _ in ()).throw(RuntimeError("secret")))
    )
    for answer in (waiting, EngineProxy(worker).run([request(30)])):
        with pytest.raises(DgemmaError, match="RuntimeError") as caught:
            list(answer)
        assert "secret" not in str(caught.value)
    worker._thread.join(60)
    assert not worker.running and isinstance(worker.fault, DeviceError)
    with pytest.raises(DeviceError):
        worker.call(lambda: None)
    with pytest.raises(DeviceError):
        [*EngineProxy(worker).run([request(32)])]


def test_memory_that_others_took_is_no_lost_device(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    good = in_threads(worker, [request(30)])
    with monkeypatch.context() as broken:
        broken.setattr(worker.engine, "_pass", lambda readers: (_ for _ in ()).throw(MemoryError))
        assert isinstance(in_threads(worker, [request(31)])[0], ResourceError)
    assert in_threads(worker, [request(30)]) == good and worker.fault is None


def test_a_pass_that_does_not_end_is_seen(worker: Worker) -> None:
    held, begun = threading.Event(), threading.Event()
    assert worker.at_work_for == 0

    def hangs() -> None:
        begun.set()
        held.wait(60)

    asked = threading.Thread(target=worker.call, args=(hangs,))
    asked.start()
    assert begun.wait(60)
    first = worker.at_work_for
    assert 0 < first < worker.at_work_for
    held.set()
    asked.join(60)
    in_threads(worker, [request(30)])
    worker.call(lambda: None)
    while worker.at_work_for:
        threading.Event().wait(0.01)


def test_calls_of_one_client_do_not_keep_another_s_passes_waiting(worker: Worker) -> None:
    """Between two passes each client has one call; a client that is alone has all of its own."""
    log: list[str] = []
    held, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        held.wait(60)

    blocked = threading.Thread(target=worker.call, args=(hold,))
    blocked.start()
    assert begun.wait(60)  # or the others could come before it, and be taken out of the inbox with it
    asking = [
        threading.Thread(target=worker.call, args=(log.append, name), kwargs={"client": name})
        for name in ["a"] * 5 + ["b"] * 2
    ]
    for thread in asking:
        thread.start()
    while worker._inbox.qsize() < 7:
        threading.Event().wait(0.01)
    held.set()
    for thread in (blocked, *asking):
        thread.join(60)
    assert sorted(log[:4]) == ["a", "a", "b", "b"] and log[4:] == ["a"] * 3


def test_calls_run_on_the_thread_and_their_errors_come_back(worker: Worker) -> None:
    assert worker.call(threading.get_ident) == worker._thread.ident
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0)
    remote = EngineProxy(worker)
    assert remote.do(lambda: remote.do(threading.get_ident)) == worker._thread.ident
    assert by_turns(remote, remote.read([2, 30, 31])).length == 3


def test_who_makes_passes_of_its_own_takes_turns(worker: Worker) -> None:
    answered, turns, found = threading.Event(), [], []

    def work(enough: Callable[[], bool]) -> Iterator[None]:
        for turn in range(100_000):
            turns.append(turn)
            if enough():
                return turn
            yield
        pytest.fail("nobody else had a turn")

    def other() -> None:
        found.extend(in_threads(worker, [request(30)]))
        answered.set()

    asked = threading.Thread(target=other)
    asked.start()
    assert by_turns(EngineProxy(worker), work(answered.is_set)) == turns[-1] > 0
    asked.join(60)
    assert isinstance(found[0], Result)
    remote, before = EngineProxy(worker), len(turns)
    with pytest.raises(Cancelled):  # nobody is there any more
        by_turns(remote, work(lambda: remote.close() if len(turns) == before + 3 else None))
    assert len(turns) == before + 3


def test_what_nobody_watches_is_told_by_commits_alone(worker: Worker, model: dgemma.Model) -> None:
    seen = [*EngineProxy(worker, watched=False).run([request(31, max_tokens=36)])]
    commits = [
        record
        for record in Engine(model.net).run([request(31, max_tokens=36)])
        if isinstance(record, CommitRecord)
    ]
    assert seen[1:] == commits and (seen[0].canvas, seen[0].step) == (0, 1) and len(commits) == 3


def test_limits_of_the_service_hold_beside_the_engines(worker: Worker) -> None:
    remote = EngineProxy(worker, max_prompt_tokens=3)
    with pytest.raises(UsageError, match="max_prompt_tokens is 3"):
        remote.check(request(1, 2, 3))
    remote.check(request(1, 2))


def test_tenants_do_not_share_what_was_read(model: dgemma.Model) -> None:
    worker = Worker(Recording(model.net))
    worker.start()
    prompt = tuple(range(100, 160))
    for cache_salt in ("a", "a", "b"):
        [*EngineProxy(worker, cache_salt).run([request(*prompt)])]
    worker.stop()
    assert {sequence.cache_salt for sequence in worker.engine.scheduler.prefixes.cached} == {"a", "b"}


def test_the_end_wakes_whoever_waits(model: dgemma.Model) -> None:
    worker = Worker(Recording(model.net))
    worker.start()
    records = EngineProxy(worker).run([request(31, max_tokens=400)])
    next(records)
    worker.stop()
    with pytest.raises(Cancelled):
        while True:
            next(records)
