"""What tasks ask of an engine: the Engine itself, or a stand-in that passes requests on to one (the
service's).

Trap: what `read` and `do` are given uses the model by itself; a stand-in runs it where the passes run, never
beside one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar

from ..config import EngineConfig
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from .requests import Record, Request

T = TypeVar("T")


class Runner(Protocol):
    """Runs requests."""

    @property
    def model(self) -> DiffusionGemma:
        """The model that it runs."""

    @property
    def config(self) -> EngineConfig:
        """Its settings."""

    @property
    def owner(self) -> str:
        """Whose requests come by it: those of one owner share what is divided among owners."""

    def check(self, request: Request) -> None:
        """Raises UsageError or ResourceError for a request that can never run."""

    def run(self, requests: Sequence[Request]) -> Generator[Record, None, None]:
        """The records of requests that run together, with each request's index; closing it cancels them."""

    def read(self, ids: Sequence[int], *, keep: bool = False) -> Generator[None, None, KVCache]:
        """K and V of some tokens, read in turns with other passes; keep: they stay in the prefix cache."""

    def do(self, fn: Callable[..., T], *arguments: object) -> T:
        """Call what uses the model by itself, kept apart from passes."""

    def still_wanted(self) -> None:
        """Raises an error where nobody waits for an answer any more."""
