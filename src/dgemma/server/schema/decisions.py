"""Typed decisions, POST /v1/systemone and its alias /v1/decisions: questions about a state, answered with
label probabilities.

What a question may be is tasks/questions.py's business, and refused there by the question's name. Nothing is
generated, so nothing is streamed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ...tasks.events import Decisions
from .. import sse
from ..jobs import Call, Job, RequestError
from ..routes import ServedModel, Task
from .openai_answers import shape


class DecisionRequest(msgspec.Struct, forbid_unknown_fields=True):
    state: Any  # text or JSON
    questions: dict[str, dict[str, Any]]  # by id: type, instructions, criteria
    instructions: Any = None
    model: str | None = None
    steps: int = 1  # passes over all canvases
    seed: int = 0


class DecisionUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    steps: int


class DecisionReply(msgspec.Struct):
    model: str
    # by id: type, choice | score, legend | noul, probabilities, confidence
    answers: dict[str, dict[str, Any]]
    usage: DecisionUsage
    seed: int
    seconds: float


class DecisionAnswer:
    media = sse.MEDIA
    watched = False

    def __init__(self, service: ServedModel):
        self.model = service.config.name
        self.decisions: Decisions  # there once `take` has seen them

    def take(self, index: int, event: Decisions) -> Iterable[bytes]:
        self.decisions = event
        return ()

    def begin(self) -> Iterable[bytes]:
        return ()

    def end(self) -> Iterable[bytes]:
        return ()

    def broken(self, error: RequestError) -> Iterable[bytes]:
        return ()

    def whole(self) -> DecisionReply:
        return msgspec.convert({"model": self.model} | self.decisions.to_dict(), DecisionReply)


def decide(service: ServedModel, body: DecisionRequest) -> Job:
    params = {
        "state": body.state,
        "questions": body.questions,
        "instructions": body.instructions,
        "steps": body.steps,
        "seed": body.seed,
    }
    return Job((Call("decide", params),), DecisionAnswer(service))


QUESTION = {"type": "choice", "instructions": "What is it?", "criteria": ["code", "prose"]}
EXAMPLE = {"state": "import os", "questions": {"kind": QUESTION}}
ROUTES = tuple(
    Task(path, DecisionRequest, decide, shape, DecisionReply, EXAMPLE, stream=None)
    for path in ("/v1/systemone", "/v1/decisions")
)
