"""`dgemma fill FILE`: the text that belongs at a marker, generated in place.

The file is cut and spliced as bytes: what stands around the marker comes back as it was, line ends, BOM and missing
final newline included, whatever the model was shown (files.py). Trap: a marker that stands twice is a mistake, not two gaps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import INTERRUPTED, UsageError
from ..tasks.events import Draft, Filling
from .files import as_in_file, check_writable, read, replace, seen
from .flags import Asked, as_flags, asking, check, decode
from .picture import STYLES, plain
from .run import open_model, screen_for, tell
from .screen import note, stdout_is_terminal, summary, terminal, write_json, write_out

if TYPE_CHECKING:
    from ..api import Model

MARKER = "<fill>"


@asking(
    without=("eos_token_id", "ignore_after_end", "warmup")
)  # a gap is closed by its filler, not by end tokens
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
    asked: Asked,
) -> None:
    """Fill the gap at the marker in a file and print the whole file, every other byte as it was."""
    if only_gap and (in_place or asked.as_json):
        raise UsageError("--only-gap prints the gap alone; leave out --in-place and --json")
    name = "the text on stdin" if file == "-" else f"'{file}'"
    path = None if file == "-" else Path(file)
    if in_place and path is None:
        raise UsageError("--in-place needs a file; what is piped in has no place")
    data = read(path, name)
    if in_place and path is not None:
        check_writable(path, name)
    prefix, suffix = cut(data, os.fsencode(marker), name)
    extra = [_extra(other) for other in context_file or ()]
    steps = check(asked).max_denoising_steps
    filling = _generate(seen(prefix), seen(suffix), extra, asked, steps)
    gap = as_in_file(filling.text, data)
    if in_place and path is not None:
        replace(path, data, prefix + gap + suffix)
    if asked.as_json:
        write_json(filling.to_dict())
    elif only_gap:
        write_out(gap if not stdout_is_terminal() else plain(filling.text) + "\n")
    elif not in_place:
        _print_file(prefix, filling.text, suffix) if stdout_is_terminal() else write_out(
            prefix + gap + suffix
        )


def _extra(file: str) -> tuple[str, str]:
    """A file that is context alone, as its name and its text."""
    data = read(Path(file), f"'{file}'")
    decode(data, f"'{file}'")
    return plain(Path(file).name), seen(data)


def _generate(prefix: str, suffix: str, extra: list[tuple[str, str]], asked: Asked, steps: int) -> Filling:
    model = open_model(asked)
    from ..tasks.infill import default_widths  # late: torch

    widths = default_widths(asked.sampler.get("canvas_width") or model.config.canvas_length, asked.max_tokens)
    rows = [f"gap {width} of {'/'.join(map(str, widths))}" for width in widths]
    events = model.stream_fill(prefix, suffix, asked.seed, widths=widths, extra=extra, **asked.sampler)
    filling: Any = None
    try:
        with screen_for(model, asked, steps, rows=rows) as screen:
            for event in events:
                if isinstance(event, Draft):
                    screen.draft(event)
                else:
                    filling = event
    except KeyboardInterrupt:
        note("stopped: the gap had not settled; nothing was written, and the file is as it was")
        raise typer.Exit(INTERRUPTED) from None
    assert isinstance(filling, Filling)
    tell(model.notes)
    if not asked.as_json:
        _report(filling, screen.passes, model)
    return filling


def _report(filling: Filling, passes: int, model: Model) -> None:
    for line in filling.generation.notes:
        note(f"note: {as_flags(line)}")
    if not filling.closed:
        note("note: the gap did not close, so its text may be cut short; more --max-tokens may help")
    if not filling.text:
        note("note: the gap was left empty; another --seed may help")
    ended = f"gap of {filling.width} {'closed' if filling.closed else 'not closed'}"
    note(f"{summary(filling.generation, passes, ended)}, on {model.info.place}")


def cut(data: bytes, marker: bytes, name: str) -> tuple[bytes, bytes]:
    """The bytes before and after the marker. Raises UsageError unless it stands there once, beside some UTF-8 text."""
    decode(data, name)
    shown = decode(marker, "the marker")
    if not shown:
        raise UsageError("the marker is empty; name some text with --marker")
    first = data.find(marker)
    if first < 0:
        raise UsageError(
            f"{name} has no marker '{shown}'; put it where text is wanted, or name another with --marker"
        )
    if (second := data.find(marker, first + 1)) >= 0:
        lines = " and ".join(str(data.count(b"\n", 0, place) + 1) for place in (first, second))
        raise UsageError(f"{name} has the marker '{shown}' more than once (lines {lines}); keep one")
    prefix, suffix = data[:first], data[first + len(marker) :]
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
