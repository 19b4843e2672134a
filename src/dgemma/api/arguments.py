"""How a method of Model is called: parameters as an object, as a number or by name; and what its stream ends
with.

Trap: names go before the object, and a number stands for max_tokens only where an answer is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ..config import GenerationParams
from ..errors import UsageError

T = TypeVar("T")


def call_params(params: GenerationParams | int | None, settings: Mapping[str, Any]) -> GenerationParams:
    """What a call asks: its object, or a number that is max_tokens, with the settings by name over it."""
    if params is None:
        return GenerationParams().replace(**settings)
    if isinstance(params, GenerationParams):
        return params.replace(**settings)
    return GenerationParams(max_tokens=params).replace(**settings)


def task_params(
    task: str, params: GenerationParams | int | None, settings: Mapping[str, Any]
) -> GenerationParams:
    """The same, of a task in which some parameters have no meaning."""
    if task != "ids" and not isinstance(params, GenerationParams | None):
        raise UsageError(f"params is {params!r:.40}; give a GenerationParams, or parameters by name")
    request_params = call_params(params, settings)
    request_params.check_for(task)
    return request_params


def last_event(events: Iterator[Any], kind: type[T]) -> T:
    """What a stream ends with, which is of that kind."""
    last = deque(events, maxlen=1).pop()
    if not isinstance(last, kind):
        raise RuntimeError(f"a stream ended with {type(last).__name__}, not with {kind.__name__}")
    return last
