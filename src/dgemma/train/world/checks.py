"""The checks that judge answers: text as text, JSON as values, tables as cells, calls as name and arguments,
code by running it.

`judge` takes many answers at once, so that all code among them runs in one restricted process (sandbox.py)
instead of one each.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import sandbox


class Check(ABC):
    """Whether an answer is right. A check that must run code gives a program instead of a verdict."""

    @abstractmethod
    def right(self, answer: str) -> bool:
        """Whether an answer is right, as far as that can be said without running it."""

    def program(self, answer: str) -> sandbox.Job | None:
        """The program that decides, or None where `right` does."""
        return None


def _trimmed(text: str) -> str:
    """Without what nobody sees: blanks at the ends of lines and of the text."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@dataclass(frozen=True)
class Exact(Check):
    """The answer is this text, blanks at line ends aside."""

    text: str

    def right(self, answer: str) -> bool:
        return _trimmed(answer) == _trimmed(self.text)


def _same(one: Any, other: Any) -> bool:
    """Equal JSON values; true is not 1, and the order of keys does not matter."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


@dataclass(frozen=True)
class SameJson(Check):
    """The answer is JSON of this value."""

    value: Any

    def right(self, answer: str) -> bool:
        try:
            return _same(json.loads(answer), self.value)
        except (ValueError, RecursionError):
            return False


def csv_cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(",")] for line in text.strip().splitlines()]


def markdown_cells(text: str) -> list[list[str]] | None:
    """The cells of a Markdown table without its rule, or None for anything else."""
    rows = []
    for line in text.strip().splitlines():
        line = line.strip()
        if len(line) < 2 or not (line.startswith("|") and line.endswith("|")):
            return None
        rows.append([cell.strip() for cell in line[1:-1].split("|")])
    if len(rows) < 2 or not all(cell and set(cell) <= set("-:") for cell in rows[1]):
        return None
    return [rows[0], *rows[2:]]


@dataclass(frozen=True)
class SameTable(Check):
    """The answer is a table of these cells, as `csv` or `markdown`."""

    cells: tuple[tuple[str, ...], ...]
    file_format: str

    def right(self, answer: str) -> bool:
        if self.file_format == "markdown":
            cells = markdown_cells(answer)
        else:
            cells = csv_cells(answer)
        return cells == [list(row) for row in self.cells]


@dataclass(frozen=True)
class SameCall(Check):
    """The answer is a call of this tool. It is judged as `name{arguments as JSON}`: see `written_call`."""

    name: str
    arguments: Mapping[str, Any]

    def written(self) -> str:
        return written_call(self.name, self.arguments)

    def right(self, answer: str) -> bool:
        name, brace, rest = answer.partition("{")
        try:
            return name == self.name and _same(json.loads(brace + rest), dict(self.arguments))
        except (ValueError, RecursionError):
            return False


def written_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A tool call as one text, for checks and reports."""
    return name + json.dumps(dict(arguments), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class SameResults(Check):
    """The program `before + answer + after` defines `name`, which returns and prints what the reference does
    for all inputs.

    `contains`: what the answer was asked to hold, such as "for " where a loop was.
    """

    reference: str
    name: str
    inputs: tuple[tuple[Any, ...], ...]
    before: str = ""
    after: str = ""
    contains: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def program(self, answer: str) -> sandbox.Job | None:
        source = self.before + answer + self.after
        return sandbox.Job(source, self.reference, self.name, self.inputs, dict(self.files))

    def right(self, answer: str) -> bool:
        return all(part in answer for part in self.contains)


def judge(checks: Sequence[Check], answers: Sequence[str]) -> list[bool]:
    """Whether each answer is right. Code runs in one restricted process for all of them."""
    verdicts = [check.right(answer) for check, answer in zip(checks, answers, strict=True)]
    jobs: dict[int, sandbox.Job] = {}
    for place, (check, answer) in enumerate(zip(checks, answers, strict=True)):
        job = None
        if verdicts[place]:
            job = check.program(answer)
        if job is not None:
            jobs[place] = job
    for place, same in zip(jobs, sandbox.run(list(jobs.values())), strict=True):
        verdicts[place] = same
    return verdicts
