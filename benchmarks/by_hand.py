"""A hundred prompts as newcomers type them: what a checkpoint answers, and whether that is right.

    python benchmarks/by_hand.py [--model FOLDER] [--show] [--csv [FILE]]

The prompts (prompts.jsonl) were written by hand before the shipped checkpoint's training ended, and not by
the generator that it learned from. They are a test only as long as nobody tunes on them, so a run names each
by its id; `--show` prints it with its answer. Everything is asked through the public API with the
checkpoint's own settings and seed 0.

An answer is `right`, `refused` (the model says that it does not know) or `wrong`. Where a prompt lies outside
the model's world, a refusal is the right answer, and the total counts it as honest; anywhere else it misleads
nobody, but is a miss, and counted apart. Code runs against its cases in the restricted process of the
training world, JSON is compared as values, tables as cells, edits as text; free answers must hold key words.

Trap: the judges know the spellings of a right answer that somebody thought of. Read what counts as wrong with
`--show` before believing a low figure, and what counts as right before believing a high one.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from about import append, commit, machine

import dgemma
from dgemma.tasks.events import Decision
from dgemma.train.world import judge, written_call
from dgemma.train.world.checks import Check, Exact, SameCall, SameJson, SameResults, SameTable
from dgemma.train.world.sandbox import Job

PROMPTS = Path(__file__).with_name("prompts.jsonl")
RESULTS = Path(__file__).parent / "results" / "by_hand.csv"
VERDICTS = RIGHT, REFUSED, WRONG = ("right", "refused", "wrong")
TASKS = {  # the keys that say what is asked -> which call of the API
    ("messages",): "chat",
    ("prefix", "suffix"): "fill",
    ("document", "instruction"): "edit",
    ("state", "question"): "decide",
}

Groups = Sequence[Sequence[str]]  # of each group one word or phrase must be there


@dataclass(frozen=True)
class Prompt:
    """One line of prompts.jsonl. `family`: of the training world, the nearest one."""

    id: str
    kind: str
    family: str
    task: str  # chat, fill, edit or decide
    asked: Mapping[str, Any]  # the arguments of that call
    check: Check

    @property
    def is_outside(self) -> bool:
        """Whether the honest answer is that the model does not know."""
        return isinstance(self.check, Refusal)


@dataclass(frozen=True)
class Answer:
    """What the model said; a tool call as `name{arguments as JSON}`, a decision as its label."""

    text: str
    steps: Sequence[int]  # of each canvas


@dataclass(frozen=True)
class Outcome:
    prompt: Prompt
    answer: Answer
    verdict: str

    @property
    def is_honest(self) -> bool:
        return self.verdict == RIGHT or (self.verdict == REFUSED and self.prompt.is_outside)


# --- judging ---


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", text.casefold().replace("’", "'"))


def holds(text: str, groups: Groups) -> bool:
    """Whether of each group some word or phrase stands in the text, as whole words."""
    joined = f" {' '.join(words_of(text))} "
    return all(any(f" {phrase.casefold()} " in joined for phrase in group) for group in groups)


def unfenced(answer: str) -> str:
    """Code without the Markdown fence around it, if there is one."""
    fenced = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", answer, re.DOTALL)
    return fenced[1] if fenced else answer


@dataclass(frozen=True)
class OneOf(Check):
    """Any of several answers is right."""

    checks: tuple[Check, ...]

    def right(self, answer: str) -> bool:
        return any(check.right(unfenced(answer)) for check in self.checks)


@dataclass(frozen=True)
class Sentence(Check):
    """One line that says one of these; quotes around it and the stop at its end are free."""

    texts: Sequence[str]

    def right(self, answer: str) -> bool:
        return self._plain(answer) in map(self._plain, self.texts)

    @staticmethod
    def _plain(text: str) -> str:
        return text.strip(" \n\"'`").rstrip(".!?").rstrip("\"'")


@dataclass(frozen=True)
class Words(Check):
    """A free answer of `least` to `most` words, with a phrase of `every` group and no text of `none`.

    A word twice in a row is what a canvas looks like that has not settled: never right.
    """

    every: Groups
    none: Sequence[str] = ()
    least: int = 1
    most: int = 40

    def right(self, answer: str) -> bool:
        plain = answer.casefold()
        if not self.least <= len(words_of(answer)) <= self.most or re.search(r"\b(\w+)\s+\1\b", plain):
            return False
        return holds(answer, self.every) and not any(text in plain for text in self.none)


@dataclass(frozen=True)
class Program(Check):
    """Code that does what `reference` does with each of `inputs`, judged by the world's restricted process.

    `name`: the function that was asked for; without one, the last that the answer defines. `contains` and
    `lacks` are texts of the answer, `docstring` phrases of its docstring. Of a gap, `before` and `after`
    stand around the answer, and the reference is the whole file. No imports: the process has none.
    """

    reference: str
    inputs: Sequence[Sequence[Any]]
    name: str = ""
    contains: Sequence[str] = ()
    lacks: Sequence[str] = ()
    docstring: Groups = ()
    before: str = ""
    after: str = ""

    def right(self, answer: str) -> bool:
        code = unfenced(answer)
        function = last_function(self.before + code + self.after, self.name)
        if function is None:
            return False
        documented = not self.docstring or holds(ast.get_docstring(function) or "", self.docstring)
        contains = all(text in code for text in self.contains)
        return documented and contains and not any(text in code for text in self.lacks)

    def program(self, answer: str) -> Job | None:
        code = unfenced(answer)
        found = last_function(self.before + code + self.after, self.name)
        reference = last_function(self.reference, self.name)
        assert found and reference, "right() was asked first"
        wanted = f"{self.reference}\n\nasked = {reference.name}\n"  # one name for both
        after = f"{self.after}\n\nasked = {found.name}\n"
        return SameResults(wanted, "asked", tuple(map(tuple, self.inputs)), self.before, after).program(code)


def last_function(source: str, name: str = "") -> ast.FunctionDef | None:
    """The last function at the top of a program, of this name if one is given."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and name in ("", node.name)]
    return found[-1] if found else None


_NOT_KNOWN = re.compile(
    r"\b(?:(?:do not|don't|dont|cannot|can not|can't|cant) "
    r"(?:(?:really|yet) )?(?:know|tell|answer|say|help)"
    r"|not able to|unable to|know only a small|only know a small|have no idea|never heard of)\b"
)


_OF_ITSELF = frozenset(("i", "i'm", "i've", "my", "sorry", "please", "but", "try", "ask"))


def refuses(answer: str) -> bool:
    """Whether an answer says that the model does not know, and speaks of nothing but the model."""
    sentences = [words_of(part) for part in re.split(r"[.!?\n]", answer)]
    spoken = [sentence for sentence in sentences if sentence]
    of_itself = all(sentence[0] in _OF_ITSELF for sentence in spoken)
    return of_itself and any(_NOT_KNOWN.search(" ".join(sentence)) for sentence in spoken)


class Refusal(Check):
    """The only right answer is that the model does not know."""

    def right(self, answer: str) -> bool:
        return refuses(answer)


JUDGES: dict[str, Callable[..., Check]] = {
    "code": Program,
    "text": lambda texts: OneOf(tuple(map(Exact, texts))),
    "sentence": Sentence,
    "words": Words,
    "json": lambda values: OneOf(tuple(map(SameJson, values))),
    "table": lambda form, cells: OneOf((SameTable(tuple(map(tuple, cells)), form),)),
    "call": SameCall,
    "refusal": Refusal,
}


def verdict(prompt: Prompt, answer: str) -> str:
    if refuses(answer):
        return REFUSED
    return RIGHT if judge([prompt.check], [answer])[0] else WRONG


# --- asking ---


def read_prompts(path: Path = PROMPTS) -> list[Prompt]:
    """The prompts. Raises ValueError for a line that asks nothing, or that no judge reads."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_prompt(json.loads(line), number) for number, line in enumerate(lines, 1)]


def _prompt(line: dict[str, Any], number: int) -> Prompt:
    found = [keys for keys in TASKS if all(key in line for key in keys)]
    if len(found) != 1:
        raise ValueError(f"line {number}: it must ask one thing, with the keys of one of {list(TASKS)}")
    asked = {key: line[key] for key in (*found[0], "tools") if key in line}
    if unknown := set(line) - set(asked) - {"id", "kind", "family", "judge"}:
        raise ValueError(f"line {number}: unknown keys {sorted(unknown)}")
    settings = dict(line["judge"])
    by = settings.pop("by")
    if by not in JUDGES:
        raise ValueError(f"line {number}: there is no judge {by!r}; known: {', '.join(JUDGES)}")
    if by == "code" and "prefix" in asked:
        settings |= {"before": asked["prefix"], "after": asked["suffix"]}
    check = JUDGES[by](**settings)
    return Prompt(line["id"], line["kind"], line["family"], TASKS[found[0]], asked, check)


def ask(model: dgemma.Model, prompt: Prompt) -> Answer:
    """Put a prompt to the model, as a user of the Python API would."""
    if prompt.task == "fill":
        filling = model.fill(**prompt.asked)
        return Answer(filling.text, filling.generation.steps)
    if prompt.task == "edit":
        edit = model.edit(**prompt.asked)
        return Answer(edit.text, edit.generation.steps)
    if prompt.task == "decide":
        decisions = model.decide(prompt.asked["state"], {"q": prompt.asked["question"]})
        return Answer(label(decisions.answers["q"]), [decisions.steps])
    reply = model.chat(**prompt.asked)
    calls = [written_call(call.name, call.arguments) for call in reply.tool_calls]
    return Answer("\n".join(filter(None, (reply.content, *calls, *reply.malformed))), reply.generation.steps)


def label(decision: Decision) -> str:
    """The likeliest answer to a typed question."""
    return max(decision.probabilities, key=decision.probabilities.__getitem__)


# --- reporting ---


@dataclass
class Tally:
    """How the prompts of one kind went."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    steps: list[int] = field(default_factory=list)
    honest: int = 0  # right, or refused outside the world

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.verdict] += 1
        self.steps += outcome.answer.steps
        self.honest += outcome.is_honest

    @property
    def prompts(self) -> int:
        return sum(self.counts.values())

    @property
    def steps_per_canvas(self) -> float:
        return sum(self.steps) / max(1, len(self.steps))

    def row(self, kind: str) -> dict[str, Any]:
        steps = round(self.steps_per_canvas, 2)
        return {"kind": kind, "prompts": self.prompts, **self.counts, "steps_per_canvas": steps}


def tallies(outcomes: Iterable[Outcome]) -> dict[str, Tally]:
    """By kind, in the order of the prompts, and `all` last."""
    found: dict[str, Tally] = {}
    total = Tally()
    for outcome in outcomes:
        found.setdefault(outcome.prompt.kind, Tally()).add(outcome)
        total.add(outcome)
    return found | {"all": total}


def table(found: Mapping[str, Tally]) -> str:
    lines = [f"{'kind':12}{'prompts':>8}{'right':>8}{'refused':>9}{'wrong':>7}{'steps per canvas':>18}"]
    for kind, tally in found.items():
        right, refused, wrong = (tally.counts[name] for name in VERDICTS)
        counts = f"{tally.prompts:8}{right:8}{refused:9}{wrong:7}"
        lines.append(f"{kind:12}{counts}{tally.steps_per_canvas:18.1f}")
    return "\n".join(lines)


def summary(total: Tally) -> str:
    right, refused = total.counts[RIGHT], total.counts[REFUSED]
    outside = total.honest - right
    return (
        f"right or honestly refused: {total.honest} of {total.prompts} "
        f"({right} right, {outside} refused outside the world); {refused - outside} more refused inside it"
    )


def shown(outcome: Outcome) -> str:
    """What was asked and answered, indented."""
    asked = json.dumps(outcome.prompt.asked, ensure_ascii=False)
    return "\n".join(f"    {line}" for line in (asked, "->", *outcome.answer.text.splitlines()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder, a file or a name; default: the checkpoint that ships")
    parser.add_argument("--show", action="store_true", help="print each prompt and its answer")
    parser.add_argument(
        "--csv", type=Path, nargs="?", const=RESULTS, help=f"add the table to a file ({RESULTS})"
    )
    options = parser.parse_args()
    prompts, model = read_prompts(), dgemma.load(options.model)
    outcomes = []
    for prompt in prompts:
        answer = ask(model, prompt)
        outcomes.append(Outcome(prompt, answer, verdict(prompt, answer.text)))
        steps = "+".join(map(str, answer.steps))
        print(f"{prompt.id:14} {prompt.task:7} {outcomes[-1].verdict:8} {steps} steps", flush=True)
        if options.show:
            print(shown(outcomes[-1]), flush=True)
    found = tallies(outcomes)
    print(f"\n{table(found)}\n\n{summary(found['all'])}")
    if options.csv:
        date, model_name = datetime.date.today().isoformat(), options.model or "shipped"
        head = {
            "date": date,
            "machine": machine(),
            "commit": commit(),
            "recipe": "by_hand",
            "model": model_name,
        }
        append(options.csv, [head | tally.row(kind) for kind, tally in found.items()])


if __name__ == "__main__":
    main()
