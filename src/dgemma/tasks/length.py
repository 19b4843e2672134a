"""How long an answer may be whose request names no length: one rule for the command line and the service.

A chat-tuned model ends its turns itself, so it gets TURN tokens, and less where context or memory has no room for so many. Trap: a
length that was asked for is not cut here for memory: whoever asks for it wants to know that there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import LengthError, ResourceError

TURN = 8192  # tokens; a checkpoint's own default may be a single canvas
T = TypeVar("T")


def default_length(own: int, chat_tuned: bool) -> int:
    """Tokens of an answer: `own` is the checkpoint's default."""
    return max(own, TURN) if chat_tuned else own


def open_with_room(
    begin: Callable[[int | None], T], asked: int | None, default: int, canvas: int
) -> tuple[T, int | None]:
    """begin(max_tokens), and the length that the answer was cut to, None where it was not.

    begin raises LengthError for more than the context leaves, and ResourceError for more than memory holds. Where nobody asked for a
    length, `default` is halved for memory, down to a canvas. Raises these errors where not even that has room.
    """
    length, cut = asked, None
    while True:
        try:
            return begin(length), cut
        except LengthError as error:
            if error.most < 1:
                raise
            length = cut = error.most
        except ResourceError:
            if asked is not None or (cut or default) <= canvas:
                raise
            length = cut = max(canvas, (cut or default) // 2)


def note_of_cut(asked: int | None, cut: int, finish_reason: str) -> str | None:
    """What an answer says of the length that it was cut to, if there is anything to say."""
    if asked is not None:
        return f"max_tokens {asked} was cut to {cut}, all that the context has room for"
    return (
        f"cut at {cut} tokens, all that there is room for behind this prompt"
        if finish_reason == "length"
        else None
    )
