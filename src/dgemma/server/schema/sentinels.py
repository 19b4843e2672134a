"""Gaps inside a completion's prompt: the marks by which other models are told of a prefix and a suffix, as editors write them.

Knows the marks, no dialect. Trap: a prompt is a gap only where its marks are whole and in order, from its first character to its
last; a text that merely speaks of them is a text.
"""

from __future__ import annotations

import re

# (before the prefix, between, before the gap); Codestral alone begins with the suffix
MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<PRE> ", " <SUF>", " <MID>"),
)
SUFFIX, PREFIX = "[SUFFIX]", "[PREFIX]"
_MARK = re.compile(r"<[|｜]?[\w▁]+[|｜]?>|\[(SUFFIX|PREFIX)\]")


def marked_gap(prompt: str) -> tuple[str, str] | None:
    """(prefix, suffix) of a prompt in any of these notations, or None."""
    for start, between, end in MARKS:
        if prompt.startswith(start) and prompt.endswith(end):
            prefix, mark, suffix = prompt[len(start) : -len(end)].partition(between)
            if mark:
                return prefix, suffix
    if prompt.startswith(SUFFIX):
        suffix, mark, prefix = prompt[len(SUFFIX) :].partition(PREFIX)
        if mark:
            return prefix, suffix
    return None


def without_marks(stop: str | list[str] | None) -> list[str]:
    """Stop strings but for those that are another model's control tokens, which this one has no words for."""
    stops = [stop] if isinstance(stop, str) else stop or []
    return [text for text in stops if not _MARK.fullmatch(text.strip())]
