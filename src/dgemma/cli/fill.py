"""`dgemma fill FILE`: the text that belongs at a marker, generated in place.

The file is cut and spliced as bytes: what stands around the marker comes back as it was, line ends, BOM and missing
final newline included, whatever the model was shown. Trap: the model knows "\\n" alone, so it is shown that, and
what it writes gets the file's own line ends.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ResourceError, UsageError
from ..tasks.events import Draft, Filling
from .flags import MAX_FILE_BYTES, Asked, asking, check, decode, from_stdin, read_file
from .picture import STYLES, plain
from .run import open_model, screen_for, tell
from .screen import note, stdout_is_terminal, summary, terminal, write_json, write_out

MARKER = "<fill>"
_BOM = "\ufeff"


@asking(without=("eos_token_id", "ignore_after_end", "warmup"))  # a gap is closed by its filler, not by end tokens
def command(
    file: Annotated[str, typer.Argument(help="A text file that holds the marker once; '-': what is piped in.")],
    marker: Annotated[str, typer.Option(help="The text that stands where the gap is.")] = MARKER,
    only_gap: Annotated[bool, typer.Option("--only-gap", help="Print what belongs in the gap, not the file.")] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write the file, print nothing.")] = False,
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
    data = _read(path, name)
    if in_place and path is not None:
        _check_writable(path, name)
    prefix, suffix = cut(data, os.fsencode(marker), name)
    steps = check(asked).max_denoising_steps
    filling = _generate(seen(prefix), seen(suffix), asked, steps)
    gap = as_in_file(filling.text, data)
    if in_place and path is not None:
        replace(path, data, prefix + gap + suffix)
    if asked.as_json:
        write_json(filling.to_dict())
    elif only_gap:
        write_out(gap if not stdout_is_terminal() else plain(filling.text) + "\n")
    elif not in_place:
        _print_file(prefix, filling.text, suffix) if stdout_is_terminal() else write_out(prefix + gap + suffix)


def _generate(prefix: str, suffix: str, asked: Asked, steps: int) -> Filling:
    model = open_model(asked)
    from ..tasks.infill import default_widths  # late: torch

    widths = default_widths(asked.sampler.get("canvas_width") or model.config.canvas_length, asked.max_tokens)
    rows = [f"gap {width} of {'/'.join(map(str, widths))}" for width in widths]
    events = model.stream_fill(prefix, suffix, asked.seed, widths=widths, **asked.sampler)
    filling: Any = None
    with screen_for(model, asked, steps, rows=rows) as screen:
        for event in events:
            if isinstance(event, Draft):
                screen.draft(event)
            else:
                filling = event
    assert isinstance(filling, Filling)
    tell(model.notes)
    if not asked.as_json:
        _report(filling, screen.passes)
    return filling


def _report(filling: Filling, passes: int) -> None:
    for line in filling.generation.notes:
        note(f"note: {line}")
    if not filling.closed:
        note("note: the gap did not close, so its text may be cut short; more --max-tokens may help")
    if not filling.text:
        note("note: the gap was left empty; another --seed may help")
    ended = f"gap of {filling.width} {'closed' if filling.closed else 'not closed'}"
    note(summary(filling.generation, passes, ended))


def _read(path: Path | None, name: str) -> bytes:
    if path is not None:
        return read_file(path, name)
    if len(data := from_stdin(MAX_FILE_BYTES + 1)) > MAX_FILE_BYTES:
        raise UsageError(f"{name} has more than {MAX_FILE_BYTES} bytes; max_file_bytes is {MAX_FILE_BYTES}")
    return data


def cut(data: bytes, marker: bytes, name: str) -> tuple[bytes, bytes]:
    """The bytes before and after the marker. Raises UsageError unless it stands there once, beside some UTF-8 text."""
    decode(data, name)
    shown = decode(marker, "the marker")
    if not shown:
        raise UsageError("the marker is empty; name some text with --marker")
    first = data.find(marker)
    if first < 0:
        raise UsageError(f"{name} has no marker '{shown}'; put it where text is wanted, or name another with --marker")
    if (second := data.find(marker, first + 1)) >= 0:
        lines = " and ".join(str(data.count(b"\n", 0, place) + 1) for place in (first, second))
        raise UsageError(f"{name} has the marker '{shown}' more than once (lines {lines}); keep one")
    prefix, suffix = data[:first], data[first + len(marker) :]
    if not seen(prefix) and not suffix:
        raise UsageError(f"{name} holds nothing but the marker; give some text around it")
    return prefix, suffix


def seen(part: bytes) -> str:
    """Text as the model is shown it: without a byte order mark, and with plain line ends."""
    return part.decode("utf-8").removeprefix(_BOM).replace("\r\n", "\n")


def as_in_file(text: str, data: bytes) -> bytes:
    """Generated text as UTF-8, with the line ends that most lines of the file have."""
    if 2 * data.count(b"\r\n") > data.count(b"\n"):
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    return text.encode("utf-8", "replace")


def _print_file(prefix: bytes, gap: str, suffix: bytes) -> None:
    """The whole file on a terminal, the gap in the colour of what was accepted."""
    from rich.text import Text

    text = Text(plain(seen(prefix)))
    text.append(plain(gap), STYLES["accepted"])
    text.append(plain(seen(suffix)))
    terminal(sys.stdout).print(text, soft_wrap=True, end="" if text.plain.endswith("\n") else "\n")


def _check_writable(path: Path, name: str) -> None:
    """Say before the work is done that its result could not be written."""
    target = path.resolve()
    if not (os.access(target, os.W_OK) and os.access(target.parent, os.W_OK)):
        raise UsageError(f"{name} cannot be replaced: it or its folder is not writable")


def replace(path: Path, expected: bytes, data: bytes) -> None:
    """Put `data` in a file's place at once, its mode kept; a link keeps pointing to it.

    Raises UsageError when the file is not what it was (`expected`), ResourceError when there is no room.
    """
    target = path.resolve()
    if _read(target, f"'{path}'") != expected:
        raise UsageError(f"'{path}' was changed while its gap was being filled; nothing was written")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".dgemma-fill-", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, temporary)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise ResourceError(f"'{path}' could not be written: {error.strerror}; it is as it was") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
