"""Nothing that is asked of an answer is ignored: by every task each setting changes what comes, or is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import dgemma
from dgemma.errors import UsageError
from tests.helpers import tiny_checkpoint

CHAT = [{"role": "user", "content": "hello"}]
QUESTIONS = {"q": {"type": "choice", "criteria": ["a", "b"]}}
LIVELY = {
    "confidence_threshold": 99.0,
    "stability_threshold": 1,
    "entropy_bound": 3.0,
    "max_denoising_steps": 12,
}  # steps accept, canvases stand
ANSWER = LIVELY | {"max_tokens": 24}
TASKS: dict[str, Callable[..., Any]] = {
    "generate": lambda model, **more: _facts(
        model.generate("hello wor", **(ANSWER | {"eos_token_id": (1,)} | more))
    ),
    "chat": lambda model, **more: _facts(model.chat(CHAT, **(ANSWER | more)).generation),
    "generate_ids": lambda model, **more: model.generate_ids(
        [2, 30, 40], **(ANSWER | {"eos_token_id": (1,)} | more)
    ),
    "fill": lambda model, **more: (
        model.fill("hello wor", "lde abc", **(LIVELY | {"widths": [3, 6]} | more)).candidates
    ),
    "edit": lambda model, **more: (
        model.edit("hello world here", **(LIVELY | {"spans": [(2, 7)]} | more)).text
    ),
    "decide": lambda model, **more: model.decide("abc", QUESTIONS, **more).answers,
}
# what some task takes, with a value that has an effect there; {text} and {token}: of the answer without it
ASKED: dict[str, Any] = {
    "temperature": 0, "preset": "cool", "max_denoising_steps": 2, "t_min": 0.01, "t_max": 5.0, "entropy_bound": 9.0, "canvas_width": 8,
    "stability_threshold": 0, "seed": 9, "eos_token_id": "{token}", "max_tokens": 7, "widths": [4], "context": 0,
    "stop": "{text}", "bad_words": ["{text}"], "banned_tokens": ["{token}"], "logit_bias": {116: 60.0}, "presence_penalty": 2.0, "frequency_penalty": 2.0,
    "repetition_penalty": 9.0, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "logprobs": True, "json_schema": {"type": "integer"}, "regex": "abc",
    "grammar": 'start: "abc"', "steps": 2,
}  # fmt: skip
UNKNOWN = {
    "n": 2,
    "best_of": 2,
    "typical_p": 0.5,
    "response_format": {"type": "json_object"},
    "pad_token_id": 3,
    "max_new_tokens": 5,
}
TAKEN = {
    "generate": set(ASKED) - {"widths", "context", "steps"}, "chat": set(ASKED) - {"widths", "context", "steps"},
    "generate_ids": set(ASKED) - {"widths", "context", "steps", "stop", "bad_words", "json_schema", "regex", "grammar"},
    "fill": set(ASKED) - {"eos_token_id", "max_tokens", "steps", "stop", "bad_words", "logprobs", "json_schema", "regex", "grammar"},
    "edit": {name for name in ASKED if name.startswith("t_") or name.endswith("threshold")}
    | {"temperature", "preset", "max_denoising_steps", "entropy_bound", "canvas_width", "seed", "context"},
    "decide": {"seed", "steps"},
}  # fmt: skip


def _facts(generation: Any) -> Any:
    return generation.token_ids, generation.text, generation.logprobs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    folder = tiny_checkpoint(
        tmp_path_factory.mktemp("tiny") / "model", canvas_length=24, max_position_embeddings=2048
    )
    return dgemma.load(folder, dtype="float64")


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_has_its_effect_or_is_refused_by_name(model: dgemma.Model, task: str) -> None:
    call, plain = TASKS[task], TASKS[task](model)
    ids = plain[0] if isinstance(plain, tuple) else getattr(plain, "token_ids", [])
    token = next((i for i in ids if i > 17 and model.tokenizer.decode([i]).isascii()), 40)
    known = {"{token}": token, "{text}": model.tokenizer.decode([token])}

    def value(asked: Any) -> Any:
        return (
            [value(one) for one in asked]
            if isinstance(asked, list)
            else known.get(asked, asked)
            if isinstance(asked, str)
            else asked
        )

    for name, asked in (ASKED | UNKNOWN).items():
        if name in TAKEN[task]:
            assert call(model, **{name: value(asked)}) != plain, f"{name} changes nothing"
        else:
            with pytest.raises((UsageError, TypeError), match=name):
                call(model, **{name: value(asked)})
