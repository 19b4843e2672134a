"""What a message is made of, read as text: the parts of every dialect, and a short text in place of what
cannot be read.

One picture or search result must not end a conversation that holds it: clients send the whole history with
every turn. So a part of another kind becomes a line that says what stood there, and its kind is counted, for
a note with the answer. Trap: such a line must hold no picture's bytes; only members whose names promise text
are read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..errors import UsageError

Unread = Counter[str]  # kinds of parts that were replaced, and how many of each

TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text")
THOUGHTS = ("thinking", "reasoning")
UNREADABLE_THOUGHTS = (
    "redacted_thinking",
    "reasoning.encrypted",
    "compaction",
)  # another model's; nobody here can read them
WHOLE = ("search_result", "mcp_tool_result")  # texts that were given to be read
LONGEST = 2000  # characters of a line that stands for another part
MOST_KINDS = 8  # that a note names

# Members whose texts say what a part held.
READABLE = (
    "title name tool_name filename file source url query queries action command input arguments code content "
    "text transcript stdout stderr output outputs results logs error error_code message"
).split()


class Part(NamedTuple):
    """A piece of a message. A `substitute` stands for what cannot be read."""

    kind: Literal["text", "thought", "substitute"]
    text: str


def read_parts(content: Any, where: str, unread: Unread) -> list[Part]:
    """The parts of a message's content: a text, a part, a list of parts, or None for nothing.

    Raises UsageError, naming `where`, for what is neither.
    """
    if content is None:
        return []
    if isinstance(content, str | Mapping):
        return [_part(content, where, unread)]
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise UsageError(f"{where}: content must be a text or a list of parts, not {type(content).__name__}")
    return [_part(part, where, unread) for part in content if part is not None]


def joined(content: Any, where: str, unread: Unread) -> str:
    """The text of a content whose parts are lines of their own, without its thoughts."""
    return "\n".join(part.text for part in read_parts(content, where, unread) if part.kind != "thought")


def substitute(part: Mapping[str, Any], kind: str, unread: Unread) -> str:
    """The line that stands for a part, or for an item of a history, that cannot be read."""
    unread[kind[:40]] += 1
    text = " ".join(_readable(part, 0))
    if not text:
        return f"[{kind[:40]}, which cannot be read]"
    if len(text) > LONGEST:
        text = text[:LONGEST] + " ..."
    return f"[{kind[:40]}, of which only this can be read: {text}]"


def note(unread: Unread) -> list[str]:
    """What an answer says of the parts that were replaced: at most one note."""
    if not unread:
        return []
    kinds = [f"{kind} ({count})" for kind, count in unread.most_common(MOST_KINDS)]
    more = ""
    if len(unread) > MOST_KINDS:
        more = ", and others"
    return [f"only text can be read; a short text stands in place of: {', '.join(kinds)}{more}"]


def _part(part: Any, where: str, unread: Unread) -> Part:
    if isinstance(part, str):
        return Part("text", part)
    if not isinstance(part, Mapping):
        raise UsageError(f"{where}: a content part must be a dict with a type, not {type(part).__name__}")
    kind = part.get("type") or ("text" if "text" in part else None)
    if not isinstance(kind, str):
        raise UsageError(f"{where}: a content part needs a type, a text such as 'text'")
    if kind in TEXTS:
        return Part("text", _text(part.get("text"), where))
    if kind in THOUGHTS:
        return Part("thought", _thought(part))
    if kind in UNREADABLE_THOUGHTS:
        return Part("thought", "")
    if kind == "refusal":
        unread[kind] += 1
        return Part("text", _text(part.get("refusal"), where))
    if kind in WHOLE or (kind == "document" and _is_text(part.get("source"))):
        return Part("text", "\n".join(_readable(part, 0)))
    return Part("substitute", substitute(part, kind, unread))


def _is_text(source: Any) -> bool:
    """Whether a document was given as text, and not as a file."""
    return isinstance(source, Mapping) and source.get("type") in ("text", "content")


def _text(text: Any, where: str) -> str:
    if text is not None and not isinstance(text, str):
        raise UsageError(f"{where}: the text of a content part must be a text, not {type(text).__name__}")
    return text or ""


def _thought(part: Mapping[str, Any]) -> str:
    """Clients have it as a text, or as a list of text parts, under one of several names."""
    for name in ("thinking", "reasoning", "text", "summary", "content"):
        if part.get(name):
            return "\n".join(_readable(part[name], 0))
    return ""


def _readable(value: Any, depth: int) -> list[str]:
    """The texts in a value that are worth reading, in order."""
    if isinstance(value, str):
        if not value or value.startswith("data:"):
            return []
        return [value]
    if depth > 8:
        return []
    if isinstance(value, Mapping):
        return _members(value, depth)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [text for member in value for text in _readable(member, depth + 1)]
    return []


def _members(value: Mapping[str, Any], depth: int) -> list[str]:
    texts: list[str] = []
    for name in READABLE:
        member = value.get(name)
        if name in ("input", "arguments", "action") and isinstance(member, Mapping):
            texts.append(json.dumps(member, ensure_ascii=False, default=str))
        else:
            texts += _readable(member, depth + 1)
    if value.get("type") == "text":  # a document's source
        texts += _readable(value.get("data"), depth + 1)
    return texts
