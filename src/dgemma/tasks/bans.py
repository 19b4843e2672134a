"""Banned texts as a grammar: an answer may be anything in which none of them occurs, however it is cut into
tokens.

Works on the bytes of tokens: a token is barred where it would complete a banned text, alone or together with
what stands before it. Control tokens are not part of the text and change nothing.

Trap: the texts are looked for as written; another case is another text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from ..text.tokenizer import Tokenizer

MOST_WORDS = 256
MOST_BYTES = 256  # of each


class TextBans:
    """A Grammar: every text without these in it."""

    def __init__(self, words: Sequence[str] | str, tokenizer: Tokenizer):
        if isinstance(words, str):
            words = [words]
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) and word for word in words):
            raise UsageError("bad_words must be texts of at least one character each")
        self.words = [word.encode("utf-8", "replace") for word in words]
        if len(words) > MOST_WORDS or max(map(len, self.words)) > MOST_BYTES:
            raise UsageError(
                f"bad_words holds too much; at most {MOST_WORDS} texts of {MOST_BYTES} bytes are looked for"
            )
        control = tokenizer.control_ids
        self.pieces = [b"" if i in control else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.reach = max(map(len, self.words)) - 1
        self._starting: dict[
            bytes, Tensor
        ] = {}  # which tokens begin with these bytes; filled as they are needed
        self._never = torch.tensor([any(word in piece for word in self.words) for piece in self.pieces])

    def begin(self) -> BansWalk:
        return BansWalk(self, b"")

    def barred(self, tail: bytes) -> Tensor:
        """The tokens that may not follow a text with this tail, [V] bool."""
        barred = self._never.clone()
        for word in self.words:
            for cut in range(1, len(word)):
                if tail.endswith(word[:cut]):
                    barred |= self._beginning(word[cut:])
        return barred

    def _beginning(self, rest: bytes) -> Tensor:
        if rest not in self._starting:
            self._starting[rest] = torch.tensor([piece.startswith(rest) for piece in self.pieces])
        return self._starting[rest]


class BansWalk:
    """A Walk; all it knows of an answer is its last bytes."""

    ended = False  # an end token may come at any time, and what follows it is nobody's business

    def __init__(self, bans: TextBans, tail: bytes):
        self.bans = bans
        self.tail = tail

    def copy(self) -> BansWalk:
        return BansWalk(self.bans, self.tail)

    def take(self, ids: Sequence[int]) -> int:
        bans = self.bans
        for count, token in enumerate(ids):
            piece = b""
            if token < len(bans.pieces):
                piece = bans.pieces[token]
            text = self.tail + piece
            if any(word in text for word in bans.words):
                return count
            self.tail = text[len(text) - min(len(text), bans.reach) :]
        return len(ids)

    def forced(self) -> list[int]:
        return []

    def allowed(self) -> Tensor:
        return ~self.bans.barred(self.tail)

    def closing(self) -> list[int]:
        return []
