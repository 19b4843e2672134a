"""The one thread that owns the device: passes that fail, clients that leave, and who touches what from where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dgemma
from dgemma.config import DenoiseConfig
from dgemma.engine.engine import Engine, by_turns
from dgemma.engine.requests import CommitRecord, Request, Result, results
from dgemma.errors import DeviceError, DgemmaError, ResourceError, UsageError
from dgemma.server.worker import Cancelled, Remote, Worker, WorkerError

POISON = 77  # a token that breaks the pass that reads it


class Recording(Engine):
    """An engine that notes its passes, and breaks on a prompt that holds POISON."""

    error: Exception = MemoryError("a prompt's text")

    def __init__(self, model: Any):
        super().__init__(model)
        self.log: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def advance(self) -> None:
        self.threads.add(threading.get_ident())
        super().advance()
        self.log.append(("pass", [slot.ticket for slot in self.slots.taken]))
        if any(POISON in slot.request.prompt_ids for slot in self.slots.taken):
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
    """Each request by a Remote on a thread of its own, as the service runs them."""
    found: list[Any] = [None] * len(asked)

    def run(place: int) -> None:
        try:
            found[place] = results(Remote(worker).run([asked[place]]), 1)[0]
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
    assert not worker.engine.slots.taken and worker.waiting == 0


def test_nothing_is_told_twice_after_a_failed_pass(worker: Worker, model: dgemma.Model) -> None:
    """A long answer that has told some canvases already is run again behind them."""
    long, told = request(31, max_tokens=96), []
    records = Remote(worker).run([long])
    while sum(isinstance(record, CommitRecord) for record in told) < 2:
        told.append(next(records))
    assert isinstance(in_threads(worker, [request(POISON)])[0], ResourceError)
    told += records
    want = [record for record in Engine(model.net).run([long]) if isinstance(record, CommitRecord)]
    assert [record for record in told if isinstance(record, CommitRecord)] == want


def test_a_second_attempt_that_differs_is_an_error(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    records, commits = Remote(worker).run([request(31, max_tokens=96)]), []
    while len(commits) < 2:
        commits += [record for record in [next(records)] if isinstance(record, CommitRecord)]
    worker.call(lambda: [entry.commits[0].reverse() for entry in worker._entries.values()])
    in_threads(worker, [request(POISON)])
    with pytest.raises(WorkerError, match="ask again"):
        list(records)


def test_who_leaves_is_gone_before_the_next_pass(worker: Worker) -> None:
    remote = Remote(worker)
    records = remote.run([request(31, max_tokens=400)])
    next(records)
    remote.close()
    with pytest.raises(Cancelled):
        list(records)
    worker.call(lambda: None)
    log = worker.engine.log
    cancelled = next(place for place, (what, _) in enumerate(log) if what == "cancel")
    assert not any(what == "pass" and 0 in who for what, who in log[cancelled:])
    assert not worker.engine.slots.taken
    with pytest.raises(Cancelled):
        [*remote.run([request(31)])]


def test_a_generator_that_is_dropped_frees_its_slot(worker: Worker) -> None:
    records = Remote(worker).run([request(31, max_tokens=400)])
    next(records)
    records.close()
    worker.call(lambda: None)
    assert worker.call(lambda: len(worker.engine.slots.taken)) == 0


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
                [*Remote(worker).run([request(31)])]
    else:
        with pytest.raises(Panic):
            worker.call(lambda: (_ for _ in ()).throw(Panic("secret")))
    assert in_threads(worker, [request(30)]) == [good]
    assert worker.fault is None and worker.running


def test_a_lost_device_ends_the_thread_and_everybody_learns_of_it(worker: Worker) -> None:
    waiting = Remote(worker).run([request(31, max_tokens=400)])
    next(waiting)
    worker.call(
        lambda: setattr(worker.engine, "_pass", lambda readers: (_ for _ in ()).throw(RuntimeError("secret")))
    )
    for answer in (waiting, Remote(worker).run([request(30)])):
        with pytest.raises(DgemmaError, match="RuntimeError") as caught:
            list(answer)
        assert "secret" not in str(caught.value)
    worker._thread.join(60)
    assert not worker.running and isinstance(worker.fault, DeviceError)
    with pytest.raises(DeviceError):
        worker.call(lambda: None)
    with pytest.raises(DeviceError):
        [*Remote(worker).run([request(32)])]


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
    held = threading.Event()
    blocked = threading.Thread(target=worker.call, args=(held.wait, 60))
    blocked.start()
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
    remote = Remote(worker)
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
    assert by_turns(Remote(worker), work(answered.is_set)) == turns[-1] > 0
    asked.join(60)
    assert isinstance(found[0], Result)
    remote, before = Remote(worker), len(turns)
    with pytest.raises(Cancelled):  # nobody is there any more
        by_turns(remote, work(lambda: remote.close() if len(turns) == before + 3 else None))
    assert len(turns) == before + 3


def test_what_nobody_watches_is_told_by_commits_alone(worker: Worker, model: dgemma.Model) -> None:
    seen = [*Remote(worker, watched=False).run([request(31, max_tokens=36)])]
    commits = [
        record
        for record in Engine(model.net).run([request(31, max_tokens=36)])
        if isinstance(record, CommitRecord)
    ]
    assert seen[1:] == commits and (seen[0].canvas, seen[0].step) == (0, 1) and len(commits) == 3


def test_limits_of_the_service_hold_beside_the_engines(worker: Worker) -> None:
    remote = Remote(worker, max_prompt_tokens=3)
    with pytest.raises(UsageError, match="max_prompt_tokens is 3"):
        remote.check(request(1, 2, 3))
    remote.check(request(1, 2))


def test_tenants_do_not_share_what_was_read(model: dgemma.Model) -> None:
    worker = Worker(Recording(model.net))
    worker.start()
    prompt = tuple(range(100, 160))
    for salt in ("a", "a", "b"):
        [*Remote(worker, salt).run([request(*prompt)])]
    worker.stop()
    assert {sequence.salt for sequence in worker.engine.slots.prefixes.cached} == {"a", "b"}


def test_the_end_wakes_whoever_waits(model: dgemma.Model) -> None:
    worker = Worker(Recording(model.net))
    worker.start()
    records = Remote(worker).run([request(31, max_tokens=400)])
    next(records)
    worker.stop()
    with pytest.raises(Cancelled):
        while True:
            next(records)
