"""`dgemma rm NAME`: delete a DiffusionGemma checkpoint from the hub cache.

Touches only what `dgemma ls` lists with a hub name: other programs' models, folders and the shipped
checkpoint are refused. On a terminal it asks first, since fetching again may take hours.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..hub.locate import disk_size, remove


def command(
    name: Annotated[
        str,
        typer.Argument(
            help="A hub name as `dgemma ls` shows it: org/name, org/name@revision, org/name:Q4_K_M."
        ),
    ],
    revision: Annotated[str | None, typer.Option(help="Delete this revision alone; default: all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the Hugging Face cache and say how much disk that freed."""
    if (
        not yes
        and sys.stdin is not None
        and sys.stdin.isatty()
        and not typer.confirm(f"delete {name} from the cache?")
    ):
        raise typer.Exit(1)
    print(f"removed {name}: {disk_size(remove(name, revision))} freed")
