"""One editor's session: reads its messages in turn, keeps its documents, and has gaps filled where its cursor
stands.

    Filler     who fills a gap: a model in this process (loaded.py), or a running service (service.py)
    Session    the methods. Completions run on a thread each and are answered once: by their gap, by a cancel,
               or by what supersedes them

A newer request for a document, and a change of it, supersede the one at work, whose answer (null) nobody
could use; its slot is free before the next pass. Refuses to log: what an editor sends is somebody's text.
Trap: `insertText` has "\\n" alone, also in documents of other line ends; editors put in their own, and Neovim
would keep a "\\r".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from ... import __version__
from ...errors import Cancelled, DgemmaError
from .documents import Document, InvalidParams, get, shown
from .frames import Malformed, Writer, read_message

PARSE = -32700
INVALID_REQUEST = -32600
NO_METHOD = -32601
INVALID_PARAMS = -32602
INTERNAL = -32603
NOT_INITIALIZED = -32002
CANCELLED = -32800
FAILED = -32803
# characters around a gap that may be read: more than any model here reads of them
PREFIX = 2**16
SUFFIX = 2**14
ERROR = 1  # of window/showMessage
CAPABILITIES = {
    "positionEncoding": "utf-16",
    "textDocumentSync": {"openClose": True, "change": 2},  # 2: incremental; the whole text is taken as well
    "inlineCompletionProvider": True,
}


class Gap(Protocol):
    """A gap that is being filled."""

    def texts(self) -> list[str]:
        """Wait for what may stand there, best first.

        Raises Cancelled, and a DgemmaError that says what is wrong.
        """

    def cancel(self) -> None:
        """Stop, from any thread."""


Filler = Callable[[str, str], Gap]  # of the text before and behind it


@dataclass(eq=False)
class Pending:
    """A completion at work."""

    id: int | str
    uri: str
    gap: Gap


class Refused(Exception):
    """A request that gets an error."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class Session:
    """Reads `source` until it ends or says exit; answers on `sink`."""

    def __init__(self, fill: Filler, source: IO[bytes], sink: IO[bytes]):
        self._fill = fill
        self._source = source
        self._writer = Writer(sink)
        self._documents: dict[str, Document] = {}
        self._pending: dict[int | str, Pending] = {}
        self._lock = threading.Lock()
        self._initialized = False
        self._shut_down = False
        self._shown_error = ""  # the last one
        self._requests: dict[str, Callable[[Any], Any]] = {
            "initialize": self._initialize,
            "shutdown": self._shutdown,
        }
        self._notifications: dict[str, Callable[[Any], None]] = {
            "textDocument/didOpen": self._open,
            "textDocument/didChange": self._change,
            "textDocument/didClose": self._close,
            "$/cancelRequest": self._cancel,
        }

    def run(self) -> int:
        """-> the exit code: 0 where the editor said shutdown and then exit, 1 where it went away."""
        while True:
            try:
                message = read_message(self._source)
            except Malformed as error:
                self._error(None, PARSE, str(error))
                continue
            except EOFError:
                return self._leave(1)
            if isinstance(message, dict) and message.get("method") == "exit":
                return self._leave(0 if self._shut_down else 1)
            self._take(message)

    def _leave(self, code: int) -> int:
        for pending in self._at_work():
            pending.gap.cancel()
        return code

    def _take(self, message: Any) -> None:
        if _is_answer(message):
            return  # to what we never asked
        method = None
        if isinstance(message, dict):
            method = message.get("method")
        if not isinstance(method, str):
            self._error(None, INVALID_REQUEST, "a message has no method")
            return
        params = message.get("params")
        if "id" in message:
            self._request(message["id"], method, params)
        elif self._initialized and not self._shut_down and method in self._notifications:
            try:
                self._notifications[method](params)
            except InvalidParams:
                pass  # nobody to tell; `_change` has forgotten what it could not follow

    def _request(self, number: Any, method: str, params: Any) -> None:
        if not isinstance(number, int | str) or isinstance(number, bool):
            self._error(None, INVALID_REQUEST, "a request's id is a number or a text")
            return
        try:
            if self._shut_down or (method == "initialize" and self._initialized):
                raise Refused(INVALID_REQUEST, f"'{method:.40}' cannot be asked for any more")
            if not self._initialized and method != "initialize":
                raise Refused(NOT_INITIALIZED, "the first request is initialize")
            if method == "textDocument/inlineCompletion":
                self._complete(number, params)
            elif method in self._requests:
                self._result(number, self._requests[method](params))
            else:
                raise Refused(NO_METHOD, f"there is no method '{method:.40}' here")
        except Refused as error:
            self._error(number, error.code, error.message)
        except InvalidParams as error:
            self._error(number, INVALID_PARAMS, str(error))

    # the methods

    def _initialize(self, params: Any) -> dict[str, Any]:
        self._initialized = True
        return {"capabilities": CAPABILITIES, "serverInfo": {"name": "dgemma", "version": __version__}}

    def _shutdown(self, params: Any) -> None:
        self._shut_down = True
        self._supersede(None)
        self._documents.clear()

    def _open(self, params: Any) -> None:
        item = get(params, "textDocument", dict)
        uri = get(item, "uri", str)
        self._supersede(uri)
        self._documents[uri] = Document(get(item, "text", str))

    def _change(self, params: Any) -> None:
        uri = get(get(params, "textDocument", dict), "uri", str)
        self._supersede(uri)
        document = self._documents.pop(uri, None)
        if document is None:
            return
        for change in get(params, "contentChanges", list):
            document.change(change)
        # only now: one whose changes could not be followed is forgotten until it is opened again
        self._documents[uri] = document

    def _close(self, params: Any) -> None:
        uri = get(get(params, "textDocument", dict), "uri", str)
        self._supersede(uri)
        self._documents.pop(uri, None)

    def _cancel(self, params: Any) -> None:
        number = None
        if isinstance(params, dict):
            number = params.get("id")
        pending = None
        if isinstance(number, int | str):
            pending = self._pending.get(number)
        if pending is not None and self._settle(pending, error=(CANCELLED, "cancelled")):
            pending.gap.cancel()

    def _complete(self, number: int | str, params: Any) -> None:
        uri = get(get(params, "textDocument", dict), "uri", str)
        if number in self._pending:
            raise Refused(INVALID_REQUEST, "a request with this id is at work")
        self._supersede(uri)
        document = self._documents.get(uri)
        if document is None:
            self._result(number, None)
            return
        position = get(params, "position", dict)
        document.offset(position)  # judges it, also where it is not the place
        span = {"start": position, "end": position}
        chosen = ""
        context = params.get("context")
        if isinstance(context, dict) and context.get("selectedCompletionInfo") is not None:
            # what the editor's own menu has chosen stands before the gap, in place of the text that it
            # replaces
            info = get(context, "selectedCompletionInfo", dict)
            span = get(info, "range", dict)
            chosen = get(info, "text", str)
        start, end = document.span(span)
        prefix = shown(document.text[max(0, start - PREFIX) : start] + chosen)
        suffix = shown(document.text[end : end + SUFFIX])
        if not prefix and not suffix:
            self._result(number, [])
            return
        pending = Pending(number, uri, self._fill(prefix, suffix))
        with self._lock:
            self._pending[number] = pending
        threading.Thread(target=self._wait, args=(pending, chosen, span), daemon=True).start()

    def _wait(self, pending: Pending, chosen: str, span: dict[str, Any]) -> None:
        """On the gap's own thread: wait for it, and answer unless that has been done."""
        try:
            texts = [text for text in dict.fromkeys(pending.gap.texts()) if text.strip()]
            items = [{"insertText": chosen + text, "range": span} for text in texts]
            self._settle(pending, result=items)
            self._shown_error = ""
        except Cancelled:
            self._settle(pending)
        except DgemmaError as error:
            if self._settle(pending, error=(FAILED, str(error))):
                self._show_error(str(error))
        except BaseException as error:
            # a fault of ours, or a library's panic: its words may hold somebody's text, and go nowhere
            message = f"the gap could not be filled ({type(error).__name__}); this is a bug"
            self._settle(pending, error=(INTERNAL, message))

    def _show_error(self, message: str) -> None:
        """In the editor's window: once, and not with every key."""
        if self._shown_error != message:
            self._shown_error = message
            params = {"type": ERROR, "message": f"dgemma: {message}"}
            self._writer.write({"method": "window/showMessage", "params": params})

    # answers

    def _supersede(self, uri: str | None) -> None:
        """End what is at work for a document (None: for all), with nothing to show."""
        for pending in self._at_work():
            if uri in (None, pending.uri) and self._settle(pending):
                pending.gap.cancel()

    def _at_work(self) -> list[Pending]:
        with self._lock:
            return [*self._pending.values()]

    def _settle(self, pending: Pending, result: Any = None, error: tuple[int, str] | None = None) -> bool:
        """Answer a completion, unless that has been done. -> whether it was done now."""
        with self._lock:
            if self._pending.get(pending.id) is not pending:
                return False
            del self._pending[pending.id]
        self._error(pending.id, *error) if error else self._result(pending.id, result)
        return True

    def _result(self, number: int | str, result: Any) -> None:
        self._writer.write({"id": number, "result": result})

    def _error(self, number: int | str | None, code: int, message: str) -> None:
        self._writer.write({"id": number, "error": {"code": code, "message": message}})


def _is_answer(message: Any) -> bool:
    is_object = isinstance(message, dict)
    return is_object and "method" not in message and ("result" in message or "error" in message)
