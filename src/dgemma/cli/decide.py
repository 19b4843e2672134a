"""`dgemma decide STATE`: typed questions about a text, answered with probabilities; nothing is generated.

Knows the questions' JSON as clients send it (tasks/questions.py checks it), and flags for a single one. Trap: labels are split at
commas, so a label that holds one has to come from a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..tasks.events import Decisions
from ..tasks.questions import read_questions
from .flags import SAMPLER, Asked, argument, asking, check, read_prompt, text_of
from .picture import plain
from .run import open_model, tell
from .screen import note, stdout_is_terminal, write_json, write_out

QUESTION = "answer"  # the id of the one that flags ask


@asking(without=("warmup", "max_tokens", "no_live", *SAMPLER))  # labels are no text that is sampled
def command(
    state: Annotated[
        str | None, typer.Argument(help="The text that it is about; left out or '-': what is piped in.")
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="What is asked; alone: a yes or no.")
    ] = None,
    choice: Annotated[str | None, typer.Option(help="Labels to choose from, separated by commas.")] = None,
    score: Annotated[
        str | None, typer.Option(help="Levels from the lowest to the highest, separated by commas.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", help="A JSON file of questions by id, instead of these flags.")
    ] = None,
    instructions: Annotated[str | None, typer.Option(help="What holds for all questions.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps before the probabilities are read.")] = 1,
    *,
    asked: Asked,
) -> None:
    """Answer typed questions about a text with the probabilities of their labels."""
    if steps < 1:
        raise UsageError(f"--steps is {steps}; it must be a whole number, at least 1")
    questions = (
        _from_flags(question, choice, score) if file is None else _from_file(file, (question, choice, score))
    )
    read_questions(questions)
    told = None if instructions is None else argument(instructions, "--instructions")
    text = read_prompt(state)
    check(asked)
    model = open_model(asked)
    found = model.decide(text, questions, told, steps=steps, seed=asked.seed)
    tell(model.notes)
    if asked.as_json:
        write_json(found.to_dict())
    else:
        text = table(found)
        write_out(plain(text) if stdout_is_terminal() else text)
        note(f"{found.prompt_tokens} tokens read, {found.steps} steps, {1000 * found.seconds:.0f} ms")


def _from_flags(question: str | None, choice: str | None, score: str | None) -> dict[str, Any]:
    if choice is not None and score is not None:
        raise UsageError("--choice and --score are two questions; put them in a --file")
    if question is None and choice is None and score is None:
        raise UsageError("nothing is asked; give --question (a yes or no), --choice, --score or --file")
    one: dict[str, Any] = {
        "type": "choice" if choice is not None else "score" if score is not None else "noul"
    }
    if question is not None:
        one["instructions"] = argument(question, "--question")
    for labels in (choice, score):
        if labels is not None:
            one["criteria"] = [label.strip() for label in argument(labels, "the labels").split(",")]
    return {QUESTION: one}


def _from_file(file: str, flags: tuple[str | None, ...]) -> Any:
    if any(flag is not None for flag in flags):
        raise UsageError("--file holds the questions; leave out --question, --choice and --score")
    try:
        found = json.loads(text_of(Path(file)))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{file}' is not JSON: {error}") from None
    whole = isinstance(found, dict) and set(found) == {"questions"}  # as in a request
    return found["questions"] if whole else found


def table(found: Decisions) -> str:
    """A line for each question, and one for each label with its probability."""
    lines = []
    for name, answer in found.answers.items():
        said = (
            answer.choice
            if answer.choice is not None
            else f"{answer.score:.2f}"
            if answer.score is not None
            else f"{answer.noul:.3f}"
        )
        lines.append(f"{name}: {said} (confidence {answer.confidence:.2f})")
        for label, share in answer.probabilities.items():
            meaning = (answer.legend or {}).get(label)
            lines.append(f"  {share:6.3f}  {label}" + (f"  {meaning}" if meaning else ""))
    return "\n".join(lines) + "\n"
