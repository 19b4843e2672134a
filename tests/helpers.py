"""What several rooms' tests share. Import inside the functions what only some of them need (torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def byte_tokenizer_json(merges: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The JSON of a byte-level BPE tokenizer: all control tokens (ids 0-17), the 256 bytes (18-273), the merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    from dgemma.text.vocabulary import CONTROL_TEXTS

    control = list(CONTROL_TEXTS.values())
    tokens = [*control, *sorted(ByteLevel.alphabet()), *(a + b for a, b in merges)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {token: n for n, token in enumerate(tokens)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": text, **flags} for n, text in enumerate(control)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]},
    }


def byte_tokenizer(merges: Sequence[tuple[str, str]] = ()):
    """A `dgemma.text.tokenizer.Tokenizer` in which every byte is a token, and every pair in `merges` one more."""
    from dgemma.text.tokenizer import Tokenizer

    return Tokenizer.from_json(byte_tokenizer_json(merges))
