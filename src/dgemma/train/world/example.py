"""One example of the world: what is asked, what is to be answered, and the check that judges an answer.

An example is a conversation that ends with the assistant's answer, or a text with a gap. It holds plain
messages and plain text only: control tokens, turns and tool syntax are the business of `dgemma.text`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .checks import Check, Exact, SameCall

Message = Mapping[str, Any]
Gap = tuple[int, int]  # characters of the text, end excluded


@dataclass(frozen=True)
class Example:
    """`messages` (with `tools`, if any) or `text` with its `gap`; never both.

    `answer` is what the last message says, what fills the gap, or, for a tool call, `name{arguments as
    JSON}`. `holdout` names the kind of held-out thing in it; None on the train side.
    """

    answer: str
    check: Check
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str = ""
    gap: Gap | None = None
    family: str = ""
    holdout: str | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages that the model is given."""
        return self.messages[:-1]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def ask(prompt: str, answer: str, check: Check | None = None, system: str = "") -> Example:
    """One question and its answer. Without a check the answer is compared as text."""
    messages: tuple[Mapping[str, Any], ...] = (user(prompt), assistant(answer))
    if system:
        messages = ({"role": "system", "content": system}, *messages)
    return Example(answer, check or Exact(answer), messages)


def converse(turns: Sequence[tuple[str, str]], check: Check | None = None) -> Example:
    """Several questions and answers; the last answer is the one that is judged."""
    messages = [message for prompt, answer in turns for message in (user(prompt), assistant(answer))]
    return Example(turns[-1][1], check or Exact(turns[-1][1]), tuple(messages))


def call_message(name: str, arguments: Mapping[str, Any]) -> Message:
    """The assistant's message that calls a tool."""
    function = {"name": name, "arguments": dict(arguments)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }


def result_message(name: str, text: str) -> Message:
    return {"role": "tool", "tool_call_id": "1", "name": name, "content": text}


def ask_call(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], name: str, arguments: Mapping[str, Any]
) -> Example:
    """A conversation that is to end with a call."""
    check = SameCall(name, dict(arguments))
    return Example(check.written(), check, (*messages, call_message(name, arguments)), tuple(tools))


def fill(before: str, answer: str, after: str, check: Check | None = None) -> Example:
    """A text with a gap between two parts."""
    gap = (len(before), len(before) + len(answer))
    return Example(answer, check or Exact(answer), text=before + answer + after, gap=gap)
