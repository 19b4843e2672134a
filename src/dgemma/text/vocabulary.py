"""What a `tokenizer.json` holds: which tokens control the model, and which bytes every other token stands
for.

Knows the layout of the file and nothing of turns. Two kinds are accepted, both BPE over whole bytes, so that
every text can be encoded and comes back as it was: byte-level, and sentencepiece with byte fallback.

Trap: the file's `special` flag does not decide what is a control token. Checkpoints also keep ordinary text
as added tokens (runs of newlines, HTML tags), and a control token may lack the flag. So the rule is turned
round: an added token is control unless its text is one that ordinary writing is made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..config.reader import shown
from ..errors import ConfigError
from .parts import check_decoder, check_parts, check_tokens

# The field of ControlIds -> the token's text. Ids differ between checkpoints and are never assumed.
CONTROL_TEXTS = {
    "pad": "<pad>",
    "eos": "<eos>",
    "bos": "<bos>",
    "turn": "<|turn>",
    "end_turn": "<turn|>",
    "channel": "<|channel>",
    "end_channel": "<channel|>",
    "think": "<|think|>",
    "tool": "<|tool>",
    "end_tool": "<tool|>",
    "tool_call": "<|tool_call>",
    "end_tool_call": "<tool_call|>",
    "tool_response": "<|tool_response>",
    "end_tool_response": "<tool_response|>",
    "quote": '<|"|>',
    "image": "<|image|>",
    "begin_image": "<|image>",
    "end_image": "<image|>",
}
LARGEST = 1 << 26  # bytes of a tokenizer.json; that of 262,144 tokens has 33 MB
# Parts that are read, or not, and never run: nothing is added to texts, and decoding goes by `bytes_of`.
NOT_RUN = ("decoder", "post_processor")
# how an id without a token is shown: padding rows of the embedding
UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
PLAIN = re.compile(
    r"[\s\u2581]+|</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|s|sub|sup"
    r"|code|p|br|hr|ul|ol|li|pre|div|span)>"
)


def _byte_characters() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 stands for itself, the other 68 bytes for 256,
    257, ...
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()
_CHARACTERS = {byte: character for character, byte in _BYTES.items()}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one checkpoint. `control` maps the text of each control token to its id."""

    texts: dict[int, str]
    control: dict[str, int]
    added: frozenset[int]
    byte_level: bool
    replacements: tuple[tuple[str, str], ...]  # of the decoder, in order: ("▁", " ")
    leading_spaces: int  # at the very start of a text, which belong to the tokenizer, not to the text

    def byte_token(self, byte: int) -> str:
        """The text of the token that stands for one byte; every vocabulary has all 256."""
        if self.byte_level:
            return _CHARACTERS[byte]
        return f"<0x{byte:02X}>"

    def bytes_of(self, token_id: int) -> bytes:
        """The UTF-8 bytes a token stands for (perhaps half a character); of a control token, those of its
        text.
        """
        text = self.texts.get(token_id)
        if text is None:
            return UNKNOWN
        if text in self.control or (self.byte_level and token_id in self.added):
            return text.encode()
        if self.byte_level:
            is_bytes = all(character in _BYTES for character in text)
            if is_bytes:
                return bytes(_BYTES[character] for character in text)
            return text.encode()
        if match := _BYTE_TOKEN.fullmatch(text):
            return bytes([int(match[1], 16)])
        for old, new in self.replacements:
            text = text.replace(old, new)
        return text.encode()


def read_vocabulary(raw: dict[str, Any], source: str) -> Vocabulary:
    """Read the JSON of a `tokenizer.json`, and shut the doors in `raw` through which text could become
    control.

    Changes `raw`: every added token that text must not match gets the `special` flag (which the encoder is
    told to ignore), and merges that would build a control token are dropped. Raises ConfigError that names
    `source`.
    """
    try:
        return _read(raw, source)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{source}: not a tokenizer this build can read ({type(error).__name__}: {error})"
        ) from None


def _read(raw: dict[str, Any], source: str) -> Vocabulary:
    model = raw["model"]
    added = raw.get("added_tokens") or []
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise ConfigError(f"{source}: model type '{kind}'; this build reads BPE tokenizers")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ConfigError(
                f"{source}: model.{key} is {model[key]!r}; this build reads tokenizers without it"
            )
    vocab: dict[str, int] = model["vocab"]
    check_tokens(vocab, added, source)
    check_parts(raw, source)
    check_decoder(raw, source)
    texts = {token_id: text for text, token_id in vocab.items()}
    known = set(CONTROL_TEXTS.values())
    control = {text: vocab[text] for text in known & vocab.keys()}
    for token in added:
        texts[token["id"]] = token["content"]
        if token["content"] in known or _is_control(token):
            control[token["content"]] = token["id"]
    byte_level, replacements, leading = _decoder(raw.get("decoder") or {}, source)
    _check_bytes(raw, byte_level, source)
    _shut(model, added, control, source)
    raw |= dict.fromkeys((*NOT_RUN, "truncation", "padding"), None)
    return Vocabulary(texts, control, frozenset(t["id"] for t in added), byte_level, replacements, leading)


def _is_control(token: dict[str, Any]) -> bool:
    if _BYTE_TOKEN.fullmatch(token["content"]):
        return False
    # would eat the spaces beside it: never match it in text
    swallows = token.get("lstrip") or token.get("rstrip")
    return bool(token.get("special") or swallows or not PLAIN.fullmatch(token["content"]))


def _decoder(raw: dict[str, Any], source: str) -> tuple[bool, tuple[tuple[str, str], ...], int]:
    """(byte-level?, replacements, leading spaces to strip) from the file's decoder."""
    if raw.get("type") == "Sequence":
        steps = raw.get("decoders", [])
    else:
        steps = [raw]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return True, (), 0
    replacements: list[tuple[str, str]] = []
    leading = 0
    for step, kind in zip(steps, kinds, strict=True):
        if kind == "Replace" and "String" in step["pattern"]:
            replacements.append((step["pattern"]["String"], step["content"]))
        elif kind == "Metaspace":
            replacements.append((_one_character(step.get("replacement", "\u2581"), source), " "))
            leading = 1
            if step.get("prepend_scheme", "always") == "never":
                leading = 0
        elif kind == "Strip" and step["content"] == " " and not step["stop"]:
            leading = step["start"]
        elif kind not in ("ByteFallback", "Fuse"):
            raise ConfigError(
                f"{source}: decoder step '{kind}'; this build reads ByteLevel or ByteFallback decoders"
            )
    if "ByteFallback" not in kinds:
        raise ConfigError(f"{source}: the decoder has no ByteFallback, so not every text could be written")
    return False, tuple(replacements), leading


def _one_character(text: Any, source: str) -> str:
    if not isinstance(text, str) or len(text) != 1:
        raise ConfigError(f"{source}: {shown(text)} is no single character")
    return text


def _check_bytes(raw: dict[str, Any], byte_level: bool, source: str) -> None:
    """Every text must have an encoding: all 256 bytes are tokens, and nothing puts a space before a text."""
    model = raw["model"]
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if byte_level:
        names = list(_BYTES)
    if missing := [name for name in names if name not in model["vocab"]]:
        raise ConfigError(
            f"{source}: {len(missing)} of 256 byte tokens are missing, the first is {missing[0]!r}"
        )
    if not byte_level and not model.get("byte_fallback"):
        raise ConfigError(f"{source}: model.byte_fallback is off, so not every text could be encoded")
    before = raw.get("pre_tokenizer") or {}
    for step in before.get("pretokenizers", [before]):
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
            raise ConfigError(f"{source}: add_prefix_space is set; text would not come back as it was given")


def _shut(model: dict[str, Any], added: list[dict[str, Any]], control: dict[str, int], source: str) -> None:
    """No way from text to a control token: not by matching, not by merging, not as a single character."""
    for token in added:
        if token["content"] in control or _BYTE_TOKEN.fullmatch(token["content"]):
            token["special"] = True
    merges = model.get("merges") or []
    model["merges"] = [merge for merge in merges if _merged(merge) not in control]
    if single := [text for text in control if len(text) < 2]:
        raise ConfigError(f"{source}: the control token {single[0]!r} is too short to be told from text")


def _merged(merge: str | list[str]) -> str:
    """The text that a merge makes, in either spelling of its two parts."""
    parts = merge
    if isinstance(merge, str):
        parts = merge.split(" ", 1)
    return "".join(parts)
