"""Prompts of the small world, asked in batches and judged by its own checks: what several benchmarks share.

    model = dgemma.load()
    cases = prompts(World(0, "test"), model.tokenizer, 20)
    summary(by_canvas(model, cases))      # {"right": ..., "exact": ..., "steps": ..., ...}

A conversation is asked as `Model.chat` would ask it. Trap: an answer is cut where the right one would
have ended long ago (`SLACK` tokens later, in whole canvases). That changes no verdict, but a model that
never stops is shown with fewer steps than it would take.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dgemma
from dgemma.config import DenoiseConfig, EngineConfig
from dgemma.engine import autoregressive
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request, Result, results
from dgemma.errors import NumericsError
from dgemma.tasks import chat
from dgemma.text.channels import split
from dgemma.text.tokenizer import Tokenizer
from dgemma.train.samples import conversation
from dgemma.train.world import Example, World, judge, written_call

SLACK = 32  # tokens that an answer may be longer than the right one before it is cut


@dataclass(frozen=True)
class Case:
    """An example as token ids: what is asked, and what a perfect model writes, its end token included."""

    example: Example
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What a model made of an example. `steps` has one number per canvas (token by token: one per token)."""

    example: Example
    text: str
    token_ids: list[int]
    steps: list[int]
    right: bool = False

    @property
    def exact(self) -> bool:
        """Whether it is the world's own answer to the letter; another one may be right, too."""
        return self.text == self.example.answer


def prompts(
    world: World, tokenizer: Tokenizer, count: int, families: Sequence[str] | None = None
) -> list[Case]:
    """`count` conversations of each family (default: of all). Families of gaps have none: see `gaps`.

    A round of all families comes before the next, so that any beginning of the list is like all of it.
    """
    examples = _examples(world, count, families)
    return [case_of(example, tokenizer) for example in examples if example.messages]


def gaps(world: World, count: int, families: Sequence[str] | None = None) -> list[Example]:
    """`count` texts with a gap of each family that has them."""
    return [example for example in _examples(world, count, families) if example.gap]


def _examples(world: World, count: int, families: Sequence[str] | None) -> list[Example]:
    names = world.families if families is None else families
    return [world.example(name, index) for index in range(count) for name in names]


def case_of(example: Example, tokenizer: Tokenizer) -> Case:
    """One conversation as token ids."""
    tools = [dict(tool) for tool in example.tools] or None
    asked = chat.prepare(tokenizer, [dict(message) for message in example.prompt], tools).ids
    whole = conversation(example.messages, tools, tokenizer).ids
    return Case(example, tuple(asked), tuple(whole[len(asked) :]))


def requests(
    model: dgemma.Model, cases: Sequence[Case], config: DenoiseConfig | None = None
) -> list[Request]:
    """The cases as requests, each with a seed of its own. config: the model's, where none is given."""
    config = config or model.denoise
    ends = {*(config.eos_token_id or ()), *chat.end_ids(model.tokenizer)}
    config = config.replace(eos_token_id=tuple(sorted(ends)))
    width = config.canvas_width or model.config.canvas_length
    return [
        Request(case.prompt_ids, _whole_canvases(len(case.answer_ids) + SLACK, width), seed, config)
        for seed, case in enumerate(cases)
    ]


def _whole_canvases(tokens: int, width: int) -> int:
    return -(-tokens // width) * width


def by_canvas(
    model: dgemma.Model, cases: Sequence[Case], config: DenoiseConfig | None = None, batch: int = 16
) -> list[Answer]:
    """Every case answered by denoising canvases, `batch` at a time, and judged."""
    engine = Engine(model.net, EngineConfig(max_slots=batch))
    asked = requests(model, cases, config)
    return _judged(model.tokenizer, cases, results(engine.run(asked), len(asked)))


def token_by_token(model: dgemma.Model, cases: Sequence[Case]) -> list[Answer]:
    """Every case answered by the causal pass of the same weights, the likeliest token each time; judged."""
    greedy = model.denoise.replace(temperature=0.0)
    answers = []
    for request, case in zip(requests(model, cases, greedy), cases, strict=True):
        request = dataclasses.replace(request, max_tokens=len(case.answer_ids) + SLACK)
        answers += results(autoregressive.run(model.engine, request), 1)
    return _judged(model.tokenizer, cases, answers)


def _judged(tokenizer: Tokenizer, cases: Sequence[Case], found: Sequence[Result]) -> list[Answer]:
    if any(result.finish_reason == "error" for result in found):
        raise NumericsError("the model's logits are not finite; check the checkpoint with `dgemma doctor`")
    return judged(
        Answer(case.example, reply_text(result.token_ids, tokenizer), result.token_ids, result.steps)
        for case, result in zip(cases, found, strict=True)
    )


def judged(answers: Iterable[Answer]) -> list[Answer]:
    """The same answers with the world's verdicts; code among them runs in one restricted process."""
    answers = list(answers)
    verdicts = judge([answer.example.check for answer in answers], [answer.text for answer in answers])
    return [dataclasses.replace(answer, right=right) for answer, right in zip(answers, verdicts, strict=True)]


def reply_text(token_ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """A reply as the checks read it: its content, and each tool call as `name{arguments as JSON}`."""
    parts = split(token_ids, tokenizer)
    calls = [written_call(call.name, call.arguments) for call in parts.tool_calls]
    content = [parts.content] if parts.content or not calls else []
    return "\n".join([*content, *calls, *parts.malformed])


def fill(
    model: dgemma.Model, examples: Sequence[Example], widths: Sequence[int] | None = None
) -> list[Answer]:
    """Every gap filled by `Model.fill`, which is not told its length; judged. `steps`: one per width."""
    answers = []
    for seed, example in enumerate(examples):
        start, end = example.gap
        filled = model.fill(example.text[:start], example.text[end:], seed=seed, widths=widths)
        answers.append(Answer(example, filled.text, filled.generation.token_ids, filled.row_steps))
    return judged(answers)


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """How many, the shares that are right and to the letter, and the mean steps of a canvas."""
    return {
        "answers": len(answers),
        "right": round(statistics.mean(answer.right for answer in answers), 4),
        "exact": round(statistics.mean(answer.exact for answer in answers), 4),
        "steps": round(statistics.mean(steps for answer in answers for steps in answer.steps), 2),
    }


def same(answers: Sequence[Answer], others: Sequence[Answer]) -> float:
    """The share of answers whose text equals what `others` say to the same prompts."""
    return statistics.mean(one.text == other.text for one, other in zip(answers, others, strict=True))


def by_family(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """The answers by the family of their examples."""
    table: dict[str, list[Answer]] = {}
    for answer in answers:
        table.setdefault(answer.example.family, []).append(answer)
    return table
