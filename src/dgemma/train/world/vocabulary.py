"""The vocabulary made for the world: every word that an answer holds is one token, every syllable of a made
name another.

An ordinary BPE spends its merges on pieces of names and cuts rare words of the closed lists into three. Here
words are put in whole, found in one piece before any merge is tried (`ignore_merges`); what is not among
them, prompts above all, is left to merges learned as usual. Two traps: a reader that does not know the switch
cuts words into their letters; and control tokens must be no words of the model (they have the last ids), or a
text that spells one would be found whole.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
from collections.abc import Iterator

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from ...errors import UsageError
from ..tokenizer import CONTROL_TOKENS
from . import facts, german, names, words
from .example import Example
from .world import World

EXAMPLES = 20_000  # that words are counted in
LEAST = 5  # how often an answer's word must be seen to have a token of its own
# Signs stand apart from words, unlike in general code: "Paris is the same token behind a quote as behind a
# bracket.
# Three quotes stand apart too, so that a docstring is cut at its ends.
PIECES = r'\n+[ \t]*| ?_*\p{L}+| ?\p{N}| ?"""| ?(?:(?!""")[^\s\p{L}\p{N}_])+| ?_+| +(?= \S)|[^\S\n]+'
# What turns, tools and their calls are written with (text/turns.py, text/tools.py).
SYNTAX = tuple(
    (
        "system user model declaration description parameters properties required type call response value "
        "OBJECT STRING INTEGER"
    ).split()
)

Merge = tuple[str, str]


def vocabulary(size: int, seed: int = 0, examples: int = EXAMPLES) -> tokenizers.Tokenizer:
    """A tokenizer of exactly `size` tokens. The same arguments give the same one.

    Raises UsageError where size is too small.
    """
    cut = _cutter()
    written, shown = _counts(seed, examples, cut)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    syllables = _syllable_merges()
    tokens = dict.fromkeys([*alphabet, *("".join(merge) for merge in syllables)])
    whole = [f"Ġ{word}" for word in closed_words()]
    whole += SYNTAX
    whole += [
        piece
        for piece, count in written.most_common()
        if count >= LEAST and len(piece) > 1 and not _is_open(piece)
    ]
    tokens |= dict.fromkeys(whole)
    most = size - len(CONTROL_TOKENS)
    if len(tokens) > most:
        least = len(tokens) + len(CONTROL_TOKENS)
        raise UsageError(f"vocab_size {size} is too small: the world's words and all bytes are {least}")
    others = {piece: count for piece, count in shown.items() if piece not in tokens and not _is_open(piece)}
    merges = dict.fromkeys(syllables)
    for merge in _learn(others, size):
        if len(tokens) == most:
            break
        if "".join(merge) not in tokens:
            tokens["".join(merge)] = None
        merges.setdefault(merge)  # a second entry would take the first one's rank
    ids = {token: place for place, token in enumerate(tokens)}
    if len(ids) != most:
        raise UsageError(f"vocab_size {size} is more than this text has merges for; take a smaller one")
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=list(merges), ignore_merges=True))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS]
    )
    return tokenizer


def closed_words() -> list[str]:
    """The words of the closed lists that stand inside sentences, in no particular order."""
    lists = (
        words.COLORS,
        words.THINGS,
        words.ANIMALS,
        words.FRUITS,
        words.PLACES,
        words.JOBS,
        words.NOUNS,
        facts.DAYS,
    )
    closed = [word for one in lists for word in one]
    closed += [word for verb in words.VERBS for word in verb]
    closed += [*facts.CAPITALS.values(), *facts.CAPITALS, *facts.OPPOSITES, *facts.OPPOSITES.values()]
    for article, noun in german.NOUNS.values():
        closed += [article, noun]
    for adjective in german.ADJECTIVES.values():
        closed += [adjective, f"{adjective}e", f"{adjective}en"]
    closed += [word for verb, (third, _, first) in german.VERBS.items() for word in (verb, third, first)]
    return [_as_bytes(word) for word in dict.fromkeys(closed)]


def _as_bytes(word: str) -> str:
    """A word in the letters that a byte-level vocabulary writes bytes with."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)[0][0]


def _cutter() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def written_texts(example: Example) -> Iterator[str]:
    """What the model writes in an example."""
    if example.gap:
        yield example.text
    for message in example.messages:
        if message["role"] == "assistant":
            yield message["content"]
            for call in message.get("tool_calls", ()):
                arguments = call["function"]["arguments"]
                yield " ".join([call["function"]["name"], *arguments, *map(str, arguments.values())])


def shown_texts(example: Example) -> Iterator[str]:
    """What the model only reads in an example."""
    yield from (message["content"] for message in example.messages if message["role"] != "assistant")


def _counts(
    seed: int, examples: int, cut: pre_tokenizers.PreTokenizer
) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """How often each piece is written, and how often it is shown."""
    world = World(seed)
    written: collections.Counter[str] = collections.Counter()
    shown: collections.Counter[str] = collections.Counter()
    for example in (world.sample(number) for number in range(examples)):
        for counter, texts in ((written, written_texts(example)), (shown, shown_texts(example))):
            counter.update(piece for text in texts for piece, _ in cut.pre_tokenize_str(text))
    return written, shown


def _is_open(piece: str) -> bool:
    """Whether a piece is an open word: made of syllables or a rare name."""
    word = piece.lstrip("Ġ_")
    return word.lower() in _made_words() or word in names.RARE


@functools.cache
def _made_words() -> frozenset[str]:
    """Every made word in small letters."""
    middles = ("", *names.STARTS)
    return frozenset("".join(parts) for parts in itertools.product(names.STARTS, middles, names.ENDS))


def _syllable_merges() -> list[Merge]:
    """Merges that make every syllable one token, at the start of a word also with its capital, blank or "
    "underscore."""
    merges: dict[Merge, None] = {}
    for start in names.STARTS:
        merges[start[0], start[1]] = None
        merges[start[0].upper(), start[1]] = None
    for end in names.ENDS:
        merges[end[0], end[1]] = None
    for end in names.ENDS:
        merges[end[:2], end[2]] = None
    for start in names.STARTS:
        merges["Ġ", start] = None
        merges["Ġ", start.capitalize()] = None
        merges["_", start] = None
    return list(merges)


def _learn(counts: dict[str, int], size: int) -> list[Merge]:
    """The merges of an ordinary BPE over pieces and how often each stands."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("\n"), behavior="removed")
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False)
    learner.train_from_iterator(
        ("\n".join([piece] * count) for piece, count in sorted(counts.items())), trainer
    )
    return [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
