"""What goes into the engine and what comes out: requests, step records, results.

Ids only, no text, no tensors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..config import NO_RULES, DenoiseConfig, ModelConfig, TokenRules
from ..config.reader import is_whole
from ..errors import LengthError, UsageError
from .grammar import Grammar, cannot_be_closed

SEEDS = 2**63  # they are numbered from 0


def next_seed(seed: int, places: int = 1) -> int:
    """The seed that many places behind another one; the last is followed by 0."""
    return (seed + places) % SEEDS


@dataclass(frozen=True)
class Request:
    """One prompt and how to continue it. Checked against a model by `check`."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int = 0
    config: DenoiseConfig = DenoiseConfig()
    canvas_ids: tuple[tuple[int, ...], ...] = ()  # starting tokens of the first canvases, instead of noise
    pins: tuple[int, ...] | None = None  # of the first canvas: a token id, or -1 where the model decides
    client: str = ""  # whose share of passes, slots and cache it takes: an opaque name
    cache_salt: str = ""  # only requests of the same salt share what was read of their prompts
    resume_points: tuple[int, ...] = ()  # places in the prompt where others are likely to part from it: turns
    rules: TokenRules = NO_RULES
    grammar: Grammar | None = None  # what the answer may be
    only: tuple[
        tuple[int, tuple[int, ...]], ...
    ] = ()  # cells of the first canvas, the tokens that each may hold

    @property
    def needs_logits(self) -> bool:
        """Whether somebody has to look at its logits; all others never leave the fused head."""
        return self.rules != NO_RULES or bool(self.only) or self.grammar is not None

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end the answer."""
        return tuple(self.config.eos_token_id or ())

    def width(self, model: ModelConfig) -> int:
        """Tokens per canvas: the request's own, that of its starting canvas, or the checkpoint's."""
        if self.config.canvas_width is not None:
            return self.config.canvas_width
        if self.canvas_ids:
            return len(self.canvas_ids[0])
        return model.canvas_length

    def check(self, model: ModelConfig, max_prompt_tokens: int | None = None) -> None:
        """Raise UsageError, naming the setting, for anything that cannot be served as asked."""
        width = self.width(model)
        if not is_whole(self.max_tokens, 1, math.inf):
            raise UsageError(f"max_tokens is {self.max_tokens!r}; it must be a whole number, at least 1")
        if not is_whole(self.seed, below=SEEDS):
            raise UsageError(f"seed is {self.seed!r}; it must be a whole number from 0 to 2^63 - 1")
        if width < 1:
            raise UsageError("a starting canvas is empty; canvas_ids must hold at least one token per canvas")
        check_width(width, model)
        if not self.prompt_ids:
            raise UsageError("the prompt is empty; give at least one token")
        _check_ids("prompt_ids", self.prompt_ids, model.vocab_size)
        limit = model.max_position_embeddings - width
        if max_prompt_tokens is not None:
            limit = min(limit, max_prompt_tokens)
        if len(self.prompt_ids) > limit:
            raise UsageError(f"the prompt has {len(self.prompt_ids)} tokens; max_prompt_tokens is {limit}")
        longest = len(self.prompt_ids) + -(-self.max_tokens // width) * width
        if longest > model.max_position_embeddings:
            most = (model.max_position_embeddings - len(self.prompt_ids)) // width * width
            raise LengthError(
                f"max_tokens {self.max_tokens} leaves the model's positions; at most {most} fit here", most
            )
        if len(self.canvas_ids) > -(-self.max_tokens // width):
            raise UsageError(
                f"canvas_ids holds {len(self.canvas_ids)} canvases of {width}, "
                f"more than max_tokens {self.max_tokens} uses"
            )
        for canvas in self.canvas_ids:
            if len(canvas) != width:
                raise UsageError(
                    f"a starting canvas has {len(canvas)} tokens; this request's canvases have {width}"
                )
            _check_ids("canvas_ids", canvas, model.vocab_size)
        if self.pins is not None:
            if len(self.pins) != width:
                raise UsageError(f"pins has {len(self.pins)} cells; this request's canvases have {width}")
            _check_ids("pins", [pin for pin in self.pins if pin != -1], model.vocab_size)
        self._check_only(model.vocab_size, width)
        self._check_marks()
        self._check_rules(model.vocab_size)

    def _check_only(self, vocab_size: int, width: int) -> None:
        pins = self.pins or (-1,) * width
        cells = [cell for cell, _ in self.only]
        is_free = [0 <= cell < width and pins[cell] == -1 for cell in cells]
        if not all(is_free) or len({*cells}) < len(cells):
            raise UsageError(
                f"only names the cells {cells}; each must be a free one of this request's {width}, named once"
            )
        for _, ids in self.only:
            _check_ids("only", ids or (-1,), vocab_size)

    def _check_marks(self) -> None:
        last = -1
        for place in self.resume_points:
            if not is_whole(place, last + 1, len(self.prompt_ids)):
                most = len(self.prompt_ids) - 1
                raise UsageError(
                    f"resume_points holds {place!r}; they must be whole numbers from 0 to {most}, "
                    "each above the last"
                )
            last = place

    def _check_rules(self, vocab_size: int) -> None:
        self.rules.check(vocab_size)
        if self.rules.min_tokens > self.max_tokens:
            raise UsageError(f"min_tokens {self.rules.min_tokens} exceeds max_tokens {self.max_tokens}")
        if self.rules.min_tokens and not self.ends:
            raise UsageError(
                "min_tokens holds end tokens back, and this request has none; leave one of the two out"
            )
        if self.grammar is not None:
            self._check_room(self.grammar)

    def _check_room(self, grammar: Grammar) -> None:
        if self.pins is not None:
            raise UsageError("pins and a grammar cannot be asked for together")
        way = grammar.begin().closing()
        if way and len(way) > self.max_tokens:
            raise cannot_be_closed(self.max_tokens, way)


def check_width(width: int, model: ModelConfig) -> None:
    """Raise UsageError for a wider canvas than the checkpoint has.

    Whoever lays out cells asks before it does.
    """
    if width > model.canvas_length:
        raise UsageError(f"canvas_width {width} exceeds the checkpoint's canvas_length {model.canvas_length}")


def _check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    for token in ids:
        if not is_whole(token, below=vocab_size):
            raise UsageError(f"{name} holds {token!r}, which is no token id below {vocab_size}")


@dataclass(frozen=True)
class StepRecord:
    """What one step did to one request's canvas."""

    request: int  # index in the batch
    canvas: int  # from 0
    step: int  # from 1: how many steps this canvas has taken
    argmax: list[int]  # the draft, C ids
    accepted: list[bool]  # positions whose token was accepted in this step
    entropy: list[float]  # nats per position, of softmax(logits / T)
    done: bool  # this canvas stands, or has no steps left

    def of(self, request: int) -> StepRecord:
        """The same record under another index."""
        return dataclasses.replace(self, request=request)


@dataclass(frozen=True)
class LogProbs:
    """What the model gave one token of the answer, in nats, at temperature 1 in the canvas's last step,
    before any rule.
    """

    log_prob: float
    top_ids: list[int]  # the likeliest tokens, likeliest first
    top_log_probs: list[float]


@dataclass(frozen=True)
class CommitRecord:
    """A canvas that became text: `token_ids` join the answer, its end token too, and nothing behind that."""

    request: int
    canvas: int
    steps: int
    token_ids: list[int]
    canvas_ids: list[int]  # the whole argmax canvas, C ids
    # "stop" (end token), "length" (max_tokens), "error" (not finite, or see `fault`); None: goes on
    finish_reason: str | None
    logprobs: tuple[LogProbs, ...] = ()  # of token_ids, where the request asked for them
    fault: str | None = None  # why no answer of the asked form can come, for a user

    def of(self, request: int) -> CommitRecord:
        """The same record under another index."""
        return dataclasses.replace(self, request=request)


Record = StepRecord | CommitRecord


@dataclass
class Result:
    """Everything one request produced."""

    token_ids: list[int] = field(default_factory=list)  # of the answer, the end token too
    steps: list[int] = field(default_factory=list)  # one number per canvas
    finish_reason: str = "length"  # or "stop": an end token
    canvases: list[list[int]] = field(default_factory=list)  # the whole argmax canvases
    logprobs: list[LogProbs] = field(default_factory=list)  # of token_ids, where they were asked for
    fault: str | None = None  # why no answer of the asked form came

    @property
    def tokens_per_forward(self) -> float:
        """Tokens of the answer per denoising pass."""
        return len(self.token_ids) / max(1, sum(self.steps))

    def add(self, record: CommitRecord) -> None:
        self.token_ids.extend(record.token_ids)
        self.steps.append(record.steps)
        self.canvases.append(record.canvas_ids)
        self.logprobs.extend(record.logprobs)
        self.fault = record.fault
        if record.finish_reason is not None:
            self.finish_reason = record.finish_reason


def results(records: Iterable[Record], count: int) -> list[Result]:
    """The results of `count` requests from all their records.

    One that was not finite ends with "error", alone.
    """
    by_request = [Result() for _ in range(count)]
    for record in records:
        if isinstance(record, CommitRecord):
            by_request[record.request].add(record)
    return by_request
