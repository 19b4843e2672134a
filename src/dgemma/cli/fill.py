"""`dgemma fill FILE`: the text that belongs at a marker, generated in place.

The file is cut and spliced as bytes: what stands around the marker comes back as it was, line ends, BOM and
missing final newline included, whatever the model was shown (files.py). Trap: a marker that stands twice is a
mistake, not two gaps.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import INTERRUPTED, UsageError
from ..tasks.events import Draft, Filling
from .files import as_in_file, check_writable, read, replace, seen
from .flags import CommandOptions, as_flags, check, decode, with_options
from .picture import STYLES, plain
from .run import open_model, print_notes, screen_for
from .screen import note, stdout_is_terminal, summary, terminal, write_json, write_out

if TYPE_CHECKING:
    from ..api import Model

MARKER = "<fill>"


# a gap is closed by its filler, not by end tokens
@with_options(without=("eos_token_id", "ignore_after_end", "warmup"))
def command(
    file: Annotated[
        str, typer.Argument(help="A text file that holds the marker once; '-': what is piped in.")
    ],
    marker: Annotated[str, typer.Option(help="The text that stands where the gap is.")] = MARKER,
    only_gap: Annotated[
        bool, typer.Option("--only-gap", help="Print what belongs in the gap, not the file.")
    ] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write the file, print nothing.")] = False,
    context_file: Annotated[
        list[str] | None, typer.Option("--context-file", help="A file that is read first; repeatable.")
    ] = None,
    *,
    options: CommandOptions,
) -> None:
    """Fill the gap at the marker in a file and print the whole file, every other byte as it was."""
    if only_gap and (in_place or options.as_json):
        raise UsageError("--only-gap prints the gap alone; leave out --in-place and --json")
    name = "the text on stdin"
    if file != "-":
        name = f"'{file}'"
    path = None
    if file != "-":
        path = Path(file)
    if in_place and path is None:
        raise UsageError("--in-place needs a file; what is piped in has no place")
    data = read(path, name)
    if in_place and path is not None:
        check_writable(path, name)
    prefix, suffix = cut(data, os.fsencode(marker), name)
    extra = [_extra(other) for other in context_file or ()]
    steps = check(options).max_denoising_steps
    filling = _generate(seen(prefix), seen(suffix), extra, options, steps)
    gap = as_in_file(filling.text, data)
    filled = prefix + gap + suffix
    if in_place and path is not None:
        replace(path, data, filled)
    if options.as_json:
        write_json(filling.to_dict())
    elif only_gap:
        write_out(plain(filling.text) + "\n" if stdout_is_terminal() else gap)
    elif not in_place and stdout_is_terminal():
        _print_file(prefix, filling.text, suffix)
    elif not in_place:
        write_out(filled)


def _extra(file: str) -> tuple[str, str]:
    """A file that is context alone, as its name and its text."""
    data = read(Path(file), f"'{file}'")
    decode(data, f"'{file}'")
    return plain(Path(file).name), seen(data)


def _generate(
    prefix: str, suffix: str, extra: list[tuple[str, str]], options: CommandOptions, steps: int
) -> Filling:
    model = open_model(options)
    from ..tasks.infill import default_widths  # late: torch

    canvas = options.params.canvas_width or model.config.canvas_length
    widths = default_widths(canvas, options.params.max_tokens)
    rows = [f"gap {width} of {'/'.join(map(str, widths))}" for width in widths]
    params = dataclasses.replace(options.params, max_tokens=None)  # the widest gap, and said by now
    events = model.stream_fill(prefix, suffix, params, widths=widths, extra=extra)
    filling: Any = None
    try:
        with screen_for(model, options, steps, rows=rows) as screen:
            for event in events:
                if isinstance(event, Draft):
                    screen.draft(event)
                else:
                    filling = event
    except KeyboardInterrupt:
        note("stopped: the gap had not settled; nothing was written, and the file is as it was")
        raise typer.Exit(INTERRUPTED) from None
    assert isinstance(filling, Filling)
    print_notes(model.notes)
    if not options.as_json:
        _report(filling, screen.passes, model)
    return filling


def _report(filling: Filling, passes: int, model: Model) -> None:
    for line in filling.generation.notes:
        note(f"note: {as_flags(line)}")
    if not filling.closed:
        note("note: the gap did not close, so its text may be cut short; more --max-tokens may help")
    if not filling.text:
        note("note: the gap was left empty; another --seed may help")
    state = "not closed"
    if filling.closed:
        state = "closed"
    ended = f"gap of {filling.width} {state}"
    note(f"{summary(filling.generation, passes, ended)}, on {model.info.place}")


def cut(data: bytes, marker: bytes, name: str) -> tuple[bytes, bytes]:
    """The bytes before and after the marker.

    Raises UsageError unless it stands there once, beside some UTF-8 text.
    """
    decode(data, name)
    shown = decode(marker, "the marker")
    if not shown:
        raise UsageError("the marker is empty; name some text with --marker")
    first = data.find(marker)
    if first < 0:
        raise UsageError(
            f"{name} has no marker '{shown}'; put it where text is wanted, or name another with --marker"
        )
    second = data.find(marker, first + 1)
    if second >= 0:
        lines = " and ".join(str(data.count(b"\n", 0, place) + 1) for place in (first, second))
        raise UsageError(f"{name} has the marker '{shown}' more than once (lines {lines}); keep one")
    prefix = data[:first]
    suffix = data[first + len(marker) :]
    if not seen(prefix) and not suffix:
        raise UsageError(f"{name} holds nothing but the marker; give some text around it")
    return prefix, suffix


def _print_file(prefix: bytes, gap: str, suffix: bytes) -> None:
    """The whole file on a terminal, the gap in the colour of what was accepted."""
    from rich.text import Text

    text = Text(plain(seen(prefix)))
    text.append(plain(gap), STYLES["accepted"])
    text.append(plain(seen(suffix)))
    terminal(sys.stdout).print(text, soft_wrap=True, end="" if text.plain.endswith("\n") else "\n")
