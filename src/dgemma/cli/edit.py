"""`dgemma edit FILE "instruction"`: a file changed in place; shows the difference and asks before anything is
taken.

Changes are spliced into the file's bytes by their places, so whatever is not in a changed span stays to the
byte. Trap: the model is shown the text without byte order mark and carriage returns, so its places are not
the file's; `splice` maps them.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.reader import shown
from ..errors import INTERRUPTED, UsageError
from ..tasks.events import Change, Draft, Edit
from ..text.lines import lines_span, unified_diff
from .files import as_in_file, check_writable, read, replace, seen
from .flags import BOM, CommandOptions, argument, as_flags, check, decode, with_options
from .picture import paint_diff, plain
from .run import open_model, print_notes, screen_for
from .screen import (
    agreed,
    count,
    note,
    stderr_is_terminal,
    stdout_is_terminal,
    summary,
    terminal,
    write_json,
    write_out,
)

if TYPE_CHECKING:
    from ..api import Model

_SPAN = re.compile(r"([0-9]{1,12})(?::([0-9]{1,12}))?")
ROWS = ("shorter", "as long", "longer")


# spans say how long their texts may be
@with_options(without=("eos_token_id", "ignore_after_end", "warmup", "max_tokens"))
def command(
    file: Annotated[str, typer.Argument(help="A text file; '-': what is piped in.")],
    instruction: Annotated[
        str | None, typer.Argument(help="What to change; may be left out where --span says where.")
    ] = None,
    span: Annotated[
        list[str] | None,
        typer.Option("--span", help="Lines that may change, such as 10:20 or 7; repeatable."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the edit without asking.")] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write the file, print nothing.")] = False,
    *,
    options: CommandOptions,
) -> None:
    """Change a file: show the difference, ask, and print the new text or write it in place."""
    name = "the text on stdin"
    if file != "-":
        name = f"'{file}'"
    path = None
    if file != "-":
        path = Path(file)
    if in_place and path is None:
        raise UsageError("--in-place needs a file; what is piped in has no place")
    asks = not yes and (in_place or not options.as_json)
    if asks and (path is None or sys.stdin is None or not sys.stdin.isatty()):
        raise UsageError(
            "there is no terminal to ask on; add --yes to take the edit, or --json to look at it"
        )
    if instruction is not None:
        instruction = argument(instruction, "the instruction")
    elif not span:
        raise UsageError("say what to change: give an instruction, --span with lines, or both")
    data = read(path, name)
    decode(data, name)
    text = seen(data)
    if not text.strip():
        raise UsageError(f"{name} is empty; there is nothing to edit")
    spans = _spans(text, span or ())
    if in_place and path is not None:
        check_writable(path, name)
    edit = _generate(text, instruction, spans, options, check(options).max_denoising_steps)
    label = "stdin"
    if path is not None:
        label = path.name
    changed = splice(data, edit.changes)
    if not options.as_json:
        _show(edit.diff(label))
    if asks and changed != data and not agreed("Take this edit?"):
        note("the edit was refused; nothing was written")
        raise typer.Exit(1)
    if in_place and path is not None:
        replace(path, data, changed)
    if options.as_json:
        write_json(edit.to_dict(label))
    elif not in_place:
        write_out(plain(edit.text) if stdout_is_terminal() else changed)


def _spans(text: str, given: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of every --span.

    Raises UsageError for one that is none, is not in the text, or overlaps another.
    """
    lines = sorted((*_lines(one), one) for one in given)
    for (_, last, one), (first, _, other) in pairwise(lines):
        if first <= last:
            raise UsageError(f"--span {one} and --span {other} overlap; join them")
    return [lines_span(text, first, last) for first, last, _ in lines]


def _lines(span: str) -> tuple[int, int]:
    """First and last line of "10:20" or "7"."""
    match = _SPAN.fullmatch(span)
    if match is None:
        raise UsageError(f"--span is {shown(span)}; give lines such as 10:20 or 7")
    first = int(match[1])
    return first, int(match[2] or first)


def _generate(
    text: str, instruction: str | None, spans: list[tuple[int, int]], options: CommandOptions, steps: int
) -> Edit:
    model = open_model(options)
    events = model.stream_edit(text, instruction, options.params, spans=spans or None)
    edit: Any = None
    settled: list[Change] = []
    try:
        with screen_for(model, options, steps, rows=ROWS) as screen:
            for event in events:
                if isinstance(event, Draft):
                    screen.draft(event)
                elif isinstance(event, Change):
                    settled.append(event)
                else:
                    edit = event
    except KeyboardInterrupt:
        _stopped(text, settled)
        raise typer.Exit(INTERRUPTED) from None
    assert isinstance(edit, Edit)
    print_notes(model.notes)
    if not options.as_json:
        _report(edit, screen.passes, model, instruction is not None)
    return edit


def _report(edit: Edit, passes: int, model: Model, instructed: bool) -> None:
    """Notes and the summary line, on stderr."""
    if instructed and not model.chat_tuned:
        note(
            "note: this model is not chat-tuned: it reads the instruction as a comment and does not follow it"
        )
    for line in edit.generation.notes:
        note(f"note: {as_flags(line)}")
    spans = count(len(edit.changes), "span")
    note(f"{summary(edit.generation, passes, spans)}, on {model.info.place}")


def _stopped(text: str, settled: Sequence[Change]) -> None:
    """Say what an edit had come to when it was interrupted; nobody has agreed to it, so nothing is
    written.
    """
    if settled:
        _show(unified_diff(text, splice(text.encode(), settled).decode(), "the text so far"))
    state = f"{count(len(settled), 'span')} had settled"
    if settled:
        state += ", shown above"
    note(f"stopped: {state}; nothing was written, and the file is as it was")


def splice(data: bytes, changes: Sequence[Change]) -> bytes:
    """The file's bytes with every change in its place.

    Places are characters of what the model was shown (`seen`).
    """
    whole = data.decode("utf-8")
    mark = ""
    if whole.startswith(BOM):
        mark = BOM
    text = whole[len(mark) :]
    # where the model saw one character, and the file has two
    wide = [match.start() - number for number, match in enumerate(re.finditer("\r\n", text))]
    parts = [mark.encode()]
    place = 0
    for change in changes:
        start = change.start + bisect_left(wide, change.start)
        end = change.end + bisect_left(wide, change.end)
        parts += [text[place:start].encode(), as_in_file(change.after, data)]
        place = end
    parts.append(text[place:].encode())
    return b"".join(parts)


def _show(diff: str) -> None:
    """The difference on stderr, coloured on a terminal."""
    if not diff:
        note("note: nothing changed; another --seed may help")
    elif stderr_is_terminal():
        terminal().print(paint_diff(diff), soft_wrap=True)
    else:
        note(diff.rstrip("\n"))
