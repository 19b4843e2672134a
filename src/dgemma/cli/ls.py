"""`dgemma ls`: the DiffusionGemma checkpoints on this machine, the shipped one first.

Lists what the hub cache holds, whoever put it there, damaged or unfinished ones included, with what is wrong.
Each GGUF file is a line of its own. Folders outside the cache are not known to it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated, Any

import typer

from ..hub.locate import CachedModel, disk_size, list_models
from .screen import stdout_is_terminal, write_out


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the models on this machine: name, revision, size, dtype, state, path."""
    models = list_models()
    if as_json:
        write_out(json.dumps([as_data(model) for model in models], indent=2) + "\n")
    else:
        show(models)


def as_data(model: CachedModel) -> dict[str, Any]:
    """One model as JSON holds it; size in bytes."""
    return dataclasses.asdict(model) | {"path": str(model.path)}


def show(models: list[CachedModel]) -> None:
    """A table on a terminal, tab-separated lines in a pipe (nothing wrapped or cut); or how to get a
    model.
    """
    if not models:
        print("no model on this machine; `dgemma pull NAME` fetches one", file=sys.stderr)
        return
    rows = [_cells(model) for model in models]
    if not stdout_is_terminal():
        write_out("".join("\t".join(row) + "\n" for row in rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "revision", "size", "dtype", "state", "path", box=None)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as Text, square brackets in a path are no markup
    Console(highlight=False).print(table)


def _cells(model: CachedModel) -> tuple[str, ...]:
    refs = ""
    if model.refs:
        refs = f" ({', '.join(model.refs)})"
    return (
        model.name,
        model.revision[:12] + refs,
        disk_size(model.size),
        model.dtype,
        model.state,
        str(model.path),
    )
