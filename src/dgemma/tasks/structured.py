"""Answers of a given form: a JSON schema, a regular expression or a Lark grammar, kept by llguidance and walked over the canvas.

engine/grammar.py does the walking; here a form becomes a Grammar over this checkpoint's tokens. Refuses to guess: what llguidance cannot
keep, or nothing can satisfy, is a UsageError before the first pass. Control tokens are never part of a form's text.

Nobody can compute the shortest way to a form's end in general. A way is found by trying what closes things first, then at random from a
fixed seed, and is remembered: an answer that has begun to close goes on closing.
"""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..config.extras import missing_extra
from ..errors import UsageError
from ..text.tokenizer import Tokenizer

PACKAGE = "llguidance"
TRIES = 32  # random ways to the end, where closing brackets first does not lead there
LONGEST_WAY = 4096  # tokens
MOST_WAYS = 256  # remembered per answer
MOST_BYTES = 1 << 20  # of a schema, expression or grammar
CLOSERS = b"\"}])>'"
_ENGINES: dict[int, tuple[Tokenizer, _Pieces, Any, Tensor]] = {}  # by tokenizer: see `_engine`
_MAKING = threading.Lock()  # requests come on threads of their own


Way = tuple[tuple[int, ...], tuple[int, ...]]  # ids taken, and the ids that end the answer from there


class Form:
    """A Grammar: every answer of one form, ended by one of `ends`."""

    def __init__(self, source: str, tokenizer: Tokenizer, ends: Sequence[int]):
        library = _library()
        self.pieces, self.vocabulary, self.order = _engine(library, tokenizer)
        self.ends, self.end = frozenset(ends), ends[0]
        self.matcher = library.LLMatcher(self.vocabulary, source, log_level=0)
        if self.matcher.is_error():
            raise UsageError(f"the asked form cannot be kept: {_line(self.matcher.get_error())}")
        if FormWalk(self, self.matcher, (), deque(maxlen=MOST_WAYS)).closing(LONGEST_WAY) is None:
            raise UsageError(f"the asked form cannot be kept: no text of at most {LONGEST_WAY} tokens was found that has it")

    def begin(self) -> FormWalk:
        return FormWalk(self, self.matcher.deep_copy(), (), deque(maxlen=MOST_WAYS))


class FormWalk:
    """A Walk: the matcher behind the ids taken."""

    def __init__(self, form: Form, matcher: Any, taken: tuple[int, ...], ways: deque[Way]):
        self.form, self.matcher, self.taken, self.ways = form, matcher, taken, ways
        self.ended = False

    def copy(self) -> FormWalk:
        walk = FormWalk(self.form, self.matcher.deep_copy(), self.taken, self.ways)
        walk.ended = self.ended
        return walk

    def take(self, ids: Sequence[int]) -> int:
        if self.ended:
            return 0
        end = next((place for place, token in enumerate(ids) if token in self.form.ends), len(ids))
        count = self._consume(list(ids[:end]))
        if count == end < len(ids) and self.matcher.is_accepting():
            self.ended, count = True, count + 1
        self.taken += tuple(ids[:count])
        return count

    def _consume(self, ids: list[int]) -> int:
        size = self.form.vocabulary.vocab_size
        known = next((place for place, token in enumerate(ids) if token >= size), len(ids))
        if self.matcher.is_stopped():
            return 0
        count = self.matcher.try_consume_tokens(ids[:known])
        if self.matcher.is_error():
            raise UsageError(f"the asked form is too much: {_line(self.matcher.get_error())}")
        return count

    def forced(self) -> list[int]:
        if self.matcher.is_stopped():
            return [self.form.end]
        return self.matcher.compute_ff_tokens()

    def allowed(self) -> Tensor:
        """[V] bool; end tokens where the form may be left."""
        allowed = torch.zeros(self.form.vocabulary.vocab_size, dtype=torch.bool)
        if not self.matcher.is_stopped():
            bits = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
            allowed = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()[: len(allowed)].bool()
        if self.matcher.is_error():
            raise UsageError(f"the asked form is too much: {_line(self.matcher.get_error())}")
        allowed[self.form.vocabulary.eos_token] = False
        allowed[list(self.form.ends)] = self.matcher.is_accepting()
        return allowed

    def closing(self, most: int) -> list[int] | None:
        if self.ended:
            return []
        for taken, known in self.ways:
            gone = len(self.taken) - len(taken)
            if 0 <= gone < len(known) and self.taken == taken + known[:gone]:
                way = [*known[gone:]]
                break
        else:
            if (way := self._way()) is None:
                return None
            self.ways.append((self.taken, (*way,)))
        return way if len(way) <= most else None

    def _way(self) -> list[int] | None:
        if (way := self._try(LONGEST_WAY, None)) is not None:
            return way
        found = [way for seed in range(TRIES) if (way := self._try(LONGEST_WAY // 8, random.Random(seed))) is not None]
        return min(found, key=len, default=None)

    def _try(self, most: int, draw: random.Random | None) -> list[int] | None:
        """One way to the end: the first allowed token of the order of closing, or a random one."""
        walk, way = self.copy(), []
        while len(way) < most:
            if walk.matcher.is_accepting():
                return [*way, self.form.end]
            ids = walk.forced()
            if not ids:
                allowed = walk.allowed()
                if draw is None:
                    ids = [self._nearest(allowed)]
                elif len(choices := allowed.nonzero()[:, 0]):
                    ids = [int(choices[draw.randrange(len(choices))])]
            if not ids or len(way) + len(ids) > most or walk.take(ids) < len(ids):  # what is forced may be of any length
                return None
            way += ids
        return None

    def _nearest(self, allowed: Tensor) -> int:
        """The allowed token that comes first in the order of closing; where no letter may stand, brackets go before quotes."""
        pieces, order = self.form.pieces, self.form.order
        if not allowed[pieces.letter] and (closers := [i for i in pieces.brackets if allowed[i]]):
            return closers[0]
        return int(order.masked_fill(~allowed, len(order)).argmin())


def form(name: str, value: Any, tokenizer: Tokenizer, ends: Sequence[int]) -> Form:
    """The Grammar of a `json_schema` (a mapping, or its JSON), a `regex` or a Lark `grammar`. Raises UsageError where it cannot be kept."""
    library = _library()
    if not ends:
        raise UsageError(f"{name} needs an end token to end the answer; leave eos_token_id out")
    if name != "json_schema" and (not isinstance(value, str) or not value):
        raise UsageError(f"{name} must be a text of at least one character")
    text = _schema(value) if name == "json_schema" else value
    if len(text) > MOST_BYTES:
        raise UsageError(f"{name} has {len(text)} characters; at most {MOST_BYTES} are read")
    if name == "json_schema":
        source = library.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
    else:
        made = {"regex": library.LLMatcher.grammar_from_regex, "tool_choice": library.LLMatcher.grammar_from_lark}
        source = made[name](text) if name in made else _lark(library, text)
    if problem := library.LLMatcher.validate_grammar(source):
        raise UsageError(f"{name} cannot be kept: {_line(problem)}")
    return Form(source, tokenizer, ends)


def _lark(library: Any, text: str) -> str:
    """The Grammar of a text in Lark's notation, or in llama.cpp's (GBNF)."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return library.LLMatcher.grammar_from_lark(any_to_lark(text))
    except Exception as error:  # it raises whatever its reader meets
        raise UsageError(f"grammar cannot be read: {_line(str(error))}") from None


def _schema(value: Any) -> str:
    """A schema's JSON text."""
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        text = json.dumps({} if schema is True else schema, allow_nan=False)  # the two mean the same; the library reads objects only
    except (ValueError, TypeError, RecursionError):
        raise UsageError("json_schema is not JSON") from None
    if not isinstance(schema, dict | bool):
        raise UsageError("json_schema must be an object")
    if schema is False:
        raise UsageError("json_schema is false, which nothing fits")
    return text


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise missing_extra("an answer of a given form", PACKAGE) from None
    return llguidance


def _engine(library: Any, tokenizer: Tokenizer) -> tuple[_Pieces, Any, Tensor]:
    """A vocabulary's tokens, llguidance's view of them, and the order in which its tokens are tried to come to an end."""
    with _MAKING:
        if id(tokenizer) not in _ENGINES:
            pieces = _Pieces(tokenizer)
            vocabulary = library.LLTokenizer(library.TokenizerWrapper(pieces), n_vocab=len(pieces.tokens))
            _ENGINES.clear()
            _ENGINES[id(tokenizer)] = tokenizer, pieces, vocabulary, _order(pieces.tokens)
        return _ENGINES[id(tokenizer)][1:]


class _Pieces:
    """A tokenizer as llguidance asks for it: the bytes of each token, none for control tokens."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        control = tokenizer.control_ids
        self.eos_token_id, self.bos_token_id = tokenizer.special.need("eos"), tokenizer.special.bos
        self.special_token_ids = sorted(control)
        self.tokens = [b"" if i in control else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.letter = self.tokens.index(b"z")
        self.brackets = [self.tokens.index(bracket) for bracket in (b"}", b"]")]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _order(pieces: Sequence[bytes]) -> Tensor:
    """A rank for every token, least first: what closes, quotes before brackets, shortest first; then digits
    and letters, longest first; single bytes.

    Inside a string a bracket is a letter like others and the quote is what closes it; elsewhere, see `FormWalk._nearest`.
    """

    def rank(piece: bytes) -> tuple[int, int]:
        if piece and all(byte in CLOSERS for byte in piece):
            return (0 if piece.startswith(b'"') else 1), len(piece)
        if piece.isalnum() and piece.isascii():
            return 2, -len(piece)
        return (3, piece[0]) if len(piece) == 1 else (4, len(piece))

    order = torch.empty(len(pieces), dtype=torch.int64)
    order[torch.tensor(sorted(range(len(pieces)), key=lambda i: rank(pieces[i])), dtype=torch.int64)] = torch.arange(len(pieces))
    return order


def _line(problem: str) -> str:
    """The first lines of llguidance's words, as one."""
    return " ".join(problem.split())[:300]
