"""Typed decisions: the probabilities of labels, read off a pinned canvas in one or a few steps; nothing is generated or committed.

Every question gets a canvas of [answer | end of text | padding], all but the answer pinned, and the head looks at the labels'
tokens alone. Labels of one token each are one canvas: their probability is the softmax of their logits there. Labels of several tokens
are a tree: where the tokens of two labels part, a canvas has what they share pinned and asks for the next token among those that may
come, and a label's probability is the product along its way, so that all labels' add up to 1 whatever their lengths. (Where one
label begins with another, the end of text is one of the tokens.) Sums of -ln p over tokens that were never alternatives would
compare lengths instead.

The canvases of all questions are one batch; the state is read once, and not at all where the prefix cache has it, and each question's
own words share the pass of its first step. Further steps are the sampler's own (accept, renoise, self-conditioning) over the labels' tokens.
Trap: probabilities are at temperature 1; the schedule's temperature only decides what later steps are conditioned on.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import DenoiseConfig
from ..engine.engine import by_turns
from ..engine.requests import Request, whole
from ..engine.runner import Runner
from ..errors import NumericsError, UsageError
from ..kernels.vocab import soft_capped_logits, soft_embedding, stats_of
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
    engine: Runner, tokenizer: Tokenizer, state: Any, questions: Any, instructions: Any, *, chat: bool, steps: int, seed: int,
) -> Sheet:  # fmt: skip
    """Check and lay out a request. chat: the model is chat-tuned. Raises UsageError, ResourceError."""
    if not whole(steps) or not 1 <= steps <= 1000:
        raise UsageError(f"steps is {steps!r}; it must be a whole number from 1 to 1000")
    asked, told = read_questions(questions), content(state, "state").strip()
    if not told:
        raise UsageError("the state is empty; give what the questions are about")
    head = "" if instructions is None else content(instructions, "instructions").strip()
    special, labels, prompts = tokenizer.special, {}, {}
    end = special.need("end_turn" if chat else "eos")

    def prompt(*parts: str) -> Path:
        text = "\n\n".join(part for part in (head, told, *parts) if part)
        if chat:
            return (*prompt_ids(tokenizer, [{"role": "user", "content": text}], None, False),)
        return (special.need("bos"), *tokenizer.encode(f"{text}\nAnswer:" if parts else text))

    for name, question in asked.items():
        prompts[name] = prompt(question.text())
        labels[name] = _tokens(tokenizer, [*question.labels], "" if chat else " ", end, name)
    longest, canvas = max(len(found[0]) for found in labels.values()), engine.model.config.canvas_length
    if longest >= canvas:
        raise UsageError(
            f"a label has {longest} tokens; a canvas of {canvas} holds labels of at most {canvas - 1}"
        )
    width = min(canvas, -(-(longest + 1) // WIDTH) * WIDTH)
    for ids in prompts.values():
        engine.check(Request(ids, width, seed, DenoiseConfig(canvas_width=width)))
    filler = (end, *[special.need("pad")] * width)
    branches = [
        Branch(name, prompts[name], (*path, *[FREE] * len(allowed), *filler)[:width], path, allowed)
        for name, found in labels.items() for path, allowed in _branches(found)
    ]  # fmt: skip
    # to the state's end and no further, so that another question about it finds it in the cache
    shared = tuple(os.path.commonprefix([prompt(), *(ids[:-1] for ids in prompts.values())]))
    return Sheet(asked, labels, branches, [*prompts.values()], shared)


def _tokens(tokenizer: Tokenizer, labels: Sequence[str], before: str, end: int, name: str) -> list[Path]:
    """The labels as tokens, shorter ones followed by the end of text and padding up to the longest."""
    found = [(*tokenizer.encode(before + label.strip()),) for label in labels]
    longest = max(map(len, found))
    if len(set(found)) < len(found):
        twice = next(label for label, tokens in zip(labels, found, strict=True) if found.count(tokens) > 1)
        raise UsageError(
            f"questions[{name!r:.60}]: the label '{twice}' stands there twice; labels must differ"
        )
    filler = (end, *[tokenizer.special.need("pad")] * longest)
    return [(*tokens, *filler)[:longest] for tokens in found]


def _branches(labels: Sequence[Path]) -> list[tuple[Path, list[list[int]]]]:
    """Where labels part: what they share up to there, and the tokens that may come in each cell behind it."""
    found = []
    for depth in range(len(labels[0])):
        for path in dict.fromkeys(label[:depth] for label in labels):
            below = [label for label in labels if label[:depth] == path]
            allowed = [sorted(set(cell)) for cell in list(zip(*below, strict=True))[depth:]]
            if len(allowed[0]) > 1:
                found.append((path, allowed))
    return found


def decide(engine: Runner, sheet: Sheet, steps: int, seed: int) -> Decisions:
    """Answer all questions. Raises NumericsError."""
    clock = Stopwatch()
    shared, branches, chances = sheet.shared, sheet.branches, {}
    for start in range(0, len(branches), ROWS):
        part = branches[start : start + ROWS]
        for branch, found in zip(
            part, by_turns(engine, _run(engine, part, len(shared), steps, seed)), strict=True
        ):
            chances[branch.question, branch.path] = found
    answers = {}
    for name, question in sheet.questions.items():
        shares = [_along(label, chances, name) for label in sheet.labels[name]]
        answers[name] = question.answer(shares)
    tokens = len(shared) + sum(len(prompt) - len(shared) for prompt in sheet.prompts)
    return Decisions(answers, tokens, steps if branches else 0, seed, clock.seconds())


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
    """The probability of every token that each branch may go on with."""
    net = engine.model
    config = DenoiseConfig(
        max_denoising_steps=steps, stability_threshold=steps
    )  # all of the steps, for every canvas
    settings = Settings.of([config] * len(branches), [seed] * len(branches), net.device)
    pins = torch.tensor([branch.pins for branch in branches], device=net.device)
    zero = torch.zeros(len(branches), dtype=torch.int64, device=net.device)
    state = begin(settings, zero, first_noise(settings, zero, pins.shape[1], net.config.vocab_size), pins)
    ids, mask = _alternatives(branches, pins)
    table = net.rows(ids)
    read = yield from engine.read(branches[0].prompt[:shared], keep=True)
    kv = [read.copy() for _ in branches]
    words = [
        (own, torch.tensor(branch.prompt[shared:], device=net.device))
        for own, branch in zip(kv, branches, strict=True)
    ]
    soft = None
    for number in range(steps):
        hidden = net.both([] if number else words, [Canvases(state.canvas, kv, soft)])[0]
        logits = soft_capped_logits(hidden, table, net.config.final_logit_softcapping)
        if number + 1 < steps:
            stats = stats_of(
                logits * inverse_temperature(state).to(logits.dtype)[:, None, None],
                draws(state),
                net.dtype,
                mask,
            )
            soft = soft_embedding(stats.p, stats.row_sum, table.T, net.config.embedding_scale)
            soft = torch.where(pins[..., None] >= 0, net.embedded(pins.clamp_min(0)), soft)
            state = step(
                stats._replace(argmax=ids[stats.argmax], sample=ids[stats.sample]),
                state,
                net.config.vocab_size,
            )
            yield
    return _chances(branches, ids, logits)


def _alternatives(branches: Sequence[Branch], pins: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that any canvas may hold [U], and which of them each cell may, [B, C, U] bool; a pinned cell is not asked."""
    tokens = sorted({token for branch in branches for cell in branch.allowed for token in cell})
    place = {token: number for number, token in enumerate(tokens)}
    mask = (pins >= 0)[..., None].repeat(1, 1, len(tokens))
    for row, branch in enumerate(branches):
        for cell, allowed in enumerate(branch.allowed, len(branch.path)):
            mask[row, cell, [place[token] for token in allowed]] = True
    return torch.tensor(tokens, device=pins.device), mask


def _chances(branches: Sequence[Branch], ids: Tensor, logits: Tensor) -> list[dict[int, float]]:
    place = {token: number for number, token in enumerate(ids.tolist())}
    logits, found = logits.double().cpu(), []
    if not logits.isfinite().all():
        raise NumericsError("the model's logits are not finite; nothing was decided from them")
    for row, branch in enumerate(branches):
        tokens = branch.allowed[0]
        shares = logits[row, len(branch.path), [place[token] for token in tokens]].softmax(-1)
        found.append(dict(zip(tokens, shares.tolist(), strict=True)))
    return found
