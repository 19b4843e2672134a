"""A small vocabulary: a byte-level BPE for source code and plain sentences, learned from a text.

Knows text, merges and the control tokens of the Gemma 4 vocabulary; refuses to know turns (text/ gives the
tokens their meaning) and torch. Any text comes back byte for byte: all 256 bytes are in the vocabulary,
nothing is normalised, and no token is put in front or behind.

The trap: `encode` finds control tokens in ordinary text unless `tokenizer.encode_special_tokens = True` is
set. That switch is not saved in `tokenizer.json`, so whoever encodes files or user text sets it after
loading.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..errors import UsageError

# Ids 0.. in this order. pad, eos and bos have the released checkpoint's ids, the others are looked up by
# their text. Images and audio are reserved, so that a prompt written for the released model never meets an
# unknown control token.
CONTROL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
    "<|image>",
    "<|image|>",
    "<image|>",
    "<|audio>",
    "<|audio|>",
    "<audio|>",
)

# What BPE may merge, first match wins. Line breaks are joined with the
# indentation behind them, and a word with its underscores and one sign in front of it: fewer tokens
# (docs/log.md).
_PIECES = "|".join(
    (
        # line breaks and the indentation after them: one token knows where the next line starts
        r"\n+[ \t]*",
        r"[^\s\p{L}\p{N}_]?_*\p{L}+",  # a word with its underscores and one sign: `.join`, `"utf`, `@__slots`
        r" _*\p{L}+",  # the same after a space
        # digits one by one: a number has as many tokens as digits, so places in a canvas are sure
        r" ?\p{N}",
        r" ?[^\s\p{L}\p{N}]+",  # signs: `):`, ` ==`, `__(`
        r" +(?= \S)",  # alignment, less the one space that belongs to the next word
        r"[^\S\n]+",  # what is left of blanks: before a line break, or other than spaces
    )
)


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges from `texts`; exactly `vocab_size` tokens, control tokens and 256 bytes included.

    The same texts in the same order give the same tokenizer. Raises UsageError for a size too small to hold
    the bytes, or larger than the texts have merges for.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(CONTROL_TOKENS) + len(alphabet)
    if vocab_size < least:
        raise UsageError(f"vocab_size {vocab_size} is too small: bytes and control tokens alone are {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS],
        initial_alphabet=alphabet,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (size := tokenizer.get_vocab_size()) != vocab_size:
        raise UsageError(f"vocab_size {vocab_size} is more than this text has merges for; it ends at {size}")
    return tokenizer
