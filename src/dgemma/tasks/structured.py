"""Answers of a given form: a JSON schema, a regular expression or a Lark grammar, kept by llguidance.

engine/grammar.py walks a form over the canvas; here it becomes a Grammar over this checkpoint's tokens. It is
compiled in a child process first (forms/compiler.py), and its shortest answer is known before the first pass
(forms/language.py, forms/ways.py). Refuses to guess: what cannot be kept is a UsageError. Control tokens are
never part of a form's text.

Trap: an OutputConstraint and its walks share one Language, so they belong to one thread at a time: the
request's until the request is submitted, then whoever makes passes.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.extras import missing_extra
from ..errors import UsageError
from ..text.tokenizer import Tokenizer
from .forms.compiler import ALONE, LIMITS, Asker, Compiler, first_line, too_much
from .forms.expressions import Unread, expression
from .forms.language import Exhausted, Expression, Language
from .forms.lark import compact_json, grammar_texts
from .forms.mended import mended, schema_of
from .forms.names import Names
from .forms.texts import schema_texts
from .forms.ways import Spelling, Ways

PACKAGE = "llguidance"
MOST_WAYS = 256  # remembered per answer
MOST_BYTES = 1 << 20  # of a schema, expression or grammar
MOST_WORK = 400_000  # operations of the search for the shortest answer; docs/sampling.md tells users
BUILD_WORK = 100_000  # operations of reading a form as a language
TURN_WORK = 5_000  # of these at a time, between two passes
PASS_WORK = 6_000  # operations that one step may spend at one place of a draft
REQUEST_WORK = 4_000_000  # and all steps of a request together
TOKEN_WORK = 5_000  # more for each token of its answer
JSON_OPTIONS = {"whitespace_flexible": False, "coerce_one_of": True}
_ENGINES: dict[int, _Engine] = {}  # by tokenizer: see `_engine`
_MAKING = threading.Lock()  # requests come on threads of their own

Way = tuple[tuple[int, ...], tuple[int, ...]]  # ids taken, and the ids that end the answer from there
Turns = Callable[[Callable[[], bool]], bool]  # calls something where it holds up no pass
Build = Callable[[Language], Expression]


def at_once(work: Callable[[], bool]) -> bool:
    """Turns where nobody else makes passes."""
    return work()


class OutputConstraint:
    """A Grammar: every answer of one form, ended by one of `ends`. `notes`: what of it is not kept."""

    def __init__(
        self,
        source: str,
        engine: _Engine,
        ends: Sequence[int],
        build: Build | None,
        notes: tuple[str, ...] = (),
        names: bool = False,
    ):
        library = _library()
        self.engine = engine
        self.ends = frozenset(ends)
        self.end = ends[0]
        self.notes = notes
        self.language = Language(BUILD_WORK)
        self.finder = Ways(self.language, engine.spelling)
        self.start = _read(self.language, build)
        self.matcher = library.LLMatcher(
            engine.vocabulary, source, log_level=0, limits=library.LLParserLimits(**LIMITS)
        )
        if self.matcher.is_error():
            raise UsageError(f"the asked form cannot be kept: {first_line(self.matcher.get_error())}")
        self.ways: deque[Way] = deque(maxlen=MOST_WAYS)
        self.names = Names() if names else None  # where an object may have a name but once

    def begin(self) -> ConstraintWalk:
        return ConstraintWalk(self, self.matcher.deep_copy(), (), self.start, self.names)

    def prepare(self, turns: Turns) -> None:
        """Find the shortest answer, by turns.

        Raises UsageError where there is none, or where none was found in time.
        """
        before = self.language.work
        while not turns(self._search_on):
            if self.language.work - before > MOST_WORK:
                raise UsageError(
                    f"no answer of the asked form was found within {MOST_WORK} steps; ask for a simpler form"
                )
        if self.begin().closing() is not None:
            return
        if self.start is not None and self.language.shortest(self.start) is None:
            raise UsageError("no text has the asked form: what it demands contradicts itself")
        raise UsageError("no answer of the asked form was found; ask for a simpler form")

    def _search_on(self) -> bool:
        """Whether the search has come to its end."""
        try:
            self.find(self.matcher, self.start, (), TURN_WORK, self.names)
        except Exhausted:
            return False
        return True

    def allow(self, work: int, tokens: int) -> None:
        """Let the language do so much more work, for an answer of so many tokens."""
        self.language.budget = min(self.language.work + work, REQUEST_WORK + TOKEN_WORK * tokens)

    def find(
        self, matcher: Any, rest: Expression | None, taken: tuple[int, ...], work: int, names: Names | None
    ) -> list[int] | None:
        """The way to the end from a place, remembered. Raises Exhausted where it takes more work."""
        self.allow(work, len(taken))
        way = self.finder.find(matcher, rest, taken, names)
        if way is None:
            return None
        way.append(self.end)
        self.ways.append((taken, (*way,)))
        return way


def _read(language: Language, build: Build | None) -> Expression | None:
    """The language of a form; None where it is not read here, and its ends are searched for."""
    if build is None:
        return None
    try:
        return build(language)
    except (Unread, Exhausted, RecursionError):
        return None


class ConstraintWalk:
    """A Walk: the matcher behind the ids taken, and what the language may still hold there."""

    def __init__(
        self,
        constraint: OutputConstraint,
        matcher: Any,
        taken: tuple[int, ...],
        rest: Expression | None,
        names: Names | None,
    ):
        self.constraint = constraint
        self.matcher = matcher
        self.taken = taken
        self.names = None
        if names is not None:
            self.names = names.copy()
        self.ended = False
        self._rest = rest  # the language behind all but the last `_unread` of the ids taken
        self._unread = 0

    def copy(self) -> ConstraintWalk:
        walk = ConstraintWalk(self.constraint, self.matcher.deep_copy(), self.taken, self._rest, self.names)
        walk.ended = self.ended
        walk._unread = self._unread
        return walk

    def take(self, ids: Sequence[int]) -> int:
        if self.ended:
            return 0
        end = next((place for place, token in enumerate(ids) if token in self.constraint.ends), len(ids))
        end = self._until_repeated_name(ids[:end])
        count = self._consume(list(ids[:end]))
        if self.names is not None:
            self.names.take(self.constraint.engine.spelling.text(ids[:count]))
        self.taken += tuple(ids[:count])
        self._unread += count
        is_end_next = count == end < len(ids) and ids[count] in self.constraint.ends
        if is_end_next and self.matcher.is_accepting():
            self.ended = True
            self.taken += (ids[count],)
            count += 1
        return count

    def _until_repeated_name(self, ids: Sequence[int]) -> int:
        """How many of the ids come before one that closes a name which its object has already."""
        if self.names is None:
            return len(ids)
        names = self.names.copy()
        pieces = self.constraint.engine.spelling.pieces
        for place, token in enumerate(ids):
            if token < len(pieces) and not names.take(pieces[token]):
                return place
        return len(ids)

    def _consume(self, ids: list[int]) -> int:
        size = self.constraint.engine.vocabulary.vocab_size
        known = next((place for place, token in enumerate(ids) if token >= size), len(ids))
        if self.matcher.is_stopped():
            return 0
        count: int = self.matcher.try_consume_tokens(ids[:known])
        self._check()
        return count

    def _check(self) -> None:
        if self.matcher.is_error():
            raise too_much(self.matcher)

    def forced(self) -> list[int]:
        if self.matcher.is_stopped():
            return [self.constraint.end]
        ids: list[int] = self.matcher.compute_ff_tokens()
        return ids

    def allowed(self) -> Tensor:
        """[V] bool; end tokens where the form may be left."""
        vocabulary = self.constraint.engine.vocabulary
        allowed = np.zeros(vocabulary.vocab_size, dtype=np.bool_)
        if not self.matcher.is_stopped():
            mask = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.unpackbits(mask, count=vocabulary.vocab_size, bitorder="little").view(np.bool_)
        self._check()
        if self.names is not None and self.names.any:
            pieces = self.constraint.engine.spelling.pieces
            for token in (allowed & self.constraint.engine.quoting).nonzero()[0].tolist():
                allowed[token] = self.names.copy().take(pieces[token])
        allowed[vocabulary.eos_token] = False
        for end in self.constraint.ends:
            if end < len(allowed):
                allowed[end] = self.matcher.is_accepting()
        return torch.from_numpy(allowed)

    def closing(self) -> list[int] | None:
        if self.ended:
            return []
        for taken, known in self.constraint.ways:
            gone = len(self.taken) - len(taken)
            if 0 <= gone < len(known) and self.taken == taken + known[:gone]:
                return [*known[gone:]]
        try:
            return self.constraint.find(self.matcher, self._place(), self.taken, PASS_WORK, self.names)
        except (Exhausted, RecursionError):
            return None

    def _place(self) -> Expression | None:
        """What the language may still hold; None where it is not known, or where the matcher knows more than
        it.
        """
        language = self.constraint.language
        if self._rest is not None and self._unread:
            text = self.constraint.engine.spelling.text(self.taken[len(self.taken) - self._unread :])
            self.constraint.allow(PASS_WORK, len(self.taken))
            rest = language.walk(self._rest, text)
            self._rest = rest
            if rest is language.nothing:
                self._rest = None
        self._unread = 0
        return self._rest


def output_constraint(
    name: str,
    value: Any,
    tokenizer: Tokenizer,
    ends: Sequence[int],
    asker: Asker = ALONE,
    turns: Turns = at_once,
) -> OutputConstraint:
    """The Grammar of a `json_schema` (a mapping, or its JSON), a `regex` or a Lark `grammar`.

    asker: who waits for it; turns: where the search for its end may run.
    Raises UsageError where it cannot be kept.
    """
    library = _library()
    if not ends:
        raise UsageError(f"{name} needs an end token to end the answer; leave eos_token_id out")
    if name == "json_schema":
        schema, notes = mended(schema_of(value, name), name)
        source = library.LLMatcher.grammar_from_json_schema(
            _limited(name, json.dumps(schema)), overrides=JSON_OPTIONS
        )
        names = "minProperties" in source
        return _constraint(
            name,
            source,
            tokenizer,
            ends,
            lambda language: schema_texts(language, schema),
            notes,
            asker,
            turns,
            names=names,
        )
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name} must be a text of at least one character")
    _limited(name, value)
    if name == "regex":
        source = library.LLMatcher.grammar_from_regex(value)
        return _constraint(
            name, source, tokenizer, ends, lambda language: expression(language, value), (), asker, turns
        )
    return _constraint(name, compact_json(value), tokenizer, ends, None, (), asker, turns, translate=True)


def call_constraint(
    tools: Sequence[tuple[str, Any]],
    tokenizer: Tokenizer,
    end: int,
    asker: Asker = ALONE,
    turns: Turns = at_once,
) -> OutputConstraint:
    """The Grammar of a call's inside: `call:NAME` and arguments.

    tools: of each that may be called its name and the schema of its arguments.
    """
    library = _library()
    rules = [f"start: {' | '.join(f'call{n}' for n in range(len(tools)))}"]
    notes: dict[str, None] = {}
    schemas = []
    for n, (name, parameters) in enumerate(tools):
        label = f"the parameters of tool {name:.64}"
        schema, lost = mended({"type": "object"} | schema_of(parameters or {}, label), label)
        notes |= dict.fromkeys(f"{label}: {note}" for note in lost)
        text = json.dumps(schema | {"x-guidance": JSON_OPTIONS})
        rules += [f"call{n}: {json.dumps('call:' + name)} given{n}", f"given{n}: %json {text}"]
        schemas.append((name, schema))

    def build(language: Language) -> Expression:
        calls = (
            language.sequence(language.text(f"call:{name}".encode()), schema_texts(language, one))
            for name, one in schemas
        )
        return language.choice(*calls)

    source = library.LLMatcher.grammar_from_lark(_limited("tools", "\n".join(rules)))
    names = "minProperties" in source
    return _constraint(
        "a tool's parameters", source, tokenizer, (end,), build, tuple(notes), asker, turns, names=names
    )


def _constraint(
    name: str,
    source: str,
    tokenizer: Tokenizer,
    ends: Sequence[int],
    build: Build | None,
    notes: tuple[str, ...],
    asker: Asker,
    turns: Turns,
    translate: bool = False,
    names: bool = False,
) -> OutputConstraint:
    engine = _engine(_library(), tokenizer)
    checked = engine.compiler.check(source, name, asker, translate)
    if any("oneOf" in warning for warning in checked.warnings):
        notes += ("oneOf is kept as anyOf: an answer may have the form of more than one of its schemas",)
    if translate:
        build = partial(grammar_texts, text=checked.source)
    made = OutputConstraint(checked.source, engine, ends, build, notes, names)
    made.prepare(turns)
    return made


def _limited(name: str, text: str) -> str:
    if len(text) > MOST_BYTES:
        raise UsageError(f"{name} has {len(text)} characters; at most {MOST_BYTES} are read")
    return text


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise missing_extra("an answer of a given form", PACKAGE) from None
    return llguidance


class _Engine:
    """What all forms over one vocabulary share."""

    def __init__(self, library: Any, tokenizer: Tokenizer):
        pieces = _Pieces(tokenizer)
        self.tokenizer = tokenizer
        self.vocabulary = library.LLTokenizer(library.TokenizerWrapper(pieces), n_vocab=len(pieces.tokens))
        self.spelling = Spelling(pieces.tokens)
        self.quoting = np.array([b'"' in piece for piece in pieces.tokens])
        self.compiler = Compiler(
            pieces.tokens, pieces.special_token_ids, pieces.eos_token_id, pieces.bos_token_id
        )


def _engine(library: Any, tokenizer: Tokenizer) -> _Engine:
    """The newest vocabulary's: there is seldom more than one in a process."""
    with _MAKING:
        if id(tokenizer) not in _ENGINES:
            for old in _ENGINES.values():
                old.compiler.close()
            _ENGINES.clear()
            _ENGINES[id(tokenizer)] = _Engine(library, tokenizer)
        return _ENGINES[id(tokenizer)]


class _Pieces:
    """A tokenizer as llguidance wants it: the bytes of each token, none for control tokens."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        control = tokenizer.control_ids
        self.eos_token_id = tokenizer.special.need("eos")
        self.bos_token_id = tokenizer.special.bos
        self.special_token_ids = sorted(control)
        self.tokens = [b"" if i in control else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)
