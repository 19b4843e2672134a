"""A small tokenizer of the published checkpoints' kind: sentencepiece BPE with byte fallback and plain added tokens."""

from __future__ import annotations

from typing import Any

from dgemma.text.tokenizer import Tokenizer
from dgemma.text.vocabulary import CONTROL_TEXTS

PLAIN = [
    "\n\n",
    "\u2581\u2581",
    "<table>",
    "</h1>",
]  # added tokens without the special flag, which text may match
ODD = ["<|odd|>", "[multimodal]", "<unused7>"]  # added tokens without the flag, which text must not match
MERGES = [
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("\u2581", "hello"),
    ("\n", "\n"),
    ("\u2581", "\u2581"),
]


def gemma_like_json() -> dict[str, Any]:
    control = list(CONTROL_TEXTS.values())
    tokens = [*control, *ODD, *PLAIN, *(f"<0x{byte:02X}>" for byte in range(256))]
    characters = [*map(chr, range(0x21, 0x7F)), "\n", "\u2581", "é", "中"]
    tokens += [t for t in [*characters, *(a + b for a, b in MERGES)] if t not in tokens]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": n, "content": t, "special": t in control, **flags}
        for n, t in enumerate([*control, *ODD, *PLAIN])
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [list(pair) for pair in MERGES],
        },
    }


def gemma_like() -> Tokenizer:
    return Tokenizer.from_json(gemma_like_json())


def gguf_tokens() -> tuple[list[str], list[int]]:
    """The same tokens, and their types in the way that the published GGUF files' conversion gives them."""
    tokens = list(gemma_like_json()["model"]["vocab"])
    shown = {
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|tool_response>",
        "<tool_response|>",
        '<|"|>',
    }
    normal, control, given, byte = 1, 3, 4, 6
    marked = {text: given if text in shown else control for text in CONTROL_TEXTS.values()}
    return tokens, [byte if token.startswith("<0x") else marked.get(token, normal) for token in tokens]
