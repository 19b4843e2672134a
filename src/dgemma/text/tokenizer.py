"""Text to token ids and back, for one checkpoint's `tokenizer.json`.

Refuses to know turns: control tokens are appended by id, by whoever writes turns. Nothing that `encode` is
given can become one, because text comes from users, files and tools. Decoding goes through bytes, not through
strings of tokens, so that a stream of pieces and one whole text are the same thing.

Trap: a token may hold half a character, so `decode(a) + decode(b)` is not `decode(a + b)`; see stream.py.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from ..config import read_json
from ..config.reader import shown
from ..errors import ConfigError, UsageError, is_panic
from .vocabulary import CONTROL_TEXTS, LARGEST, NOT_RUN, Vocabulary, read_vocabulary


def _first_line(error: BaseException) -> str:
    return shown((str(error).splitlines() or [type(error).__name__])[0])


@dataclass(frozen=True)
class ControlIds:
    """Token ids of the control tokens, looked up by text; None where the checkpoint has no such token."""

    pad: int | None = None
    eos: int | None = None
    bos: int | None = None
    turn: int | None = None
    end_turn: int | None = None
    channel: int | None = None
    end_channel: int | None = None
    think: int | None = None
    tool: int | None = None
    end_tool: int | None = None
    tool_call: int | None = None
    end_tool_call: int | None = None
    tool_response: int | None = None
    end_tool_response: int | None = None
    quote: int | None = None
    image: int | None = None
    begin_image: int | None = None
    end_image: int | None = None

    def need(self, name: str) -> int:
        """The id of one control token, named as the field here.

        Raises UsageError where the checkpoint lacks it.
        """
        token_id: int | None = getattr(self, name)
        if token_id is None:
            raise UsageError(
                f"this checkpoint's tokenizer has no token '{CONTROL_TEXTS[name]}', which this needs"
            )
        return token_id


class Tokenizer:
    """One checkpoint's tokenizer. Ids are plain ints; `special` holds the control ids by name."""

    def __init__(self, engine: tokenizers.Tokenizer, vocabulary: Vocabulary, not_run: dict[str, Any]):
        self._engine = engine
        self._vocabulary = vocabulary
        self._not_run = not_run  # parts of the file that the engine was built without
        self._bytes: dict[int, bytes] = {}  # filled as ids are met: 262,144 tokens at once would cost 0.3 s
        self._sorted: list[tuple[bytes, int]] | None = None  # all tokens by their bytes, once somebody asks
        self.special = ControlIds(
            **{name: vocabulary.control.get(text) for name, text in CONTROL_TEXTS.items()}
        )
        self.control_ids = frozenset(vocabulary.control.values())
        self.vocab_size = max(vocabulary.texts) + 1
        self.leading_spaces = vocabulary.leading_spaces

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises ConfigError that names the file when it is missing or not understood.
        """
        return cls.from_json(read_json(Path(path), LARGEST), str(path))

    @classmethod
    def from_json(cls, raw: dict[str, Any], source: str = "tokenizer.json") -> Tokenizer:
        """Build from the parsed JSON of a `tokenizer.json`, which is changed.

        Raises ConfigError naming `source`.
        """
        not_run = {name: raw.get(name) for name in NOT_RUN}
        vocabulary = read_vocabulary(raw, source)
        try:
            engine = tokenizers.Tokenizer.from_str(json.dumps(raw, ensure_ascii=False))
        except BaseException as error:  # the library raises a bare Exception, or panics
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise ConfigError(
                f"{source}: not a tokenizer this build can read ({_first_line(error)})"
            ) from None
        engine.no_truncation()
        engine.no_padding()
        engine.encode_special_tokens = True  # special tokens found in text are encoded as the text they are
        for text, token_id in vocabulary.control.items():
            if engine.token_to_id(text) != token_id:
                raise ConfigError(
                    f"{source}: token '{text}' is given the id {token_id}, which is not its place"
                )
        return cls(engine, vocabulary, not_run)

    def to_json(self) -> str:
        """The JSON of a `tokenizer.json` that reads as this one, here and elsewhere."""
        return json.dumps(json.loads(self._engine.to_str()) | self._not_run, ensure_ascii=False)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without anything added. No part of it becomes a control token.

        Raises UsageError for text that cannot be written as UTF-8 (half of a surrogate pair), with its
        position, and for text on which a pattern of the tokenizer gives up.
        """
        if not isinstance(text, str):
            raise UsageError(f"text must be a string, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            broken = ord(text[error.start])
            raise UsageError(
                f"character {error.start} of the text (U+{broken:04X}) is half a character"
            ) from None
        # of several, because that one lets other threads run meanwhile; "fast" leaves out places, which
        # nobody asks for
        try:
            ids = self._engine.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except (
            BaseException
        ) as error:  # a pattern that backtracks too often ends in a panic, which is no Exception
            if not is_panic(error):
                raise
            raise UsageError("this checkpoint's tokenizer fails on the text; ask with another text") from None
        if self.control_ids.isdisjoint(ids):
            return ids
        return self._without_control(ids)

    def _without_control(self, ids: list[int]) -> list[int]:
        """The same text with control tokens spelled out byte by byte.

        A vocabulary that holds them among its words (`ignore_merges`) gives one for a piece of text that
        reads like it.
        """
        spelled: list[int] = []
        for token in ids:
            if token not in self.control_ids:
                spelled.append(token)
                continue
            spelled += map(self._byte_id, self._vocabulary.texts[token].encode())
        return spelled

    def _byte_id(self, byte: int) -> int:
        token_id = self._engine.token_to_id(self._vocabulary.byte_token(byte))
        if token_id is None:  # reading a vocabulary makes sure of all 256
            raise UsageError(f"this checkpoint's tokenizer has no token for the byte 0x{byte:02X}")
        return token_id

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of some ids.

        Bytes that are not UTF-8 become U+FFFD; control tokens are left out, or spelled out.

        Raises UsageError for a negative id; an id beyond the vocabulary (a padding row) becomes U+FFFD.
        """
        if skip_special:
            hidden = self.control_ids
        else:
            hidden = frozenset()
        text = b"".join(self.token_bytes(i) for i in ids if i not in hidden).decode("utf-8", errors="replace")
        for _ in range(self.leading_spaces):
            text = text.removeprefix(" ")
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes one token stands for; perhaps only a part of a character.

        See `decode` for the errors.
        """
        known = self._bytes.get(token_id)
        if known is not None:
            return known
        if token_id < 0:
            raise UsageError(f"token id {token_id} is negative")
        piece = self._vocabulary.bytes_of(token_id)
        self._bytes[token_id] = piece
        return piece

    def beginning_with(self, piece: bytes) -> tuple[int, ...]:
        """The tokens of text whose bytes begin with these."""
        if self._sorted is None:
            self._sorted = sorted(
                (self.token_bytes(i), i) for i in range(self.vocab_size) if i not in self.control_ids
            )
        start = bisect_left(self._sorted, (piece,))
        tokens: list[int] = []
        while start < len(self._sorted) and self._sorted[start][0].startswith(piece):
            tokens.append(self._sorted[start][1])
            start += 1
        return tuple(tokens)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text as it stands in the vocabulary, or None."""
        return self._engine.token_to_id(token)
