"""One turn of a chat: messages to ids, the answer's ids split into thought, content and tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from ..text.channels import split
from ..text.content import Unread, note
from ..text.tokenizer import Tokenizer
from ..text.turns import goes_on, render
from .events import Generation, Reply
from .limits import characters, check_length
from .offer import offer
from .output_parser import OutputParser

__all__ = ["Prompt", "OutputParser", "end_ids", "prepare", "prompt_ids", "reply", "turn_starts"]


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it."""

    ids: list[int]
    tools: list[dict[str, Any]]  # that it may call
    choice: Any  # what it must call, as tasks/called.py takes it
    goes_on: bool  # the answer goes on from the last message
    notes: list[str] = field(default_factory=list)


def prepare(
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    tool_choice: Any = None,
    thinking: bool = False,
    continue_final_message: bool | None = None,
) -> Prompt:
    """The prompt of a chat, with the turn that the model is to write opened, or its last message left open.

    Raises UsageError that names the message, tool or choice at fault.
    """
    check_length("the conversation", characters(messages) + characters(tools))
    if not isinstance(continue_final_message, bool | None):
        raise UsageError("continue_final_message must be true or false", "continue_final_message")
    offered = offer(tools, tool_choice)
    is_open = bool(continue_final_message) or (isinstance(messages, Sequence) and goes_on(messages))
    if is_open and thinking:
        raise UsageError(
            "an answer that goes on from a message has begun, and cannot think first; leave thinking out",
            "thinking",
        )
    unread = Unread()
    ids = render(
        messages,
        tokenizer,
        tools=offered.tools,
        thinking=thinking,
        continue_final_message=is_open,
        unread=unread,
    )
    return Prompt(ids, offered.tools, offered.choice, is_open, [*offered.notes, *note(unread)])


def prompt_ids(
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    thinking: bool,
) -> list[int]:
    """The conversation as the model reads it, with the turn it is to write opened."""
    return render(messages, tokenizer, tools=tools, thinking=thinking)


def turn_starts(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    """The places in a prompt where a turn begins: from there on a conversation may be edited, or told in
    another way.
    """
    return tuple(place for place, token in enumerate(ids) if token == tokenizer.special.turn)


def reply(tokenizer: Tokenizer, generation: Generation) -> Reply:
    """Split a finished answer by the ids of its control tokens, never by its text."""
    parts = split(generation.token_ids, tokenizer)
    if generation.stop is None:
        content = parts.content
    else:
        content = parts.content.partition(generation.stop)[0]
    return Reply(content, parts.thought, parts.tool_calls, parts.malformed, generation)


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a model turn here: end of text, end of turn, and a tool's turn to speak."""
    special = tokenizer.special
    return tuple(i for i in (special.eos, special.end_turn, special.tool_response) if i is not None)
