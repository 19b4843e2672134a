"""`dgemma pull NAME`: fetch a checkpoint from the hub, resumed and checked; prints the folder or GGUF file on
stdout.

The token comes from HF_TOKEN or `hf auth login`, never from the command line, where other users of the
machine could read it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..config.sizes import disk_size
from ..weights.layout import Layout
from ..weights.source import source
from .progress import file_progress
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
    with file_progress("asking the hub") as progress:
        place, layout = fetch(name, revision, progress)
    snapshot = place
    if not place.is_dir():
        snapshot = place.parent
    if len(layout.files) > 1:
        weights = f"{len(layout.files)} weight files"
    else:
        weights = layout.files[0].name
    print(
        f"{name}: revision {snapshot.name[:12]}, {weights}, {disk_size(layout.total_bytes)}, hashes right",
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
    from ..hub.pull import pull

    checkpoint = source(pull(name, revision, progress=progress))
    return checkpoint.place, checkpoint.inspect(checkpoint.config())
