"""Typed decisions: the probabilities of labels, read off a pinned canvas in one or a few steps.

Nothing is generated or committed. Every question gets a canvas of [answer | end of text | padding], all but
the answer pinned, and the head computes the logits of the labels' tokens alone. Labels of one token each are
one canvas: their probability is the softmax of their logits there. Labels of several tokens are a tree: where
the tokens of two labels part, a canvas has what they share pinned and asks for the next token among those
that may come. A label's probability is the product along its way, so that all labels' add up to 1 whatever
their lengths. (Where one label begins with another, the end of text is one of the tokens.) Sums of -ln p over
tokens that were never alternatives would compare lengths instead.

The canvases of all questions are one batch. The state is read once, and not at all where the prefix cache has
it, and each question's own words share the pass of its first step. Further steps are the sampler's own
(accept, renoise, self-conditioning) over the labels' tokens.

Trap: probabilities are at temperature 1; the schedule's temperature only decides what later steps are
conditioned on.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import DenoiseConfig
from ..config.reader import is_whole
from ..engine.engine import by_turns
from ..engine.requests import Request
from ..engine.runner import Runner
from ..errors import NumericsError, UsageError
from ..kernels.ops.vocab import soft_capped_logits, soft_embedding, stats_of
from ..model.dgemma import Canvases
from ..sampling.pins import FREE
from ..sampling.step import Settings, begin, draws, first_noise, inverse_temperature, step
from ..text.tokenizer import Tokenizer
from .chat import prompt_ids
from .events import Decisions
from .generate import Stopwatch
from .questions import Question, content, read_questions

WIDTH = 16  # canvases are a multiple of it, at most the checkpoint's own
ROWS = 16  # canvases in a pass: each has a copy of the state's keys and values
Path = tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A canvas: a place in a question's tree of labels where more than one token may come next."""

    question: str
    prompt: tuple[int, ...]
    pins: tuple[int, ...]
    path: Path  # tokens that are pinned already; the next cell is the one that is asked for
    allowed: list[list[int]]  # the tokens that may come in each free cell


@dataclass(frozen=True)
class Sheet:
    """All questions, laid out."""

    questions: dict[str, Question]
    labels: dict[str, list[Path]]  # of each question: its labels as tokens, all of one length
    branches: list[Branch]
    prompts: list[tuple[int, ...]]
    shared: tuple[int, ...]  # what all of them begin with, up to the state's end


def prepare(
    engine: Runner,
    tokenizer: Tokenizer,
    state: Any,
    questions: Any,
    instructions: Any,
    *,
    chat: bool,
    steps: int,
    seed: int,
) -> Sheet:
    """Check and lay out a request. chat: the model is chat-tuned. Raises UsageError, ResourceError."""
    if not is_whole(steps, 1, 1001):
        raise UsageError(f"steps is {steps!r}; it must be a whole number from 1 to 1000")
    checked = read_questions(questions)
    state_text = content(state, "state").strip()
    if not state_text:
        raise UsageError("the state is empty; give what the questions are about")
    head = ""
    if instructions is not None:
        head = content(instructions, "instructions").strip()
    special = tokenizer.special
    end = special.need("end_turn" if chat else "eos")

    def prompt(*parts: str) -> Path:
        text = "\n\n".join(part for part in (head, state_text, *parts) if part)
        if chat:
            return (*prompt_ids(tokenizer, [{"role": "user", "content": text}], None, False),)
        return (special.need("bos"), *tokenizer.encode(f"{text}\nAnswer:" if parts else text))

    prompts: dict[str, Path] = {}
    labels: dict[str, list[Path]] = {}
    for name, question in checked.items():
        prompts[name] = prompt(question.text())
        labels[name] = _tokens(tokenizer, [*question.labels], "" if chat else " ", end, name)
    width = _canvas_width(labels, engine.model.config.canvas_length)
    for ids in prompts.values():
        engine.check(Request(ids, width, seed, DenoiseConfig(canvas_width=width)))
    filler = (end, *[special.need("pad")] * width)
    branches = []
    for name, paths in labels.items():
        for path, allowed in _branches(paths):
            pins = (*path, *[FREE] * len(allowed), *filler)[:width]
            branches.append(Branch(name, prompts[name], pins, path, allowed))
    # to the state's end and no further, so that another question about it finds it in the cache
    shared = tuple(os.path.commonprefix([prompt(), *(ids[:-1] for ids in prompts.values())]))
    return Sheet(checked, labels, branches, [*prompts.values()], shared)


def _canvas_width(labels: dict[str, list[Path]], canvas: int) -> int:
    """Cells that hold every label and its end. Raises UsageError where a canvas has too few."""
    longest = max(len(paths[0]) for paths in labels.values())
    if longest >= canvas:
        raise UsageError(
            f"a label has {longest} tokens; a canvas of {canvas} holds labels of at most {canvas - 1}"
        )
    return min(canvas, -(-(longest + 1) // WIDTH) * WIDTH)


def _tokens(tokenizer: Tokenizer, labels: Sequence[str], before: str, end: int, name: str) -> list[Path]:
    """The labels as tokens, shorter ones followed by the end of text and padding up to the longest."""
    paths = [(*tokenizer.encode(before + label.strip()),) for label in labels]
    longest = max(map(len, paths))
    if len(set(paths)) < len(paths):
        twice = next(label for label, path in zip(labels, paths, strict=True) if paths.count(path) > 1)
        raise UsageError(
            f"questions[{name!r:.60}]: the label '{twice}' stands there twice; labels must differ"
        )
    filler = (end, *[tokenizer.special.need("pad")] * longest)
    return [(*path, *filler)[:longest] for path in paths]


def _branches(labels: Sequence[Path]) -> list[tuple[Path, list[list[int]]]]:
    """Where labels part: what they share up to there, and the tokens that may come in each cell behind it."""
    branches = []
    for depth in range(len(labels[0])):
        for path in dict.fromkeys(label[:depth] for label in labels):
            below = [label for label in labels if label[:depth] == path]
            cells = list(zip(*below, strict=True))[depth:]
            allowed = [sorted(set(cell)) for cell in cells]
            if len(allowed[0]) > 1:
                branches.append((path, allowed))
    return branches


def decide(engine: Runner, sheet: Sheet, steps: int, seed: int) -> Decisions:
    """Answer all questions. Raises NumericsError."""
    clock = Stopwatch()
    shared = len(sheet.shared)
    chances: dict[tuple[str, Path], dict[int, float]] = {}
    for start in range(0, len(sheet.branches), ROWS):
        branches = sheet.branches[start : start + ROWS]
        rows = by_turns(engine, _run(engine, branches, shared, steps, seed))
        for branch, by_token in zip(branches, rows, strict=True):
            chances[branch.question, branch.path] = by_token
    answers = {}
    for name, question in sheet.questions.items():
        shares = [_along(label, chances, name) for label in sheet.labels[name]]
        answers[name] = question.answer(shares)
    tokens = shared + sum(len(prompt) - shared for prompt in sheet.prompts)
    return Decisions(answers, tokens, steps if sheet.branches else 0, seed, clock.seconds())


def _along(label: Path, chances: dict[tuple[str, Path], dict[int, float]], name: str) -> float:
    """The probability of a label: the product of its tokens' wherever there was another one."""
    share = 1.0
    for depth, token in enumerate(label):
        share *= chances.get((name, label[:depth]), {token: 1.0})[token]
    return share


@torch.inference_mode()
def _run(
    engine: Runner, branches: Sequence[Branch], shared: int, steps: int, seed: int
) -> Generator[None, None, list[dict[int, float]]]:
    """The probability of every token that each branch may go on with.

    shared: how many tokens all prompts begin with, which are read once.
    """
    net = engine.model
    vocab_size = net.config.vocab_size
    config = DenoiseConfig(
        max_denoising_steps=steps, stability_threshold=steps
    )  # all steps, for every canvas
    settings = Settings.of([config] * len(branches), [seed] * len(branches), net.device)
    pins = torch.tensor([branch.pins for branch in branches], device=net.device)
    zero = torch.zeros(len(branches), dtype=torch.int64, device=net.device)
    state = begin(settings, zero, first_noise(settings, zero, pins.shape[1], vocab_size), pins)
    ids, mask = _alternatives(branches, pins)
    table = net.rows(ids)
    state_kv = yield from engine.read(branches[0].prompt[:shared], keep=True)
    kv = [state_kv.copy() for _ in branches]
    question_ids = [torch.tensor(branch.prompt[shared:], device=net.device) for branch in branches]
    questions = list(zip(kv, question_ids, strict=True))
    soft = None
    for number in range(steps):
        hidden = net.both([] if number else questions, [Canvases(state.canvas, kv, soft)])[0]
        logits = soft_capped_logits(hidden, table, net.config.final_logit_softcapping)
        if number + 1 < steps:
            scale = inverse_temperature(state).to(logits.dtype)[:, None, None]
            stats = stats_of(logits * scale, draws(state), net.dtype, mask)
            soft = soft_embedding(stats.p, stats.row_sum, table.T, net.config.embedding_scale)
            soft = torch.where(pins[..., None] >= 0, net.embedded(pins.clamp_min(0)), soft)
            in_vocabulary = stats._replace(argmax=ids[stats.argmax], sample=ids[stats.sample])
            state = step(in_vocabulary, state, vocab_size)
            yield
    return _chances(branches, ids, logits)


def _alternatives(branches: Sequence[Branch], pins: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that any canvas may hold [U] int64, and which of them each cell may, [B, C, U] bool.

    A pinned cell may hold any of them: what stands in it is not drawn.
    """
    tokens = sorted({token for branch in branches for cell in branch.allowed for token in cell})
    place = {token: number for number, token in enumerate(tokens)}
    mask = (pins >= 0)[..., None].repeat(1, 1, len(tokens))
    for row, branch in enumerate(branches):
        for cell, allowed in enumerate(branch.allowed, len(branch.path)):
            mask[row, cell, [place[token] for token in allowed]] = True
    return torch.tensor(tokens, device=pins.device), mask


def _chances(branches: Sequence[Branch], ids: Tensor, logits: Tensor) -> list[dict[int, float]]:
    """By branch: the probability of each token that may come next. logits: [B, C, U].

    Raises NumericsError.
    """
    place = {token: number for number, token in enumerate(ids.tolist())}
    logits = logits.double().cpu()
    if not logits.isfinite().all():
        raise NumericsError("the model's logits are not finite; nothing was decided from them")
    chances = []
    for row, branch in enumerate(branches):
        tokens = branch.allowed[0]
        columns = [place[token] for token in tokens]
        shares = logits[row, len(branch.path), columns].softmax(-1)
        chances.append(dict(zip(tokens, shares.tolist(), strict=True)))
    return chances
