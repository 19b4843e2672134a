"""What a dialect declares: its routes, and what it gets to answer with.

    Task           a POST whose body becomes a job
    Page           what is answered without a job
    Absent         a route that clients know and that is refused with a reason
    ServedModel    the model and the settings that translate a body

Knows no web framework: `dgemma batch` reads the same declarations without a socket. Trap: a route needs a
key unless it says "open".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .jobs import Job, RequestError
from .settings import ServerConfig
from .sse import MEDIA

Access = Literal["key", "open"]
ErrorShape = Callable[[RequestError], Any]  # a dialect's body of an error


@dataclass
class ServedModel:
    """What translates a body and writes its answer."""

    model: Any  # api.Model
    config: ServerConfig


@dataclass(frozen=True)
class Task:
    """A POST of `body`, which `begin` makes a job."""

    path: str
    body: type[Any]
    begin: Callable[[ServedModel, Any], Job]
    shape: ErrorShape
    reply: type[Any] | None = None  # this and what follows: for the OpenAPI document
    example: dict[str, Any] | None = None  # a body
    whole: bool = True  # whether an answer may come in one piece
    stream: str | None = MEDIA  # the media type of one that does not; None: there is none
    access: Access = "key"


@dataclass(frozen=True)
class Page:
    """A GET or, with `body`, a POST. `handle` gives a Response, or what becomes JSON."""

    path: str
    handle: Callable[..., Any]  # (service, request), or (service, body); may be a coroutine
    shape: ErrorShape
    body: type[Any] | None = None
    reply: type[Any] | None = None
    example: dict[str, Any] | None = None  # a body
    media: str = "application/json"
    access: Access = "key"
    for_operator: bool = False  # where there are several keys, only the operator's will do


@dataclass(frozen=True)
class Absent:
    """A route that is refused by any method."""

    path: str
    message: str
    shape: ErrorShape
