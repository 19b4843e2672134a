"""Which parts a `tokenizer.json` may be put together from, and how much work they may make of a text.

A tokenizer comes with a model, from whoever made it, and is run over every prompt. Parts are taken by an
allow-list; what they may grow a text to is bounded, and so are the expressions that split it. Knows no
vocabulary. Trap: an expression with one repeat inside another needs no long text to run for ever, so
expressions are taken apart (expressions.py) before one is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..config.reader import is_whole, shown
from ..errors import ConfigError
from .expressions import why_slow

MOST_STEPS = 16  # of a normalizer or pre-tokenizer; the tokenizers in use have one to five
MOST_GROWTH = (
    40  # times as many bytes as a normalizer may make of a text: a space as U+2581 is 3, NFKC may be 11
)
MOST_HOLES = 1 << 19  # ids without a token, beyond as many as there are tokens
MOST_TOKENS = 1 << 22
LONGEST_TEXT = 4096  # characters of one token, of what is put in front of a text, or of a pattern
NORMALIZERS = {
    "Sequence",
    "Replace",
    "Prepend",
    "Strip",
    "StripAccents",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "ByteLevel",
}
DECODERS = {"Sequence", "Replace", "ByteLevel", "ByteFallback", "Fuse", "Strip", "Metaspace"}
_UNICODE_GROWTH = {
    "NFD": 3,
    "NFKD": 11,
    "NFKC": 11,
    "NFC": 3,
    "Lowercase": 2,
    "ByteLevel": 2,
}  # worst cases in bytes, of one character
PRE_TOKENIZERS = {
    "Sequence",
    "Split",
    "ByteLevel",
    "Metaspace",
    "Digits",
    "Whitespace",
    "WhitespaceSplit",
    "Punctuation",
    "BertPreTokenizer",
    "CharDelimiterSplit",
    "UnicodeScripts",
}


def check_parts(raw: dict[str, Any], source: str) -> None:
    """Raise ConfigError, naming the part, for a normalizer or pre-tokenizer that is not known or could make
    too much work.
    """
    growth = 1.0
    for step in _steps(raw.get("normalizer"), "normalizers", NORMALIZERS, f"{source}: normalizer"):
        growth *= _growth(step, f"{source}: normalizer")
    if growth > MOST_GROWTH:
        raise ConfigError(
            f"{source}: its normalizer may make {growth:.0f} bytes of one; at most {MOST_GROWTH} are taken"
        )
    for step in _steps(raw.get("pre_tokenizer"), "pretokenizers", PRE_TOKENIZERS, f"{source}: pre_tokenizer"):
        if step["type"] == "Split":
            _pattern(step.get("pattern"), f"{source}: pre_tokenizer")


def check_decoder(raw: dict[str, Any], source: str) -> None:
    """Raise ConfigError for replacements of the decoder that make too much of a token, or strip too much of a
    text.
    """
    growth = 1.0
    for step in _steps(raw.get("decoder"), "decoders", DECODERS, f"{source}: decoder"):
        if step["type"] == "Replace":
            growth *= _growth(step, f"{source}: decoder")
        start = step.get("start", 0)
        if step["type"] == "Strip" and not (isinstance(start, int) and 0 <= start <= MOST_STEPS):
            raise ConfigError(
                f"{source}: decoder: strips {shown(start)} characters; at most {MOST_STEPS} are read"
            )
    if growth > MOST_GROWTH:
        raise ConfigError(
            f"{source}: its decoder may make {growth:.0f} bytes of one; at most {MOST_GROWTH} are taken"
        )


def check_tokens(vocab: dict[str, Any], added: list[dict[str, Any]], source: str) -> None:
    """Raise ConfigError for token texts or ids beyond what tables are made for."""
    count = len(vocab) + len(added)
    if count > MOST_TOKENS:
        raise ConfigError(f"{source}: holds {count} tokens; at most {MOST_TOKENS} are read")
    most = max(2 * count, count + MOST_HOLES)
    pairs = [*vocab.items(), *((token["content"], token["id"]) for token in added)]
    for text, number in pairs:
        if not isinstance(text, str) or not is_whole(number, below=most):
            raise ConfigError(
                f"{source}: token {shown(text)} has the id {shown(number)}; "
                f"of {count} tokens ids from 0 to {most - 1} are read"
            )
        if len(text) > LONGEST_TEXT:
            raise ConfigError(
                f"{source}: the token {shown(text)} has {len(text)} characters; "
                f"at most {LONGEST_TEXT} are read"
            )


def _steps(raw: Any, inner: str, known: set[str], where: str) -> Iterator[dict[str, Any]]:
    """The steps of a part, sequences within sequences taken apart."""
    if raw:
        left = [raw]
    else:
        left = []
    count = 0
    while left:
        step = left.pop(0)
        if not isinstance(step, dict) or not isinstance(step.get("type"), str) or step["type"] not in known:
            kind = step
            if isinstance(step, dict):
                kind = step.get("type")
            raise ConfigError(f"{where}: {shown(kind)} is not read; readable: {', '.join(sorted(known))}")
        count += 1
        if count > MOST_STEPS:
            raise ConfigError(f"{where}: has more than {MOST_STEPS} steps")
        if step["type"] != "Sequence":
            yield step
        elif isinstance(step.get(inner), list):
            left = [*step[inner], *left]
        else:
            raise ConfigError(f"{where}: a Sequence without a list of {inner}")


def _growth(step: dict[str, Any], where: str) -> float:
    """How many bytes a normalizer's step may make of one."""
    if step["type"] == "Prepend":
        _text(step.get("prepend"), where)
    if step["type"] != "Replace":
        return _UNICODE_GROWTH.get(step["type"], 1)
    content = len(_text(step.get("content"), where).encode("utf-8", "replace"))
    shortest = _pattern(step.get("pattern"), where)
    return max(1.0, content / shortest if shortest else content + 1)


def _pattern(raw: Any, where: str) -> int:
    """The bytes of the shortest text that a pattern can match.

    Raises ConfigError for one that may be slow.
    """
    if not isinstance(raw, dict) or len(raw) != 1:
        raise ConfigError(f"{where}: {shown(raw)} is no pattern")
    ((kind, text),) = raw.items()
    text = _text(text, where)
    if kind == "String" and text:
        return len(text.encode("utf-8", "replace"))
    if kind != "Regex":
        raise ConfigError(f"{where}: {shown(raw)} is no pattern")
    if reason := why_slow(text):
        raise ConfigError(f"{where}: the expression {shown(text)} is not taken: {reason}")
    return 0


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ConfigError(f"{where}: {shown(value)} is no text of at most {LONGEST_TEXT} characters")
    return value
