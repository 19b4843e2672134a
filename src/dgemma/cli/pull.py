"""`dgemma pull NAME`: fetch a checkpoint from the hub, resumed and checked; prints the folder or GGUF file on
stdout.

The token comes from HF_TOKEN or `hf auth login`, never from the command line, where other users of the
machine could read it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..config.sizes import disk_size
from ..weights.layout import Layout
from ..weights.source import source
from .screen import write_out


def command(
    name: Annotated[
        str,
        typer.Argument(
            help="A hub name, org/name or org/name@revision; org/name:Q4_K_M for one GGUF file; "
            "or an address of the hub."
        ),
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")] = None,
) -> None:
    """Fetch a model from the hub into the Hugging Face cache; only what is missing or damaged is fetched."""
    with bar() as progress:
        place, layout = fetch(name, revision, progress)
    snapshot = place if place.is_dir() else place.parent
    files = f"{len(layout.files)} weight files" if len(layout.files) > 1 else layout.files[0].name
    print(
        f"{name}: revision {snapshot.name[:12]}, {files}, {disk_size(layout.total_bytes)}, hashes right",
        file=sys.stderr,
    )
    for note in layout.notes():
        print(f"note: {note}", file=sys.stderr)
    write_out(os.fsencode(place) + b"\n")


def fetch(
    name: str, revision: str | None = None, progress: Callable[[int, int, str], None] | None = None
) -> tuple[Path, Layout]:
    """Pull, then read all headers: a checkpoint that is broken on the hub is said to be so now, not when it
    is run.
    """
    from ..weights.pull import pull

    found = source(pull(name, revision, progress=progress))
    return found.place, found.inspect(found.config())


@contextmanager
def bar(start: str = "asking the hub") -> Iterator[Callable[[int, int, str], None]]:
    """A progress callback: a bar on a terminal, a line per file elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(start, total=None)
        yield lambda done, total, what: progress.update(task, completed=done, total=total, description=what)


def _lines() -> Callable[[int, int, str], None]:
    last = ""

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        if what != last:
            print(f"{what} ({disk_size(done)} of {disk_size(total)})", file=sys.stderr)
        last = what

    return report
