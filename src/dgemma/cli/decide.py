"""`dgemma decide STATE`: typed questions about a text, answered with probabilities; nothing is generated.

Knows the questions' JSON as clients send it (tasks/questions.py checks it), and flags for a single one. Trap:
labels are split at commas, so a label that holds one has to come from a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..tasks.events import Decision, Decisions
from ..tasks.questions import read_questions
from .flags import CommandOptions, argument, check, read_prompt, text_of, with_options
from .picture import plain
from .run import open_model, print_notes
from .screen import note, stdout_is_terminal, write_json, write_out

QUESTION = "answer"  # the id of the one that flags ask


# labels are no text that is sampled
@with_options(without=("warmup", "max_tokens", "no_live"), groups=("answer",))
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
    options: CommandOptions,
) -> None:
    """Answer typed questions about a text with the probabilities of their labels."""
    if steps < 1:
        raise UsageError(f"--steps is {steps}; it must be a whole number, at least 1")
    flags = (question, choice, score)
    if file is None:
        questions = _from_flags(*flags)
    else:
        questions = _from_file(file, flags)
    read_questions(questions)
    guidance = None
    if instructions is not None:
        guidance = argument(instructions, "--instructions")
    text = read_prompt(state)
    check(options)
    model = open_model(options)
    decisions = model.decide(text, questions, guidance, steps=steps, seed=options.params.seed)
    print_notes(model.notes)
    if options.as_json:
        write_json(decisions.to_dict())
        return
    lines = table(decisions)
    write_out(plain(lines) if stdout_is_terminal() else lines)
    milliseconds = 1000 * decisions.seconds
    note(f"{decisions.prompt_tokens} tokens read, {decisions.steps} steps, {milliseconds:.0f} ms")


def _from_flags(question: str | None, choice: str | None, score: str | None) -> dict[str, Any]:
    if choice is not None and score is not None:
        raise UsageError("--choice and --score are two questions; put them in a --file")
    if question is None and choice is None and score is None:
        raise UsageError("nothing is asked; give --question (a yes or no), --choice, --score or --file")
    one: dict[str, Any] = {"type": _kind(choice, score)}
    if question is not None:
        one["instructions"] = argument(question, "--question")
    for labels in (choice, score):
        if labels is not None:
            one["criteria"] = [label.strip() for label in argument(labels, "the labels").split(",")]
    return {QUESTION: one}


def _kind(choice: str | None, score: str | None) -> str:
    if choice is not None:
        return "choice"
    if score is None:
        return "noul"
    return "score"


def _from_file(file: str, flags: tuple[str | None, ...]) -> Any:
    if any(flag is not None for flag in flags):
        raise UsageError("--file holds the questions; leave out --question, --choice and --score")
    try:
        content = json.loads(text_of(Path(file)))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{file}' is not JSON: {error}") from None
    is_request = isinstance(content, dict) and set(content) == {"questions"}
    if is_request:
        return content["questions"]
    return content


def table(decisions: Decisions) -> str:
    """A line for each question, and one for each label with its probability."""
    lines = []
    for name, answer in decisions.answers.items():
        lines.append(f"{name}: {_verdict(answer)} (confidence {answer.confidence:.2f})")
        for label, share in answer.probabilities.items():
            line = f"  {share:6.3f}  {label}"
            if meaning := (answer.legend or {}).get(label):
                line += f"  {meaning}"
            lines.append(line)
    return "\n".join(lines) + "\n"


def _verdict(answer: Decision) -> str:
    if answer.choice is not None:
        return answer.choice
    if answer.score is not None:
        return f"{answer.score:.2f}"
    return f"{answer.noul:.3f}"
