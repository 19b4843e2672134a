"""Typed questions as clients write them, and their answers from probabilities. Knows no model.

    {"type": "choice", "instructions": ..., "criteria": {label: description or None}}     or a list of labels
    {"type": "score",  "instructions": ..., "criteria": [level 0, level 1, ...]}
    {"type": "noul",   "instructions": ..., "criteria": {"true": ..., "false": ...}}      yes or no; or none

State, instructions and descriptions may be text or any JSON, which is shown as JSON.

Trap: a score's levels are numbered from 0, in the prompt as in the answer, so that what a client reads is
what the model was asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .events import Decision

TYPES = ("choice", "score", "noul")
MOST_QUESTIONS = 256
MOST_LABELS = 255
YES = "yes"
NO = "no"


@dataclass(frozen=True)
class Question:
    """One question, checked. `labels` are what may be answered, in order, with what each means."""

    type: str
    instructions: str
    labels: dict[str, str | None]

    def text(self) -> str:
        """What is put behind the state."""
        meanings = [f"{label}: {meaning}" for label, meaning in self.labels.items() if meaning is not None]
        one_of = f"Answer with one of: {', '.join(self.labels)}."
        return "\n".join([part for part in (self.instructions, *meanings, one_of) if part])

    def answer(self, probabilities: list[float]) -> Decision:
        """The answer from the labels' probabilities."""
        named = dict(zip(self.labels, probabilities, strict=True))
        confidence = _confidence(probabilities)
        if self.type == "noul":
            return Decision("noul", named, confidence, noul=named[YES])
        if self.type == "choice":
            return Decision("choice", named, confidence, choice=max(named, key=named.__getitem__))
        score = sum(level * share for level, share in enumerate(probabilities))
        legend = {label: meaning or "" for label, meaning in self.labels.items()}
        return Decision("score", named, confidence, score=score, legend=legend)


def _confidence(probabilities: list[float]) -> float:
    """How far the peak is above an even spread: 0 there, 1 if certain."""
    count = len(probabilities)
    if count == 1:
        return 1.0
    above_even = (count * max(probabilities) - 1) / (count - 1)
    return min(1.0, max(0.0, above_even))


def read_questions(questions: Any) -> dict[str, Question]:
    """Questions by their ids. Raises UsageError that names the question and what is wrong with it."""
    if not isinstance(questions, Mapping) or not questions:
        raise UsageError("questions must be a dict of at least one question by its id")
    if len(questions) > MOST_QUESTIONS:
        raise UsageError(
            f"there are {len(questions)} questions; at most {MOST_QUESTIONS} are answered at once"
        )
    return {name: _question(raw, f"questions[{name!r:.60}]") for name, raw in questions.items()}


def content(value: Any, name: str) -> str:
    """Text as it is, anything else as JSON. Raises UsageError for what is neither."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise UsageError(f"{name} is neither text nor JSON") from None


def _question(raw: Any, where: str) -> Question:
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where} must be a dict with a type, instructions and criteria")
    if unknown := [key for key in raw if key not in ("type", "instructions", "criteria")]:
        raise UsageError(
            f"{where} has an unknown key {unknown[0]!r:.40}; known: type, instructions, criteria"
        )
    kind = raw.get("type")
    if kind not in TYPES:
        raise UsageError(f"{where}: type {kind!r:.40} is not one of {', '.join(TYPES)}")
    read_labels = {"choice": _choices, "score": _levels, "noul": _yes_no}[kind]
    labels = read_labels(raw.get("criteria"), where)
    if len(labels) > MOST_LABELS:
        raise UsageError(f"{where} has {len(labels)} answers; at most {MOST_LABELS} are possible")
    instructions = raw.get("instructions")
    text = ""
    if instructions is not None:
        text = content(instructions, f"{where}: instructions").strip()
    return Question(kind, text, labels)


def _meaning(value: Any, where: str) -> str | None:
    if value is None:
        return None
    return content(value, f"{where}: a description")


def _choices(criteria: Any, where: str) -> dict[str, str | None]:
    if isinstance(criteria, list | tuple):
        are_texts = all(isinstance(label, str) for label in criteria)
        criteria = dict.fromkeys(criteria) if are_texts else None
    if not isinstance(criteria, Mapping) or not criteria:
        raise UsageError(
            f"{where}: criteria of a choice are a dict of labels with what they mean (or None), or a list of "
            f"labels"
        )
    for label in criteria:
        if not isinstance(label, str) or not label.strip():
            raise UsageError(f"{where}: the label {label!r:.40} is no text")
    return {label: _meaning(value, where) for label, value in criteria.items()}


def _levels(criteria: Any, where: str) -> dict[str, str | None]:
    if not isinstance(criteria, list | tuple) or not criteria:
        raise UsageError(
            f"{where}: criteria of a score are a list of its levels, from the lowest to the highest"
        )
    return {str(level): _meaning(value, where) for level, value in enumerate(criteria)}


def _yes_no(criteria: Any, where: str) -> dict[str, str | None]:
    known = {}
    if criteria is not None:
        known = criteria
    if not isinstance(known, Mapping) or any(key not in ("true", "false") for key in known):
        raise UsageError(
            f"{where}: criteria of a yes or no are a dict with what 'true' and 'false' mean, or nothing"
        )
    return {YES: _meaning(known.get("true"), where), NO: _meaning(known.get("false"), where)}
