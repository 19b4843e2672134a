"""The vocabulary inside a GGUF file as the JSON of a `tokenizer.json`, which tokenizer.py builds from.

One kind is read, `tokenizer.ggml.model` = "gemma4", which the published files of this model hold: merges by
rank over characters, spaces written as U+2581, runs of newlines apart from what is around them, bytes for
what has no token. Knows metadata as plain values, no file. Trap: a GGUF file keeps no list of added tokens.
Its token types name the control tokens; but ordinary text that no merge builds (runs of newlines, in some
vocabularies) was an added token too, and has to be matched whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.reader import shown
from ..errors import ConfigError
from .vocabulary import PLAIN

KIND = "gemma4"
_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _GIVEN, _UNUSED, _BYTE = range(
    1, 7
)  # ggml's types of tokens; _GIVEN: "user defined"


def is_readable(metadata: Mapping[str, Any]) -> bool:
    """Whether a file holds a vocabulary of the kind that is read."""
    return metadata.get(_PREFIX + "model") == KIND


def tokenizer_json(metadata: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The `tokenizer.json` of a file's metadata.

    Raises ConfigError that names `source` where it holds none that is read.
    """
    if not is_readable(metadata):
        raise ConfigError(
            f"{source}: its vocabulary is of the kind {shown(metadata.get(_PREFIX + 'model'))}; '{KIND}' is "
            f"read"
        )
    tokens, merges = (_list(metadata, key, str, source) for key in ("tokens", "merges"))
    types = _list(metadata, "token_type", int, source)
    vocab = {text: number for number, text in enumerate(tokens)}
    if len(vocab) < len(tokens):
        raise ConfigError(f"{source}: {len(tokens) - len(vocab)} tokens stand twice in its vocabulary")
    if len(types) != len(tokens) or not all(_NORMAL <= one <= _BYTE for one in types):
        raise ConfigError(
            f"{source}: '{_PREFIX}token_type' does not give each of {len(tokens)} tokens one of six types"
        )
    pairs = [merge.split(" ") for merge in merges]
    if odd := next(
        (merge for merge, pair in zip(merges, pairs, strict=True) if not _is_merge(pair, vocab)), None
    ):
        raise ConfigError(f"{source}: the merge {shown(odd)} does not make a token out of two")
    if metadata.get(_PREFIX + "add_space_prefix", False):
        raise ConfigError(
            f"{source}: '{_PREFIX}add_space_prefix' is set; text would not come back as it was given"
        )
    built = {first + second for first, second in pairs}
    added = [
        {"id": number, "content": text, "special": one in (_UNKNOWN, _CONTROL), **_AS_IT_STANDS}
        for number, (text, one) in enumerate(zip(tokens, types, strict=True))
        if one in (_UNKNOWN, _CONTROL, _GIVEN)
        or (len(text) > 1 and text not in built and PLAIN.fullmatch(text))
    ]
    model = {
        "type": "BPE",
        "vocab": vocab,
        "merges": pairs,
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_token": "<unk>" if "<unk>" in vocab else None,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "model": model,
        **_STEPS,
    }


_AS_IT_STANDS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_STEPS = {
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\n+"}, "behavior": "Isolated", "invert": False},
    "post_processor": None,
    "decoder": {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    },
}


def _list(metadata: Mapping[str, Any], key: str, kind: type, source: str) -> list[Any]:
    values = metadata.get(_PREFIX + key)
    if not isinstance(values, list) or not all(isinstance(one, kind) for one in values):
        raise ConfigError(
            f"{source}: the metadata '{_PREFIX}{key}' is missing, or no list of {kind.__name__}"
        )
    return values


def _is_merge(pair: list[str], vocab: Mapping[str, int]) -> bool:
    return len(pair) == 2 and all(text in vocab for text in (*pair, "".join(pair)))
