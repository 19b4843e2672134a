"""The socket, the connections and the end: uvicorn, with the deadlines and limits that it lacks.

    listen(config)     the bound socket, or a UsageError in one line, before any model is loaded
    serve(app, ...)    until SIGTERM (what runs is finished) or Ctrl-C (what runs is ended); SIGHUP reads the
                       keys again

Silent connections, heads that trickle in and clients that do not read are cut by timers of the connection
itself, so that no handler waits for them; where there is no room for one more, the one that has been silent
for longest goes first, then one whose body has been coming for longest. Trap: `transport.close()` waits
until all is written, which a client that does not read prevents for ever; only `abort` ends such a
connection.

uvicorn has no public place for these, so two of its classes are extended, and pyproject.toml lets in only
versions that were tested (tests/server/test_uvicorn.py holds the list):

    H11Protocol     connection_made, data_received, connection_lost: the timer of a head, and who is cut to
                    make room
                    pause_writing, resume_writing, on_response_complete, timeout_keep_alive_handler: the
                    timers of a reader
                    send_400_response: an error in JSON, and 431 for a head that is too long
                    read: client, connections, conn (and its their_state), cycle.response_complete, loop,
                    transport
    uvicorn.Server  startup: SIGHUP, and the word that it is ready; handle_exit: SIGTERM drains; on_tick: when
                    the drain is over
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import DeviceError, UsageError
from .idle import Awaited, Idle
from .limits import client_of
from .service import Service
from .settings import ServerConfig, is_loopback
from .shed import Shed

log = logging.getLogger("dgemma.server")
LINGER = 5.0  # seconds that the last bytes of ended answers are given


def listen(config: ServerConfig) -> socket.socket:
    """A listening socket. Raises UsageError that names the address and what is wrong with it."""
    if config.uds is not None:
        return _listen_at(Path(config.uds))
    try:
        choices = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = choices[0]
    except (OSError, UnicodeError):
        raise UsageError(f"host '{config.host}' is no address of this machine; try 127.0.0.1") from None
    listener = socket.socket(family, kind, protocol)
    if os.name == "posix":  # on Windows the option would let a second program listen at the same port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        hint = error.strerror
        if error.errno == errno.EADDRINUSE:
            hint = "another program listens there; --port names another one"
        raise UsageError(f"{config.url} cannot be listened at: {hint}") from None
    return listener


def _listen_at(path: Path) -> socket.socket:
    """A Unix socket for this user alone; one that nobody listens at any more is replaced."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise OSError("another program listens there")
            path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(f"'{path}' cannot be listened at: {error.strerror or error}") from None
    return listener


class Connection(H11Protocol):
    """One connection with its timers: until a request's head is there, and until a client reads on."""

    def __init__(self, *arguments: Any, limits: ServerConfig, shed: Shed, idle: Idle, **named: Any):
        super().__init__(*arguments, **named)
        self.limits = limits
        self.shed = shed
        self.idle = idle
        self._head: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None  # it would keep a connection that has ended in memory

    # of TCP, as h11_impl
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _send_at_once(transport)
        if not self._has_room():
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: "
                b"close\r\ncontent-length: 0\r\n\r\n"
            )
            self._close_for_sure()
            return
        self.idle.add(self, Awaited.FIRST_REQUEST)
        self._await_head()

    @property
    def address(self) -> str | None:
        """Of the other side, as limits know it; None where it is this machine."""
        host = ""
        if self.client:
            host = self.client[0]
        if not host or is_loopback(host):
            return None
        return client_of("", host)

    def cut(self) -> None:
        """End at once, and count no more from now on."""
        self.connections.discard(self)
        self.transport.abort()

    def _has_room(self) -> bool:
        """Whether this connection may stay; one whose request has not come whole is cut for it."""
        if self._same_address() > self.limits.max_per_address:
            return self.idle.cut_longest(self.address)
        return len(self.connections) <= self.limits.max_connections or self.idle.cut_longest()

    def _same_address(self) -> int:
        """How many connections come from this one's address; none count where it is this machine's."""
        address = self.address
        if not address:
            return 0
        return sum(isinstance(one, Connection) and one.address == address for one in self.connections)

    def data_received(self, data: bytes) -> None:
        if not self._is_answering and not self.conn.trailing_data[0]:
            refused = self.shed.answer(data, self.client[0] if self.client else None)
            if refused is not None:
                self.transport.write(refused)
                self._close_for_sure()
                return
        if self._head is None and not self._is_answering:
            self._await_head()
        super().data_received(data)
        if self._is_answering:
            _cancel(self._head)
            self._head = None
            self._note_body()

    def _note_body(self) -> None:
        """A request has come: to its end, or its body is still on the way."""
        if self.conn.their_state is h11.SEND_BODY:
            self.idle.add(self, Awaited.REST_OF_BODY)
        else:
            self.idle.remove(self)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self.limits.header_timeout, self._cut)

    def _cut(self) -> None:
        """A head that is half there is answered; a silent connection is not."""
        if not self.transport.is_closing() and self.conn.trailing_data[0]:
            self._say(408, "the head of the request did not arrive in time")
        self._close_for_sure()

    def _close_for_sure(self) -> None:
        self.transport.close()
        self._end = self.loop.call_later(LINGER, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.limits.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._stuck)
        self._stuck = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._stuck, self._end):
            _cancel(timer)
        self._head = self._stuck = self._end = None
        self.idle.remove(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(self.limits.write_timeout, self.transport.abort)
        elif not self._is_answering:  # no other request came behind
            self.idle.add(self, Awaited.NEXT_REQUEST)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """What h11 could not read. It knows one status more than 400: 431, for too many bytes."""
        status = 400
        if getattr(sys.exc_info()[1], "error_status_hint", 400) == 431:
            status = 431
        text = (
            f"the head has more than {self.limits.max_header_bytes} bytes"
            if status == 431
            else "this is no HTTP request"
        )
        self._say(status, text)
        self._close_for_sure()

    def _say(self, status: int, text: str) -> None:
        body = b'{"error":{"message":"%s","type":"invalid_request_error","param":null,"code":"%d"}}' % (
            text.encode(),
            status,
        )
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: "
            f"{len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)


def _send_at_once(transport: asyncio.Transport) -> None:
    """Turn off Nagle's algorithm, with which the end of an answer waits 40 ms for an acknowledgement of its
    beginning.

    asyncio does so only where the listening socket knows its protocol; one that a supervisor or a test
    brings may not.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """uvicorn's server, whose end is ours: SIGTERM drains, a second signal or Ctrl-C ends what runs."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]):
        super().__init__(config)
        self.service = service
        self.ready = ready
        self.interrupted = False
        self.fault: str | None = None  # why the service ended by itself
        self._until: float | None = None  # when what still runs is ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self.ready()

    def _hang_up(self) -> None:
        """SIGHUP: read the key file again.

        Without one it is a terminal that was closed, and the service ends as by SIGTERM.
        """
        if self.service.config.key_file is None:
            self.handle_exit(signal.SIGTERM, None)
            return
        try:
            self.service.reload_keys()
        except UsageError as error:
            log.warning("the keys stay as they were: %s", error)
        else:
            log.warning("the keys were read again")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = sig == signal.SIGINT
        wait = 0.0
        if not (self.interrupted or self._until is not None):
            wait = self.service.config.drain_timeout
        self._until = time.monotonic() + wait
        self.service.admission.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self.fault is None and (fault := self.service.fault) is not None:
            self.fault = fault
            self.service.admission.draining = True
            self._until = time.monotonic()
        if self._until is not None and (time.monotonic() >= self._until or not self.service.admission.open):
            self.service.end_all()
            self.should_exit = True
        return await super().on_tick(counter)


def server(app: Any, ready: Callable[[], None] = lambda: None) -> Server:
    """The server of an app, not yet running; tests run it on a thread."""
    service: Service = app.state.service
    limits = service.config

    def count(path: str, status: int) -> None:
        service.metrics.requests.labels(path, status).inc()

    shed = Shed(service.admission, service.table.find_task, bool(limits.keys), count)
    connection = functools.partial(Connection, limits=limits, shed=shed, idle=Idle())
    config = uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type]  # a partial of a class
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.max_header_bytes,
        timeout_keep_alive=limits.keep_alive,  # type: ignore[arg-type]  # seconds as floats
        timeout_graceful_shutdown=LINGER,  # type: ignore[arg-type]  # seconds as floats
    )
    return Server(config, service, ready)


def serve(app: Any, listener: socket.socket, ready: Callable[[], None] = lambda: None) -> bool:
    """Answer until told to end. -> whether it was Ctrl-C. Raises DeviceError where passes run no more."""
    at = server(app, ready)
    at.run([listener])
    if at.fault is not None:
        raise DeviceError(at.fault)
    return at.interrupted
