"""`dgemma run PROMPT`: one prompt, one answer.

A chat turn where the checkpoint is chat-tuned, else a continuation.

Everything that can be refused is refused before torch is loaded. What opens a model and watches an answer is
here for `chat` and `fill` too. Trap: the events of a chat turn carry thoughts among the text; only the parts
that are content may reach stdout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import INTERRUPTED, UsageError
from ..hub.names import parse_hub_name
from ..tasks.events import Committed, Draft, Generation, Reply
from .flags import WRITTEN, CommandOptions, argument, as_flags, check, read_prompt, text_of, with_options
from .progress import loading
from .screen import Screen, can_animate, count, note, stdout_is_terminal, summary, write_json, write_out

if TYPE_CHECKING:
    from ..api import Model


@with_options(without=("warmup",), groups=WRITTEN)  # one request is not warmed up for
def command(
    prompt: Annotated[str | None, typer.Argument(help="The text; left out or '-': what is piped in.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text, even if the model is chat-tuned.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="Instructions that come before a chat turn.")] = None,
    thinking: Annotated[
        bool, typer.Option("--thinking", help="Let the model think before it answers.")
    ] = False,
    json_schema: Annotated[
        Path | None, typer.Option(help="Answer in JSON of the schema in this file.")
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Answer in a text that this regular expression matches whole.")
    ] = None,
    grammar: Annotated[
        Path | None, typer.Option(help="Answer in a text of the Lark grammar in this file.")
    ] = None,
    autoregressive: Annotated[
        bool, typer.Option("--autoregressive", help="Write token by token with the same weights, to compare.")
    ] = False,
    *,
    options: CommandOptions,
) -> None:
    """Continue a text, or answer it as a chat turn where the model is chat-tuned."""
    if raw and (system is not None or thinking):
        raise UsageError(
            "--raw continues a text, so --system and --thinking have no place; leave one side out"
        )
    constraint = _constraint(json_schema, regex, grammar)
    params = options.params.replace(**constraint, autoregressive=autoregressive)
    options = dataclasses.replace(options, params=params)
    text = read_prompt(prompt)
    if system is None:
        messages = []
    else:
        messages = [{"role": "system", "content": argument(system, "--system")}]
    steps = check(options).max_denoising_steps
    model = open_model(options)
    if options.model is None and prompt is not None and _names_a_model(prompt):
        note(
            f"note: '{prompt}' was read as the prompt; a model is named with -m: "
            f"dgemma run -m {prompt} PROMPT"
        )
    chat = model.chat_tuned and not raw
    if not chat and (messages or thinking):
        raise UsageError("this model continues text, it is not chat-tuned; leave --system and --thinking out")
    try:
        if chat:
            messages.append({"role": "user", "content": text.rstrip("\n")})
            result: Any = converse(model, messages, options, steps, thinking=thinking, notes=model.notes)
        else:
            result = complete(model, text, options, steps)
    except Stopped as stopped:
        if stopped.content:
            give_out(stopped.content, options)
        note(stopped.summary(options))
        raise typer.Exit(INTERRUPTED) from None
    if options.as_json:
        write_json(result.to_dict())
    else:
        give_out(result.content if isinstance(result, Reply) else result.text, options)


def give_out(answer: str, options: CommandOptions) -> None:
    """An answer on stdout, with a newline at its end.

    A terminal has seen it already, and an object of JSON is whole or not at all.
    """
    if not options.as_json and not stdout_is_terminal():
        write_out(answer if answer.endswith("\n") else answer + "\n")


def _names_a_model(prompt: str) -> bool:
    """Whether a prompt looks like a hub name, which other programs take in its place."""
    try:
        parse_hub_name(prompt)
    except UsageError:
        return False
    return True


def _constraint(json_schema: Path | None, regex: str | None, grammar: Path | None) -> dict[str, str]:
    """What the answer must match, by the name that api.Model takes."""
    files = {"json_schema": json_schema, "grammar": grammar}
    constraint = {name: text_of(path) for name, path in files.items() if path is not None}
    if regex is not None:
        constraint["regex"] = argument(regex, "--regex")
    return constraint


def open_model(options: CommandOptions) -> Model:
    """Load what was asked for, with a bar on a terminal."""
    with loading(can_animate() and not options.no_live) as progress:
        from .. import api  # late: this is where torch comes in

        model = api.load(
            options.model,
            options.device,
            options.dtype,
            revision=options.revision,
            progress=progress,
            warmup=options.warmup,
            memory=options.memory,
        )
    from ..tasks.length import default_length

    model.denoise = model.denoise.replace(
        max_new_tokens=default_length(model.denoise.max_new_tokens, model.chat_tuned)
    )
    return model


def print_notes(notes: Sequence[str]) -> None:
    """What there is to know about a model.

    For one request it comes with the answer: an error is one line alone.
    """
    for text in notes:
        note(f"note: {text}")


def screen_for(model: Model, options: CommandOptions, steps: int, **more: Any) -> Screen:
    """A Screen as the flags and the terminals allow."""
    return Screen(
        live=can_animate() and not options.no_live,
        flows=stdout_is_terminal() and not options.as_json,
        max_steps=steps,
        control=model.tokenizer.control_ids,
        **more,
    )


def complete(model: Model, text: str, options: CommandOptions, steps: int) -> Generation:
    """Continue a text, shown as it settles."""
    events, cut = with_room(
        model, options.params.max_tokens, lambda length: model.stream(text, options.params, max_tokens=length)
    )
    with screen_for(model, options, steps, echo=text) as screen:
        generation = _watch(events, screen, cut)
    print_notes(model.notes)
    report(generation, screen.passes, options, generation.text, model)
    return generation


def converse(
    model: Model,
    messages: Sequence[dict[str, Any]],
    options: CommandOptions,
    steps: int,
    *,
    thinking: bool = False,
    notes: Sequence[str] = (),
) -> Reply:
    """Answer a conversation, shown as it settles: thoughts dimmed, content as it is."""
    from ..tasks.chat import reply

    events, cut = with_room(
        model,
        options.params.max_tokens,
        lambda length: model.stream_chat(messages, options.params, thinking=thinking, max_tokens=length),
    )
    with screen_for(model, options, steps) as screen:
        generation = _watch(events, screen, cut)
    print_notes(notes)
    answer = reply(model.tokenizer, generation)
    for text in answer.malformed:
        note(f"note: a tool call that cannot be read: {text}")
    report(generation, screen.passes, options, answer.content, model)
    return answer


class Stopped(Exception):
    """Ctrl-C in an answer. `settled`: its canvases that will not change any more."""

    def __init__(self, settled: Sequence[Committed]):
        super().__init__()
        self.settled = settled

    @property
    def content(self) -> str:
        """The text so far, without thoughts."""
        return "".join(
            text for event in self.settled for channel, text in event.parts if channel == "content"
        )

    def summary(self, options: CommandOptions) -> str:
        """One line about what is kept."""
        if options.as_json:
            return "stopped: the answer was not finished, so there is no JSON of it"
        if not self.settled:
            return "stopped: no canvas had settled, so there is no text"
        tokens = sum(len(event.token_ids) for event in self.settled)
        canvases = count(len(self.settled), "canvas", "canvases")
        return f"stopped: the text so far is kept, {count(tokens, 'token')} in {canvases}"


def with_room(
    model: Model, length: int | None, begin: Callable[[int | None], Iterator[Any]]
) -> tuple[Iterator[Any], int | None]:
    """The events of an answer of `length` tokens, or where that is None of as many as there is room for, and
    what it was cut to.
    """
    if length is not None:
        return begin(length), None
    from ..tasks.length import open_with_room

    return open_with_room(begin, None, model.denoise.max_new_tokens, model.config.canvas_length)


def noted(result: Generation, cut: int | None) -> Generation:
    """A result, with a note about the length that it was cut to."""
    from ..tasks.length import note_of_cut

    remark = None
    if cut:
        remark = note_of_cut(None, cut, result.finish_reason)
    if remark:
        result.notes.append(remark)
    return result


def _watch(events: Iterable[Any], screen: Screen, cut: int | None) -> Generation:
    """Show the events and return the last.

    Raises Stopped on Ctrl-C. cut: the length that the answer was cut to.
    """
    result = None
    settled: list[Committed] = []
    try:
        for event in events:
            if isinstance(event, Draft):
                screen.draft(event)
            elif isinstance(event, Committed):
                settled.append(event)
                screen.committed(len(event.token_ids), event.steps, event.parts)
            else:
                result = event
    except KeyboardInterrupt:
        raise Stopped(settled) from None
    assert isinstance(result, Generation)
    return noted(result, cut)


def report(generation: Generation, passes: int, options: CommandOptions, text: str, model: Model) -> None:
    """Notes and the summary line, on stderr. With --json they are part of the result."""
    if options.as_json:
        return
    for line in generation.notes:
        note(f"note: {as_flags(line)}")
    if not text.strip():
        note("note: the answer is empty; another --seed may help")
    note(f"{summary(generation, passes)}, on {model.info.place}")
