"""One turn of a chat: messages to ids, the answer's ids split into thought, content and tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..text.channels import split
from ..text.tokenizer import Tokenizer
from ..text.turns import render
from .events import Generation, Reply
from .voices import Voices

__all__ = ["Voices", "end_ids", "offered", "prompt_ids", "reply", "turn_starts"]


def offered(tools: Sequence[dict[str, Any]] | None, choice: Any) -> Sequence[dict[str, Any]] | None:
    """The tools that the model is told of: with the `tool_choice` "none" it is told of none."""
    return None if choice == "none" else tools or None


def prompt_ids(
    tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None, thinking: bool
) -> list[int]:
    """The conversation as the model reads it, with the turn it is to write opened."""
    return render(messages, tokenizer, tools=tools, thinking=thinking)


def turn_starts(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    """The places in a prompt where a turn begins: from there on a conversation may be edited, or told in another way."""
    return tuple(place for place, token in enumerate(ids) if token == tokenizer.special.turn)


def reply(tokenizer: Tokenizer, generation: Generation) -> Reply:
    """Split a finished answer by the ids of its control tokens, never by its text."""
    parts = split(generation.token_ids, tokenizer)
    content = parts.content if generation.stop is None else parts.content.partition(generation.stop)[0]
    return Reply(content, parts.thought, parts.tool_calls, parts.malformed, generation)


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a model turn here: end of text, end of turn, and a tool's turn to speak."""
    special = tokenizer.special
    return tuple(i for i in (special.eos, special.end_turn, special.tool_response) if i is not None)
