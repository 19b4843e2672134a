"""`dgemma pull NAME`: fetch a checkpoint from the hub, resumed and checked; prints the folder on stdout.

The token comes from HF_TOKEN or `hf auth login`, never from the command line, where other users of the machine
could read it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..config import ModelConfig
from ..weights.layout import Layout, inspect
from ..weights.locate import disk_size
from .screen import write_out


def command(
    name: Annotated[str, typer.Argument(help="A hub name, org/name or org/name@revision.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")] = None,
) -> None:
    """Fetch a model from the hub into the Hugging Face cache; only what is missing or damaged is fetched."""
    with bar() as progress:
        folder, layout = fetch(name, revision, progress)
    files = f"{len(layout.files)} weight files, {disk_size(layout.total_bytes)}, hashes right"
    print(f"{name}: revision {folder.name[:12]}, {files}", file=sys.stderr)
    for note in layout.notes():
        print(f"note: {note}", file=sys.stderr)
    write_out(os.fsencode(folder) + b"\n")


def fetch(
    name: str, revision: str | None = None, progress: Callable[[int, int, str], None] | None = None
) -> tuple[Path, Layout]:
    """Pull, then read all headers: a checkpoint that is broken on the hub is said to be so now, not when it is run."""
    from ..weights.pull import pull

    folder = pull(name, revision, progress=progress)
    return folder, inspect(folder, ModelConfig.from_file(folder / "config.json"))


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress callback: a bar on a terminal, a line per file elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("asking the hub", total=None)
        yield lambda done, total, what: progress.update(task, completed=done, total=total, description=what)


def _lines() -> Callable[[int, int, str], None]:
    last = ""

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        if what != last:
            print(f"{what} ({disk_size(done)} of {disk_size(total)})", file=sys.stderr)
        last = what

    return report
