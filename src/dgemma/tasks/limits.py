"""What every task asks of its texts before it begins: that they are texts, and no longer than any prompt may be."""

from __future__ import annotations

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
