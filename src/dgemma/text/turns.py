"""The chat format: messages in the OpenAI shape to the ids of a prompt.

Refuses to run a template: no text from a checkpoint decides how a conversation is laid out. Control tokens
are put down by id; everything else is encoded as plain text, so no message can open a turn, a channel or a
tool call.

Trap: encoding is not piecewise, BPE merges across seams. Text is therefore joined up to the next control
token and encoded once ("user\\n" together with what the user wrote), as it was when the checkpoint was
trained.

    <bos><|turn>system\\n<|think|>\\nBe brief.<|tool>...<tool|><turn|>\\n
    <|turn>user\\nPlan<turn|>\\n
    <|turn>model\\n<|tool_call>...<tool_call|><|tool_response>...<tool_response|>Sunny.<turn|>\\n
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageError
from . import tools as syntax
from .content import Part, Unread, read_parts
from .tokenizer import ControlIds, Tokenizer
from .tools import Piece

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "model",
    "model": "model",
    "tool": "tool",
    "function": "tool",
}
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class _Call:
    id: str | None
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class _Message:
    where: str  # "messages[3]", for errors
    role: str  # system | user | model | tool
    text: str
    thought: str = ""
    calls: tuple[_Call, ...] = ()
    name: str | None = None  # of the tool that a tool message answers for
    call_id: str | None = None
    is_open: bool = False  # the answer goes on from its text


def render(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    unread: Unread | None = None,
) -> list[int]:
    """The prompt ids of a conversation.

    `messages`: dicts with `role` (system, developer, user, assistant, model, tool, function) and `content` (a
    text, or a list of parts, content.py); an assistant's may have `tool_calls` (or one `function_call`) and
    `reasoning_content`, a tool's has `tool_call_id` or `name`. `tools`: declarations in the OpenAI shape.
    `thinking` lets the model think first. Thoughts are kept only after the last user message. With
    `add_generation_prompt` the ids end where the model is to write. With `continue_final_message`, or
    `prefix: true` in the last message, they end with that message's text, its turn left open. `unread` counts
    the parts that a short text was put in place of.
    Raises UsageError that names the message or tool, also where the checkpoint lacks a token.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UsageError("messages must be a list with at least one message")
    counted = Counter() if unread is None else unread
    parsed = [_message(raw, f"messages[{n}]", counted) for n, raw in enumerate(messages)]
    if continue_final_message or goes_on(messages):
        parsed[-1] = _left_open(messages[-1], parsed[-1])
    special = tokenizer.special
    pieces: list[Piece] = []
    if special.bos is not None:
        pieces.append(special.bos)
    has_system = parsed[0].role == "system"
    system_text = ""
    if has_system:
        system_text = parsed.pop(0).text
    if has_system or tools or thinking:
        pieces += _system_turn(system_text, tools or [], thinking, special)
    pieces += _turns(parsed, special, add_generation_prompt)
    return _encode(pieces, tokenizer)


def goes_on(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message says that the answer goes on from its text (`prefix: true`)."""
    last = None
    if messages:
        last = messages[-1]
    return isinstance(last, Mapping) and last.get("prefix") is True


def _left_open(raw: Mapping[str, Any], message: _Message) -> _Message:
    """The last message as the beginning of the answer: what its text ends with, blanks included, is gone on
    from.
    """
    if message.role != "model":
        raise UsageError(
            f"{message.where}: only a message of the assistant can be gone on from, not one of role "
            f"{raw['role']!r:.40}"
        )
    if message.calls:
        raise UsageError(
            f"{message.where}: a message with tool_calls cannot be gone on from; add their results"
        )
    parts = read_parts(raw.get("content"), message.where, Counter())
    texts = [part.text for part in parts if part.kind == "text"]
    return replace(message, text="".join(texts).lstrip(), is_open=True)


def _encode(pieces: list[Piece], tokenizer: Tokenizer) -> list[int]:
    """Ids of pieces; neighbouring texts are joined before they are encoded."""
    ids: list[int] = []
    text: list[str] = []
    for piece in [*pieces, None]:
        if isinstance(piece, str):
            text.append(piece)
            continue
        if joined := "".join(text):
            ids += tokenizer.encode(joined)
        text = []
        if piece is not None:
            ids.append(piece)
    return ids


def _turn(role: str, body: list[Piece], special: ControlIds) -> list[Piece]:
    return [special.need("turn"), f"{role}\n", *body, special.need("end_turn"), "\n"]


def _system_turn(text: str, tools: Any, thinking: bool, special: ControlIds) -> list[Piece]:
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise UsageError("tools must be a list of tool declarations")
    body: list[Piece] = []
    if thinking:
        body = [special.need("think"), "\n"]
    body.append(text)
    for n, tool in enumerate(tools):
        body += syntax.declaration(tool, special, f"tools[{n}]")
    return _turn("system", body, special)


def _turns(messages: list[_Message], special: ControlIds, add_generation_prompt: bool) -> list[Piece]:
    """All turns after the first system turn. Messages of the model and of its tools in a row are one turn."""
    last_user = max((n for n, message in enumerate(messages) if message.role == "user"), default=-1)
    pieces: list[Piece] = []
    turn: _ModelTurn | None = None
    for n, message in enumerate(messages):
        if message.role in ("model", "tool"):
            turn = turn or _ModelTurn(special)
            turn.add(message, keep_thought=n > last_user)
            continue
        if turn:
            pieces += _turn("model", turn.body, special)
            turn = None
        pieces += _turn(message.role, [message.text], special)
    opening: list[Piece] = [special.need("turn"), "model\n"]
    if turn:
        tail: list[Piece] | None = []
        if not messages[-1].is_open:
            tail = turn.tail(add_generation_prompt)
        if tail is not None:
            return [*pieces, *opening, *turn.body, *tail]
        pieces += _turn("model", turn.body, special)
    if add_generation_prompt:
        pieces += opening
    return pieces


@dataclass
class _ModelTurn:
    """What the model wrote in one turn, with the results of its calls where they came in."""

    special: ControlIds
    body: list[Piece] = field(default_factory=list)
    waiting: list[_Call] = field(default_factory=list)  # calls without a result so far
    last: str = ""

    def add(self, message: _Message, keep_thought: bool) -> None:
        special = self.special
        self.last = message.role
        if message.role == "tool":
            self.body += syntax.result(self._answered(message), message.text, special, message.where)
            return
        if message.thought and keep_thought:
            self.body += [
                special.need("channel"),
                f"thought\n{message.thought}\n",
                special.need("end_channel"),
            ]
        # Text stands before the calls, in the order written, so that a history starts with the very ids
        # generated. (The published template puts it behind the results, glued to the next answer.)
        self.body.append(message.text)
        for call in message.calls:
            self.body += syntax.call(call.name, call.arguments, special, message.where)
        self.waiting += message.calls

    def _answered(self, message: _Message) -> str:
        """The name of the tool that a tool message answers for; its call no longer waits."""
        key = message.call_id
        name = message.name
        match: list[_Call] = []
        if key is not None:
            match = [call for call in self.waiting if call.id == key]
        if not match and name is not None:
            match = [call for call in self.waiting if call.name == name]
        if key is None and name is None and len(self.waiting) == 1:
            match = self.waiting
        if not match:
            raise UsageError(
                f"{message.where}: no tool call before it waits for this result (id {key!r:.40})"
            )
        call = match[0]
        self.waiting.remove(call)
        return call.name

    def tail(self, to_generate: bool) -> list[Piece] | None:
        """How the turn ends when it is the last one and stays open; None when it is closed like any other.

        After a result the model goes on in the same turn. After a call it stops, with the token that asks for
        the result: there is nothing to generate, so that is a UsageError when a generation is to follow.
        """
        if self.waiting and to_generate:
            raise UsageError(
                f"the call of tool '{self.waiting[0].name}' has no result; add a message of role tool"
            )
        if self.last == "tool":
            return []
        if self.waiting:
            return [self.special.need("tool_response")]
        return None


def _message(raw: Any, where: str, unread: Unread) -> _Message:
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where} must be a dict with a role and a content")
    role = None
    if isinstance(raw.get("role"), str):
        role = _ROLES.get(raw["role"])
    if role is None:
        raise UsageError(f"{where}: role {raw.get('role')!r:.40} is not one of {', '.join(_ROLES)}")
    calls = _calls(raw, where)
    if calls and role != "model":
        raise UsageError(f"{where}: tool_calls belong to a message of the assistant")
    if raw.get("content") is None and role in ("system", "user"):
        raise UsageError(f"{where}: content must be a text or a list of parts, not NoneType")
    parts = read_parts(raw.get("content"), where, unread)
    if role == "model":
        parts += _beside_content(raw, where, unread)
    thought = raw.get("reasoning_content") or raw.get("reasoning") or ""
    texts = {
        "reasoning_content": thought,
        "name": raw.get("name"),
        "tool_call_id": raw.get("tool_call_id"),
    }
    for key, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{where}: {key} must be a text, not {type(value).__name__}")
    if role == "model" and not thought:
        thought = "\n".join(part.text for part in parts if part.kind == "thought" and part.text)
    return _Message(where, role, _text(parts, role), thought, calls, raw.get("name"), raw.get("tool_call_id"))


def _beside_content(raw: Mapping[str, Any], where: str, unread: Unread) -> list[Part]:
    """What OpenAI's answers have beside a content that is null: a refusal, or spoken words."""
    parts: list[Any] = []
    if raw.get("refusal"):
        parts.append({"type": "refusal", "refusal": raw["refusal"]})
    if isinstance(raw.get("audio"), Mapping):
        parts.append({**raw["audio"], "type": "audio"})
    return read_parts(parts, where, unread)


def _text(parts: Sequence[Part], role: str) -> str:
    """The text of a message, trimmed at both ends, as checkpoints were trained (a tool's result is left
    alone).

    What stands for a part that cannot be read has a line of its own.
    """
    kept = [part for part in parts if part.kind != "thought"]
    texts = [part.text if role == "tool" else part.text.strip() for part in kept]
    if any(part.kind == "substitute" for part in kept):
        return "\n".join(text for text, part in zip(texts, kept, strict=True) if part.text)
    glue = ""
    if role == "system":
        glue = " "
    return glue.join(texts)


def _calls(message: Mapping[str, Any], where: str) -> tuple[_Call, ...]:
    """A message's calls; before there were several, a `function_call` was its only one."""
    raw = message.get("tool_calls") or ()
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise UsageError(f"{where}: tool_calls must be a list")
    calls = [_call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(raw)]
    if not calls and message.get("function_call") is not None:
        calls.append(_call({"function": message["function_call"]}, f"{where}.function_call"))
    return tuple(calls)


def _call(raw: Any, where: str) -> _Call:
    kind = None
    if isinstance(raw, Mapping):
        kind = raw.get("type") or "function"
    custom = None
    if kind == "custom":
        custom = raw.get("custom")
    if isinstance(custom, Mapping):  # a tool whose input is a text
        name = syntax.checked_name(custom.get("name"), where)
        return _Call(raw.get("id"), name, {"input": custom.get("input")})
    function = None
    if kind == "function":
        function = raw.get("function")
    if not isinstance(function, Mapping):
        raise UsageError(
            f"{where} must look like {{'type': 'function', 'function': {{'name', 'arguments'}}}}"
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = _whole_characters(json.loads(arguments))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: arguments are not JSON ({error})") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise UsageError(f"{where}: arguments must be a JSON object, not {type(arguments).__name__}")
    return _Call(raw.get("id"), syntax.checked_name(function.get("name"), where), dict(arguments))


def _whole_characters(value: Any) -> Any:
    """A JSON value with U+FFFD for half a surrogate pair, which JSON's escapes can spell inside a text of
    JSON.
    """
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_HALF.sub("\ufffd", name): _whole_characters(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_whole_characters(member) for member in value]
    return value
