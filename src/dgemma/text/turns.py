"""The chat format: messages in the OpenAI shape to the ids of a prompt.

Refuses to run a template: no text from a checkpoint decides how a conversation is laid out. Control tokens are
put down by id; everything else is encoded as plain text, so no message can open a turn, a channel or a tool call.

Trap: encoding is not piecewise, BPE merges across seams. Text is therefore joined up to the next control token
and encoded once ("user\\n" together with what the user wrote), as it was when the checkpoint was trained.

    <bos><|turn>system\\n<|think|>\\nBe brief.<|tool>...<tool|><turn|>\\n
    <|turn>user\\nPlan<turn|>\\n
    <|turn>model\\n<|tool_call>...<tool_call|><|tool_response>...<tool_response|>Sunny.<turn|>\\n
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from . import tools as syntax
from .tokenizer import ControlIds, Tokenizer
from .tools import Piece

_ROLES = {
    "system": "system", "developer": "system", "user": "user",
    "assistant": "model", "model": "model", "tool": "tool",
}  # fmt: skip


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


def render(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The prompt ids of a conversation.

    `messages`: dicts with `role` (system, developer, user, assistant, model, tool) and `content` (a text, or a list
    of `{type: text, text}`); an assistant's may have `tool_calls` and `reasoning_content`, a tool's has
    `tool_call_id` or `name`. `tools`: declarations in the OpenAI shape. `thinking` lets the model think first.
    Thoughts are kept only after the last user message. With `add_generation_prompt` the ids end where the model is
    to write. Raises UsageError that names the message or tool, also where the checkpoint lacks a token.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UsageError("messages must be a list with at least one message")
    parsed = [_message(raw, f"messages[{n}]") for n, raw in enumerate(messages)]
    special = tokenizer.special
    pieces: list[Piece] = [] if special.bos is None else [special.bos]
    system = parsed.pop(0) if parsed[0].role == "system" else None
    if system or tools or thinking:
        pieces += _system_turn(system.text if system else "", tools or [], thinking, special)
    pieces += _turns(parsed, special, add_generation_prompt)
    return _encode(pieces, tokenizer)


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
    body: list[Piece] = [special.need("think"), "\n"] if thinking else []
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
        tail = turn.tail(add_generation_prompt)
        if tail is not None:
            return [*pieces, *opening, *turn.body, *tail]
        pieces += _turn("model", turn.body, special)
    return pieces + opening if add_generation_prompt else pieces


@dataclass
class _ModelTurn:
    """What the model wrote in one turn, with the results of its calls where they came in."""

    special: ControlIds
    body: list[Piece] = field(default_factory=list)
    waiting: list[_Call] = field(default_factory=list)  # calls without a result so far
    last: str = ""

    def add(self, message: _Message, keep_thought: bool) -> None:
        special, self.last = self.special, message.role
        if message.role == "tool":
            self.body += syntax.result(self._answered(message), message.text, special, message.where)
            return
        if message.thought and keep_thought:
            self.body += [special.need("channel"), f"thought\n{message.thought}\n", special.need("end_channel")]
        # Text stands before the calls, in the order written, so that a history starts with the very ids generated.
        # (The published template puts it behind the results, glued to the next answer.)
        self.body.append(message.text)
        for call in message.calls:
            self.body += syntax.call(call.name, call.arguments, special, message.where)
        self.waiting += message.calls

    def _answered(self, message: _Message) -> str:
        """The name of the tool that a tool message answers for; its call no longer waits."""
        key, name = message.call_id, message.name
        match = [call for call in self.waiting if key is not None and call.id == key]
        match = match or [call for call in self.waiting if name is not None and call.name == name]
        match = match or (self.waiting if key is None and name is None and len(self.waiting) == 1 else [])
        if not match:
            raise UsageError(f"{message.where}: no tool call before it waits for this result (id {key!r:.40})")
        found = match[0]
        self.waiting.remove(found)
        return found.name

    def tail(self, to_generate: bool) -> list[Piece] | None:
        """How the turn ends when it is the last one and stays open; None when it is closed like any other.

        After a result the model goes on in the same turn. After a call it stops, with the token that asks for the
        result: there is nothing to generate, so that is a UsageError when a generation is to follow.
        """
        if self.waiting and to_generate:
            raise UsageError(f"the call of tool '{self.waiting[0].name}' has no result; add a message of role tool")
        if self.last == "tool":
            return []
        return [self.special.need("tool_response")] if self.waiting else None


def _message(raw: Any, where: str) -> _Message:
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where} must be a dict with a role and a content")
    role = _ROLES.get(raw["role"]) if isinstance(raw.get("role"), str) else None
    if role is None:
        raise UsageError(f"{where}: role {raw.get('role')!r:.40} is not one of {', '.join(_ROLES)}")
    calls = _calls(raw.get("tool_calls") or (), where)
    if calls and role != "model":
        raise UsageError(f"{where}: tool_calls belong to a message of the assistant")
    text = _content(raw.get("content"), role, where, may_lack=bool(calls))
    thought = raw.get("reasoning_content") or raw.get("reasoning") or ""
    for key, value in (("reasoning_content", thought), *((k, raw.get(k)) for k in ("name", "tool_call_id"))):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{where}: {key} must be a text, not {type(value).__name__}")
    return _Message(where, role, text, thought, calls, raw.get("name"), raw.get("tool_call_id"))


def _content(content: Any, role: str, where: str, may_lack: bool) -> str:
    """The text of a message, trimmed at both ends, as checkpoints were trained (a tool's result is left alone)."""
    if content is None and (may_lack or role == "tool"):
        return ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence):
        raise UsageError(f"{where}: content must be a text or a list of text parts, not {type(content).__name__}")
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise UsageError(f"{where}: a content part of type {kind!r:.40} cannot be read; only text can")
        texts.append(part["text"])
    if role == "tool":
        return "".join(texts)
    return (" " if role == "system" else "").join(text.strip() for text in texts)


def _calls(raw: Any, where: str) -> tuple[_Call, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise UsageError(f"{where}: tool_calls must be a list")
    return tuple(_call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(raw))


def _call(raw: Any, where: str) -> _Call:
    function = raw.get("function") if isinstance(raw, Mapping) and raw.get("type", "function") == "function" else None
    if not isinstance(function, Mapping):
        raise UsageError(f"{where} must look like {{'type': 'function', 'function': {{'name', 'arguments'}}}}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: arguments are not JSON ({error})") from None
    if not isinstance(arguments, Mapping):
        raise UsageError(f"{where}: arguments must be a JSON object, not {type(arguments).__name__}")
    return _Call(raw.get("id"), syntax.checked_name(function.get("name"), where), dict(arguments))
