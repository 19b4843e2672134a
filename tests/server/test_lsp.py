"""The language server: a session fed by a fake of its gaps, the model's gaps, a running service's, and the process as an editor starts it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgemma
from dgemma.errors import Cancelled, UsageError
from dgemma.server.lsp.frames import MOST_BYTES, Malformed, read_message
from dgemma.server.lsp.loaded import Loaded
from dgemma.server.lsp.service import Service
from dgemma.server.lsp.session import Filler, Session
from tests.server.test_http import Live, live  # noqa: F401  (a fixture)

URI, CANARY = "file:///a.py", "canary4471"
TEXT = f"import os\r\n\r\ndef {CANARY}(path):\r\n    \r\nprint('😀', 1)\r\n"
COMPLETION = "textDocument/inlineCompletion"


class Editor:
    """The other end of a session: it writes frames and reads them."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]):
        self.source, self.sink, self.last = source, sink, 0

    def send(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0"} | message).encode()
        self.raw(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def raw(self, data: bytes) -> None:
        self.sink.write(data)
        self.sink.flush()

    def ask(self, method: str, params: Any = None) -> int:
        self.last += 1
        self.send(id=self.last, method=method, params=params)
        return self.last

    def tell(self, method: str, params: Any = None) -> None:
        self.send(method=method, params=params)

    def read(self) -> Any:
        return read_message(self.source)

    def begin(self, text: str = TEXT) -> Editor:
        number = self.ask("initialize", {"capabilities": {}})
        assert self.read()["id"] == number
        self.tell("initialized", {})
        self.tell(
            "textDocument/didOpen",
            {"textDocument": {"uri": URI, "languageId": "python", "version": 1, "text": text}},
        )
        return self

    def complete(self, line: int, character: int, **context: Any) -> int:
        place = {"line": line, "character": character}
        return self.ask(
            COMPLETION,
            {"textDocument": {"uri": URI}, "position": place, "context": {"triggerKind": 2, **context}},
        )

    def texts(self) -> list[str]:
        return [item["insertText"] for item in self.read()["result"]]


class FakeGap:
    """Answers with what stands around it, once it is let go."""

    def __init__(self, prefix: str, suffix: str):
        self.around, self.free, self.cancelled = (prefix, suffix), threading.Event(), False

    def texts(self) -> list[str]:
        assert self.free.wait(20)
        if self.cancelled:
            raise Cancelled
        if "broken" in self.around[0]:
            raise UsageError("nobody answers") if "told" in self.around[0] else RuntimeError(self.around[0])
        return ["first", " \n", "second", "first"]

    def cancel(self) -> None:
        self.cancelled = True
        self.free.set()


@pytest.fixture
def editor() -> Iterator[Callable[[Filler], Editor]]:
    """editor(fill): one that speaks to a session of its own, which must have ended with 0 at the end."""
    begun: list[tuple[Editor, threading.Thread, list[int]]] = []

    def start(fill: Filler) -> Editor:
        (out, write), (read, back) = os.pipe(), os.pipe()
        codes: list[int] = []

        def serve() -> None:
            with os.fdopen(out, "rb") as source, os.fdopen(back, "wb", buffering=0) as sink:
                codes.append(Session(fill, source, sink).run())

        begun.append(
            (Editor(os.fdopen(read, "rb"), os.fdopen(write, "wb")), threading.Thread(target=serve), codes)
        )
        begun[-1][1].start()
        return begun[-1][0]

    yield start
    for found, thread, codes in begun:
        with found.source, found.sink:
            found.ask("shutdown")
            found.tell("exit")
            thread.join(20)
        assert codes == [0]


@pytest.fixture
def fake(editor: Callable[[Filler], Editor]) -> tuple[Editor, list[FakeGap]]:
    gaps: list[FakeGap] = []

    def fill(prefix: str, suffix: str) -> FakeGap:
        gaps.append(FakeGap(prefix, suffix))
        return gaps[-1]

    return editor(fill).begin(), gaps


def wait_for(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_gap_is_asked_for_around_the_cursor(fake: tuple[Editor, list[FakeGap]]) -> None:
    editor, gaps = fake
    number = editor.complete(4, 9)
    wait_for(lambda: gaps)
    assert gaps[0].around == (f"import os\n\ndef {CANARY}(path):\n    \nprint('😀", "', 1)\n")
    gaps[0].free.set()
    place = {"line": 4, "character": 9}
    items = [{"insertText": text, "range": {"start": place, "end": place}} for text in ("first", "second")]
    assert editor.read() == {"jsonrpc": "2.0", "id": number, "result": items}


def test_what_the_editors_menu_chose_stands_before_the_gap(fake: tuple[Editor, list[FakeGap]]) -> None:
    editor, gaps = fake
    span = {"start": {"line": 4, "character": 0}, "end": {"line": 4, "character": 5}}
    editor.complete(4, 3, selectedCompletionInfo={"range": span, "text": "pprint"})
    wait_for(lambda: gaps)
    assert gaps[0].around[0].endswith("    \npprint") and gaps[0].around[1] == "('😀', 1)\n"
    gaps[0].free.set()
    assert editor.read()["result"][0] == {"insertText": "pprintfirst", "range": span}


def test_a_cancel_is_answered_at_once(fake: tuple[Editor, list[FakeGap]]) -> None:
    editor, gaps = fake
    number = editor.complete(3, 4)
    editor.tell("$/cancelRequest", {"id": number})
    assert editor.read()["error"]["code"] == -32800
    wait_for(lambda: gaps[0].cancelled)
    for params in (None, {"id": number}, {"id": [1]}, {"id": 99}):
        editor.tell("$/cancelRequest", params)


def test_newer_requests_changes_and_closing_supersede(fake: tuple[Editor, list[FakeGap]]) -> None:
    editor, gaps = fake
    first, second = editor.complete(3, 4), editor.complete(3, 4)
    assert editor.read() == {"jsonrpc": "2.0", "id": first, "result": None}
    change = {
        "range": {"start": {"line": 3, "character": 4}, "end": {"line": 3, "character": 4}},
        "text": "re",
    }
    editor.tell(
        "textDocument/didChange",
        {"textDocument": {"uri": URI, "version": 2}, "contentChanges": [change, change]},
    )
    assert editor.read() == {"jsonrpc": "2.0", "id": second, "result": None}
    wait_for(lambda: gaps[0].cancelled and gaps[1].cancelled)
    third = editor.complete(3, 8)
    wait_for(lambda: len(gaps) == 3)
    assert gaps[2].around[0].endswith("    rere")
    editor.tell(
        "textDocument/didOpen", {"textDocument": {"uri": "file:///b.py", "text": ""}}
    )  # another one is left alone
    editor.tell("textDocument/didClose", {"textDocument": {"uri": URI}})
    assert editor.read() == {"jsonrpc": "2.0", "id": third, "result": None}
    editor.complete(3, 8)
    assert editor.read()["result"] is None  # it is not open


def test_a_change_that_cannot_be_followed_forgets_the_document(fake: tuple[Editor, list[FakeGap]]) -> None:
    editor, gaps = fake
    editor.tell(
        "textDocument/didChange",
        {"textDocument": {"uri": URI}, "contentChanges": [{"text": "x"}, {"text": "y", "range": 3}]},
    )
    editor.complete(0, 0)
    assert editor.read()["result"] is None
    editor.tell("textDocument/didOpen", {"textDocument": {"uri": URI, "text": "z"}})
    editor.tell(
        "textDocument/didChange", {"textDocument": {"uri": URI}, "contentChanges": [{"text": "whole"}]}
    )
    editor.complete(0, 5)
    wait_for(lambda: gaps)
    assert gaps[0].around == ("whole", "")


def test_errors_are_told_once_and_faults_without_text(fake: tuple[Editor, list[FakeGap]]) -> None:
    editor, gaps = fake

    def broken(text: str) -> Any:
        editor.tell(
            "textDocument/didChange", {"textDocument": {"uri": URI}, "contentChanges": [{"text": text}]}
        )
        editor.complete(0, 99)
        wait_for(lambda: gaps and gaps[-1].around[0] == text)
        gaps[-1].free.set()
        return editor.read()

    assert broken("told broken")["error"] == {"code": -32803, "message": "nobody answers"}
    assert editor.read() == {
        "jsonrpc": "2.0",
        "method": "window/showMessage",
        "params": {"type": 1, "message": "dgemma: nobody answers"},
    }
    assert broken("told again, broken")["error"]["code"] == -32803  # and no message behind it:
    fault = broken(f"{CANARY} broken")["error"]
    assert fault["code"] == -32603 and CANARY not in fault["message"]


def test_what_is_no_request_of_ours(fake: tuple[Editor, list[FakeGap]]) -> None:
    editor, _ = fake
    for method, params, code in (
        ("textDocument/hover", {}, -32601), ("initialize", {}, -32600), (COMPLETION, None, -32602), (COMPLETION, {"textDocument": 3}, -32602),
        (COMPLETION, {"textDocument": {"uri": URI}, "position": {"line": -1, "character": 0}}, -32602),
    ):  # fmt: skip
        number = editor.ask(method, params)
        found = editor.read()
        assert (found["id"], found["error"]["code"]) == (number, code)
    editor.tell("textDocument/didSave", {})
    editor.send(id=7, result=None)  # an answer to nothing
    for body in ({"id": [1], "method": "shutdown"}, {"id": True, "method": "shutdown"}, {"id": 1}):
        editor.send(**body)
        assert editor.read()["error"]["code"] == -32600
    for raw, code in (
        (b"[]", -32600),
        (b"{", -32700),
        (b"\xff\xff", -32700),
        (b"[" * 10**5, -32700),
        (b'"x"', -32600),
    ):
        editor.raw(b"content-length:%d\r\n\r\n%s" % (len(raw), raw))
        assert editor.read()["error"]["code"] == code
    editor.raw(b"no header\r\nContent-Length: many\r\n\r\n")
    assert editor.read()["error"]["code"] == -32700
    editor.complete(99, 0)
    editor.complete(99, 0)
    assert editor.read()["result"] is None  # it is all there still


def run(data: bytes) -> tuple[int, list[Any]]:
    """The exit code of a session that is fed these bytes, and what it said."""
    sink = io.BytesIO()
    code = Session(lambda prefix, suffix: FakeGap(prefix, suffix), io.BytesIO(data), sink).run()
    told, source = [], io.BytesIO(sink.getvalue())
    try:
        while True:
            told.append(read_message(source))
    except EOFError:
        return code, told


def framed(*messages: Any) -> bytes:
    bodies = [json.dumps(message).encode() for message in messages]
    return b"".join(b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies)


def test_the_order_of_a_session() -> None:
    shutdown, leave = {"id": 2, "method": "shutdown"}, {"method": "exit"}
    code, told = run(
        framed(
            {"id": 1, "method": "shutdown"},
            {"id": 1, "method": "initialize"},
            shutdown,
            {"id": 3, "method": COMPLETION},
            leave,
        )
    )
    assert code == 0 and [message.get("error", {}).get("code") for message in told] == [
        -32002,
        None,
        None,
        -32600,
    ]
    assert told[1]["result"]["capabilities"]["inlineCompletionProvider"] is True
    assert (
        run(framed({"id": 1, "method": "initialize"}, leave))[0]
        == run(framed(leave))[0]
        == run(b"")[0]
        == run(b"Content-Length: 9")[0]
        == 1
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
PARAMS = st.fixed_dictionaries({}, optional={
    "textDocument": st.fixed_dictionaries({}, optional={"uri": st.just(URI) | JSON, "text": st.text(max_size=9) | JSON}) | JSON,
    "position": st.fixed_dictionaries({"line": st.integers(-1, 3) | JSON, "character": st.integers(-1, 9) | JSON}) | JSON,
    "contentChanges": st.lists(st.fixed_dictionaries({"text": st.text(max_size=5) | JSON}, optional={"range": JSON}), max_size=2) | JSON,
    "context": st.fixed_dictionaries({}, optional={"selectedCompletionInfo": JSON}) | JSON, "id": JSON,
})  # fmt: skip
METHODS = st.sampled_from(
    [
        "initialize",
        "$/cancelRequest",
        COMPLETION,
        *(f"textDocument/did{name}" for name in ("Open", "Change", "Close")),
    ]
)
MESSAGES = st.fixed_dictionaries(
    {}, optional={"id": st.integers(0, 9) | JSON, "method": METHODS | JSON, "params": PARAMS | JSON}
)
FRAMES = st.lists(MESSAGES.map(framed) | st.binary(max_size=20) | JSON.map(framed), max_size=8).map(b"".join)


@given(FRAMES)
def test_nothing_ends_a_session_but_its_stream(data: bytes) -> None:
    code, told = run(framed({"id": -1, "method": "initialize"}) + data)
    assert code == 1 and all(
        ("result" in message) != ("error" in message) for message in told if "id" in message
    )


def test_an_overlong_message_is_read_away() -> None:
    body = b" " * (MOST_BYTES + 1)
    source = io.BytesIO(b"Content-Length: %d\r\n\r\n%s%s" % (len(body), body, framed(3)))
    with pytest.raises(Malformed, match="more than"):
        read_message(source)
    assert read_message(source) == 3


def test_the_models_gaps(editor: Callable[[Filler], Editor], fresh: dgemma.Model) -> None:
    want = fresh.fill("def f():\n  re", "\nx = 1\n", seed=5, widths=[1, 3])
    filler = Loaded(lambda: fresh, longest=3, seed=5)
    found = editor(filler).begin("def f():\n  re\nx = 1\n")
    found.complete(1, 4)
    expected = [text for text in dict.fromkeys([want.text, *want.candidates]) if text.strip()]
    assert expected and found.texts() == expected
    filler.close()


def test_a_cancelled_gap_frees_its_slots_before_the_next_pass(
    editor: Callable[[Filler], Editor], fresh: dgemma.Model
) -> None:
    begun, go_on, passes = threading.Event(), threading.Event(), []
    advance = fresh.engine.advance

    def slow() -> None:
        passes.append(len(fresh.engine.scheduler.taken))
        begun.set()
        assert go_on.wait(20)
        advance()

    fresh.engine.advance = slow  # type: ignore[method-assign]
    filler = Loaded(lambda: fresh, max_denoising_steps=500, stability_threshold=500)
    found = editor(filler).begin()
    number = found.complete(3, 4)
    assert begun.wait(20)
    found.tell("$/cancelRequest", {"id": number})
    assert found.read()["error"]["code"] == -32800  # while its pass is still going on
    time.sleep(0.1)
    go_on.set()
    wait_for(lambda: fresh.engine.idle)
    assert (
        not fresh.engine.scheduler.taken and len(passes) <= 2
    )  # the one that was under way, and one that may have begun
    filler.close()


def test_a_model_that_cannot_be_loaded_is_told(editor: Callable[[Filler], Editor]) -> None:
    def load() -> dgemma.Model:
        raise MemoryError(CANARY)

    found = editor(Loaded(load)).begin()
    found.complete(3, 4)
    error = found.read()["error"]
    assert (
        error["code"] == -32803
        and error["message"].startswith("out of memory")
        and found.read()["method"] == "window/showMessage"
    )


def test_a_services_gaps(
    editor: Callable[[Filler], Editor],
    live: Callable[..., Live],  # noqa: F811
    model: dgemma.Model,
) -> None:
    service = live(keys=("one",))
    want = model.fill("def f():\n  re", "\nx = 1\n", seed=5, widths=[1, 3])
    found = editor(Service(service.url, "one", longest=3, seed=5)).begin("def f():\n  re\nx = 1\n")
    found.complete(1, 4)
    assert found.texts() == [text for text in dict.fromkeys([want.text, *want.candidates]) if text.strip()]
    denied = editor(Service(service.url, "two")).begin()
    denied.complete(3, 4)
    assert "key" in denied.read()["error"]["message"]


def test_a_service_learns_that_nobody_waits(
    editor: Callable[[Filler], Editor],
    live: Callable[..., Live],  # noqa: F811
) -> None:
    service = live()
    found = editor(Service(service.url, max_denoising_steps=1000, stability_threshold=999)).begin()
    first = found.complete(3, 4)
    wait_for(lambda: service.open)
    found.complete(3, 4)
    assert found.read() == {"jsonrpc": "2.0", "id": first, "result": None}
    found.tell("textDocument/didClose", {"textDocument": {"uri": URI}})
    assert found.read()["result"] is None
    wait_for(lambda: not service.open)


def test_a_service_that_is_not_there(editor: Callable[[Filler], Editor]) -> None:
    found = editor(Service("http://127.0.0.1:9")).begin()
    found.complete(3, 4)
    assert "http://127.0.0.1:9 cannot be asked" in found.read()["error"]["message"]
    for url in ("127.0.0.1:9", "ftp://a", "http://", "http://a:b"):
        with pytest.raises(UsageError, match="no address"):
            Service(url)


@pytest.fixture
def process() -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Editor]]]:
    begun: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> tuple[subprocess.Popen[bytes], Editor]:
        pipe = subprocess.PIPE
        begun.append(
            subprocess.Popen(
                [sys.executable, "-m", "dgemma.cli.main", "lsp", *flags], stdin=pipe, stdout=pipe, stderr=pipe
            )
        )
        assert begun[-1].stdout and begun[-1].stdin
        return begun[-1], Editor(begun[-1].stdout, begun[-1].stdin)

    yield start
    for one in begun:
        with one:
            one.kill()


def test_the_process_with_the_shipped_model(
    process: Callable[..., tuple[subprocess.Popen[bytes], Editor]],
) -> None:
    prefix, suffix = "def area(r):\n    return 3.14 * ", "\n\nprint(area(2))\n"
    want = dgemma.load().fill(prefix, suffix, widths=[8])
    running, editor = process("--stdio", "--max-tokens", "8")
    editor.begin("")
    change = {
        "range": {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 0}},
        "text": prefix + suffix,
    }
    editor.tell(
        "textDocument/didChange", {"textDocument": {"uri": URI, "version": 2}, "contentChanges": [change]}
    )
    editor.complete(1, 18)
    assert editor.texts() == [want.text]
    editor.raw(b"Content-Length: 3\r\n\r\nabc")
    assert editor.read()["error"]["code"] == -32700
    number = editor.complete(1, 18)
    editor.tell("$/cancelRequest", {"id": number})
    assert editor.read()["id"] == number
    editor.ask("shutdown")
    assert editor.read()["result"] is None
    editor.tell("exit")
    assert running.wait(60) == 0 and running.stdout and running.stdout.read() == b""
    assert running.stderr and "area" not in running.stderr.read().decode()


def test_the_process_leaves_while_its_model_is_loading(
    process: Callable[..., tuple[subprocess.Popen[bytes], Editor]],
) -> None:
    running, editor = process()
    editor.begin().complete(3, 4)
    assert running.stdin and running.stderr
    running.stdin.close()
    assert running.wait(60) == 1 and b"Error" not in running.stderr.read()


def test_flags_that_contradict(process: Callable[..., tuple[subprocess.Popen[bytes], Editor]]) -> None:
    running, _ = process("--url", "http://127.0.0.1:9", "--model", "x")
    assert (
        running.wait(60) == 2
        and running.stderr
        and b"--model is of the service's choosing" in running.stderr.read()
    )
