"""ServerConfig: where the service listens, who may ask, and how much of anything one client may take.

Knows no model and no web framework, so that `dgemma serve` can refuse a bad setting before anything is
loaded. Trap: loopback is no boundary against web pages, which is why names of hosts and origins are checked
there as well.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .keys import KEY_VARIABLE, check_strength

PORT = 8256  # 8000, 8080, 9931, 11434 and 1234 are other servers'


@dataclass(frozen=True)
class ServerConfig:
    """What one process serves with. Times in seconds; sizes in bytes where the name says nothing else."""

    host: str = "127.0.0.1"
    port: int = PORT
    uds: str | None = None  # a Unix socket instead of host and port
    name: str = "dgemma"  # of the model, on the wire
    log_requests: bool = False  # a line on stderr for each, without texts
    keys: tuple[str, ...] = ()  # none: whoever reaches the socket may ask
    key_file: Path | None = None  # read again at SIGHUP
    allow_origins: tuple[str, ...] = ()  # web pages that may ask, beside our own
    allow_hosts: tuple[str, ...] = ()  # names by which the service may be called, beside loopback's
    max_queue: int = 64  # requests that wait beside those at work; more get 429
    max_prompt_tokens: int | None = None  # None: what the model's positions leave
    max_choices: int = 16  # answers to one request
    max_body: int = 8 * 2**20
    max_bodies: int = 64 * 2**20  # of all that are being read, beyond the first 64 KiB of each
    max_connections: int = 1000
    max_per_address: int = 250  # connections of one address, other than loopback's
    max_headers: int = 100
    max_header_bytes: int = 32 * 2**10
    max_target: int = 4096  # of path and query
    max_depth: int = 64  # of JSON
    max_values: int = 300_000  # in a body, more than any model here has positions
    header_timeout: float = 10.0  # until a connection has said what it wants
    body_timeout: float = 30.0  # until it has said all of it
    write_timeout: float = 30.0  # that a client may leave its answer unread
    keep_alive: float = 30.0
    request_timeout: float = 600.0  # for a whole answer, waiting included
    drain_timeout: float = 30.0  # that requests at work are given after SIGTERM
    pass_timeout: float = (
        300.0  # for one pass over the model; a process whose pass takes longer ends. 0: it is not watched
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port is {self.port}; it must be a whole number from 0 to 65535")
        for name in (
            "max_queue",
            "max_choices",
            "max_body",
            "max_bodies",
            "max_depth",
            "request_timeout",
            "drain_timeout",
            "pass_timeout",
        ):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise UsageError(f"max_prompt_tokens is {self.max_prompt_tokens}; it must be at least 1")
        if any("*" in name for name in (*self.allow_origins, *self.allow_hosts)):
            raise UsageError("allowed origins and hosts are listed one by one; '*' is no name")
        if not self.keys and not self.is_local:
            raise UsageError(
                f"{self.host} can be reached from other machines, which takes a key; "
                f"set {KEY_VARIABLE}, give --api-key-file, "
                "or stay on 127.0.0.1"
            )
        if not self.is_local:
            check_strength(self.keys)

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the socket."""
        return self.uds is not None or is_loopback(self.host)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host's name or number can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
