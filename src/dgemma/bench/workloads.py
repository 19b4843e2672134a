"""What is measured: requests by name.

A figure without its workload means nothing, so the names go into every row.

fixed16   1,024 random prompt tokens, 1,024 new ones, 16 steps for every canvas, no end token
real      the texts of a file, the checkpoint's own settings, adaptive stop
short     14 new tokens after 256 random ones
long      one canvas after prompts of 1k, 4k, 16k ... tokens
load      fixed16 by 1, 2, 4 ... requests at once
race      some texts, or random tokens, by canvas and token by token (race.py)
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import DenoiseConfig, ModelConfig
from ..engine.requests import Request
from ..errors import UsageError

NAMES = ("fixed16", "real", "short", "long", "load", "race")
RACED = 4  # random prompts of a race
NEVER = 2**40  # steps that would have to repeat the draft: a canvas takes all it may


@dataclass(frozen=True)
class Workload:
    """Requests that are sent together, and what to call them."""

    name: str
    requests: list[Request]


def workloads(
    name: str,
    config: ModelConfig,
    denoise: DenoiseConfig,
    *,
    prompts: Sequence[Sequence[int]] = (),
    longest: int = 16384,
    most: int = 8,
    tokens: int = 1024,
    prompt: int = 1024,
    seed: int = 0,
) -> Iterator[Workload]:
    """The workloads that go by `name`. prompts: ids of the texts of `real`; longest: of `long`; most:
    requests of `load`; tokens and prompt: lengths of `fixed16` and `load`.
    """
    fixed = denoise.replace(max_denoising_steps=16, stability_threshold=NEVER, eos_token_id=None)
    longest_prompt = config.max_position_embeddings - tokens
    if name == "fixed16":
        yield Workload(
            _lengths("fixed16", prompt, tokens),
            [_random(config, min(prompt, longest_prompt), tokens, fixed, seed)],
        )
    elif name == "load":
        for count in _doubling(1, most):
            requests = [
                _random(config, min(prompt, longest_prompt), tokens, fixed, seed + number)
                for number in range(count)
            ]
            yield Workload(f"{_lengths('load', prompt, tokens)} x{count}", requests)
    elif name == "short":
        yield Workload(
            "short", [_random(config, min(256, longest_prompt), 14, denoise.replace(eos_token_id=None), seed)]
        )
    elif name == "long":
        for length in _doubling(1024, longest, 4):
            if length <= config.max_position_embeddings - config.canvas_length:
                one = _random(config, length, config.canvas_length, fixed, seed)
                yield Workload(f"long {length}", [one])
    elif name == "real":
        if not prompts:
            raise UsageError("the recipe 'real' needs texts; name a file with --prompts")
        for number, ids in enumerate(prompts):
            yield Workload(f"real {number + 1}", [Request(tuple(ids), tokens, seed, denoise)])
    elif name == "race":
        yield Workload("race", _raced(config, denoise, tokens, prompt, prompts, seed))
    else:
        raise UsageError(f"there is no recipe '{name}'; recipes: {', '.join(NAMES)}")


def _raced(
    config: ModelConfig,
    denoise: DenoiseConfig,
    tokens: int,
    prompt: int,
    prompts: Sequence[Sequence[int]],
    seed: int = 0,
) -> list[Request]:
    """The requests of a race: the likeliest tokens behind `prompts`; without any, behind random ones, 16
    steps a canvas.
    """
    greedy = denoise.replace(temperature=0)
    if prompts:
        return [Request(tuple(ids), tokens, seed, greedy) for ids in prompts]
    fixed = greedy.replace(max_denoising_steps=16, stability_threshold=NEVER, eos_token_id=None)
    length = min(prompt, config.max_position_embeddings - tokens)
    return [_random(config, length, tokens, fixed, seed + number) for number in range(RACED)]


def _lengths(name: str, prompt: int, tokens: int) -> str:
    if (prompt, tokens) == (1024, 1024):
        return name
    return f"{name} {prompt}+{tokens}"


def _doubling(first: int, last: int, factor: int = 2) -> Iterator[int]:
    while first <= last:
        yield first
        first *= factor


def _random(config: ModelConfig, length: int, tokens: int, denoise: DenoiseConfig, seed: int) -> Request:
    draw = random.Random(f"{seed} {length}")
    ids = tuple(draw.randrange(config.vocab_size) for _ in range(max(1, length)))
    return Request(ids, tokens, seed, denoise)
