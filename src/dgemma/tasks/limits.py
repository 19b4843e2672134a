"""What every task checks before it begins: texts no longer than any prompt may be, ids that are whole
numbers.
"""

from __future__ import annotations

import operator
from typing import Any

from ..config import MAX_PROMPT_CHARACTERS
from ..errors import UsageError


def check_text(name: str, text: Any) -> None:
    """Raise UsageError for what is no text, or too long a one."""
    if not isinstance(text, str):
        raise UsageError(f"{name} is {type(text).__name__}, not text")
    check_length(name, len(text))


def check_length(name: str, count: int) -> None:
    """Raise UsageError for more characters than a prompt may have."""
    if count > MAX_PROMPT_CHARACTERS:
        raise UsageError(f"{name} has {count} characters; max_prompt_characters is {MAX_PROMPT_CHARACTERS}")


def characters(value: Any) -> int:
    """The length of all texts in a structure of lists and dicts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(map(characters, value))


def rows(name: str, values: Any) -> list[Any]:
    """Any list, tuple, array or tensor as a list of its rows."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list | tuple | range):
        raise UsageError(
            f"{name} is {type(values).__name__}; a list, array or tensor of token ids was expected"
        )
    return list(values)


def token_ids(name: str, values: Any) -> tuple[int, ...]:
    """Token ids as Python integers. Raises UsageError for anything that is not a whole number."""
    ids = []
    for value in rows(name, values):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise UsageError(f"{name} holds {value!r}, which is no token id")
        ids.append(operator.index(value))
    return tuple(ids)


def canvas_rows(canvas_ids: Any) -> tuple[tuple[int, ...], ...]:
    """Starting canvases from one [C] or several [n, C]."""
    if canvas_ids is None:
        return ()
    canvases = rows("canvas_ids", canvas_ids)
    if not canvases:
        raise UsageError("canvas_ids is empty; give one canvas [C] or several [n, C], or None")
    if hasattr(canvases[0], "__index__") and getattr(canvases[0], "ndim", 0) == 0:  # one canvas: its ids
        canvases = [canvases]
    return tuple(token_ids("canvas_ids", row) for row in canvases)
