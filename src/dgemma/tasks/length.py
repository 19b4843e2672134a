"""How long an answer may be whose request names no length: one rule for the command line and the service.

A chat-tuned model ends its turns itself, so it gets TURN tokens, and less where context or memory holds
fewer.

Trap: a max_tokens that was given is not cut here for memory: whoever gives it wants to know that there is
none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import LengthError, ResourceError

TURN = 8192  # tokens; a checkpoint's own default may be a single canvas
T = TypeVar("T")


def default_length(checkpoint_default: int, chat_tuned: bool) -> int:
    """Tokens of an answer."""
    if chat_tuned:
        return max(checkpoint_default, TURN)
    return checkpoint_default


def open_with_room(
    begin: Callable[[int | None], T], max_tokens: int | None, default: int, canvas: int
) -> tuple[T, int | None]:
    """begin(max_tokens), and the length that the answer was cut to, None where it was not.

    begin raises LengthError for more than the context leaves, and ResourceError for more than memory holds.
    Where no max_tokens is given, `default` is halved for memory, down to a canvas. Raises these errors where
    not even that can be held.
    """
    length = max_tokens
    cut: int | None = None
    while True:
        try:
            return begin(length), cut
        except LengthError as error:
            if error.most < 1:
                raise
            cut = error.most
        except ResourceError:
            tried = cut or default
            if max_tokens is not None or tried <= canvas:
                raise
            cut = max(canvas, tried // 2)
        length = cut


def note_of_cut(max_tokens: int | None, cut: int, finish_reason: str) -> str | None:
    """What an answer says of the length that it was cut to, if there is anything to say."""
    if max_tokens is not None:
        return f"max_tokens {max_tokens} was cut to {cut}, all that the context has room for"
    if finish_reason == "length":
        return f"cut at {cut} tokens, all that there is room for behind this prompt"
    return None
