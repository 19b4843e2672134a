"""`dgemma edit FILE "instruction"`: a file changed in place; shows the difference and asks before anything is taken.

Changes are spliced into the file's bytes by their places, so whatever is not in a changed span stays to the byte. Trap: the model is
shown the text without byte order mark and carriage returns, so its places are not the file's; `splice` maps them.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.reader import shown
from ..errors import INTERRUPTED, UsageError
from ..tasks.events import Change, Draft, Edit
from ..text.lines import lines_span, unified_diff
from .files import as_in_file, check_writable, read, replace, seen
from .flags import BOM, Asked, argument, as_flags, asking, check, decode
from .picture import paint_diff, plain
from .run import open_model, screen_for, tell
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

_SPAN = re.compile(r"([0-9]{1,12})(?::([0-9]{1,12}))?")
ROWS = ("shorter", "as long", "longer")


@asking(
    without=("eos_token_id", "ignore_after_end", "warmup", "max_tokens")
)  # spans say how long their texts may be
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
    asked: Asked,
) -> None:
    """Change a file: show the difference, ask, and print the new text or write it in place."""
    name = "the text on stdin" if file == "-" else f"'{file}'"
    path = None if file == "-" else Path(file)
    if in_place and path is None:
        raise UsageError("--in-place needs a file; what is piped in has no place")
    asks = not yes and (in_place or not asked.as_json)
    if asks and (path is None or sys.stdin is None or not sys.stdin.isatty()):
        raise UsageError(
            "there is no terminal to ask on; add --yes to take the edit, or --json to look at it"
        )
    told = None if instruction is None else argument(instruction, "the instruction")
    if told is None and not span:
        raise UsageError("say what to change: give an instruction, --span with lines, or both")
    data = read(path, name)
    decode(data, name)
    text = seen(data)
    if not text.strip():
        raise UsageError(f"{name} is empty; there is nothing to edit")
    spans = _spans(text, span or ())
    if in_place and path is not None:
        check_writable(path, name)
    edit = _generate(text, told, spans, asked, check(asked).max_denoising_steps)
    label = "stdin" if path is None else path.name
    changed = splice(data, edit.changes)
    if not asked.as_json:
        _show(edit.diff(label))
    if asks and changed != data and not agreed("Take this edit?"):
        note("the edit was refused; nothing was written")
        raise typer.Exit(1)
    if in_place and path is not None:
        replace(path, data, changed)
    if asked.as_json:
        write_json(edit.to_dict(label))
    elif not in_place:
        write_out(plain(edit.text) if stdout_is_terminal() else changed)


def _spans(text: str, given: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of every --span. Raises UsageError for one that is none, is not in the text, or overlaps another."""
    lines = sorted((*_lines(one), one) for one in given)
    for (_, last, one), (first, _, other) in pairwise(lines):
        if first <= last:
            raise UsageError(f"--span {one} and --span {other} overlap; join them")
    return [lines_span(text, first, last) for first, last, _ in lines]


def _lines(span: str) -> tuple[int, int]:
    """First and last line of "10:20" or "7"."""
    found = _SPAN.fullmatch(span)
    if found is None:
        raise UsageError(f"--span is {shown(span)}; give lines such as 10:20 or 7")
    first = int(found[1])
    return first, int(found[2] or first)


def _generate(
    text: str, instruction: str | None, spans: list[tuple[int, int]], asked: Asked, steps: int
) -> Edit:
    model = open_model(asked)
    events = model.stream_edit(text, instruction, asked.seed, spans=spans or None, **asked.sampler)
    found: Any = None
    settled: list[Change] = []
    try:
        with screen_for(model, asked, steps, rows=ROWS) as screen:
            for event in events:
                if isinstance(event, Draft):
                    screen.draft(event)
                elif isinstance(event, Change):
                    settled.append(event)
                else:
                    found = event
    except KeyboardInterrupt:
        _stopped(text, settled)
        raise typer.Exit(INTERRUPTED) from None
    assert isinstance(found, Edit)
    tell(model.notes)
    if not asked.as_json:
        if instruction is not None and not model.chat_tuned:
            note(
                "note: this model is not chat-tuned: it reads the instruction as a comment and does not follow it"
            )
        for line in found.generation.notes:
            note(f"note: {as_flags(line)}")
        opened = len(found.changes)
        note(f"{summary(found.generation, screen.passes, count(opened, 'span'))}, on {model.info.place}")
    return found


def _stopped(text: str, settled: Sequence[Change]) -> None:
    """Say what an edit had come to when it was interrupted; nobody has agreed to it, so nothing is written."""
    if settled:
        _show(unified_diff(text, splice(text.encode(), settled).decode(), "the text so far"))
    spans = count(len(settled), "span")
    note(
        f"stopped: {spans} had settled{', shown above' if settled else ''}; nothing was written, and the file is as it was"
    )


def splice(data: bytes, changes: Sequence[Change]) -> bytes:
    """The file's bytes with every change in its place; places are characters of what the model was shown (`seen`)."""
    whole = data.decode("utf-8")
    mark = BOM if whole.startswith(BOM) else ""
    text = whole[len(mark) :]
    wide = [
        found.start() - number for number, found in enumerate(re.finditer("\r\n", text))
    ]  # shown line breaks of two characters
    parts, place = [mark.encode()], 0
    for change in changes:
        start, end = (at + bisect_left(wide, at) for at in (change.start, change.end))
        parts += [text[place:start].encode(), as_in_file(change.after, data)]
        place = end
    return b"".join([*parts, text[place:].encode()])


def _show(diff: str) -> None:
    """The difference on stderr, coloured on a terminal."""
    if not diff:
        note("note: nothing changed; another --seed may help")
    elif stderr_is_terminal():
        terminal().print(paint_diff(diff), soft_wrap=True)
    else:
        note(diff.rstrip("\n"))
