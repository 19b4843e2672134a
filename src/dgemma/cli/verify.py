"""dgemma verify: a report on whether a model does on this machine what it must, to paste into an issue."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from ..errors import NumericsError
from .flags import DTYPES, MEMORY, check_device
from .screen import stdout_is_terminal, write_out


def command(
    model: Annotated[str | None, typer.Argument(help="A folder, .gguf file or hub name; the shipped model if left out.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of the longest prompt; default 4096, or what fits.", min=8)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = None,
    memory: MEMORY = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Check a model on this machine: against the reference, its cache, its kernels, its speed (exit code 6: it fails)."""
    check_device(device, memory)
    from .. import api
    from ..bench.report import lines
    from ..bench.verify import verify

    sections, told = [], []
    for section in verify(api.load(model, device, dtype, memory=memory), context):
        sections.append(section)
        told.append("\n".join(lines(section)) + "\n")
        if stdout_is_terminal() and not as_json:  # a pipe gets the whole report or nothing
            write_out(told.pop())
    failed = [section.name for section in sections if section.failures]
    if as_json:
        table = [dataclasses.asdict(section) | {"state": section.state} for section in sections]
        write_out(json.dumps({"holds": not failed, "sections": table}, indent=1) + "\n")
    else:
        write_out("".join(told) + (f"FAILED: {', '.join(failed)}\n" if failed else "everything that ran holds\n"))
    if failed:
        raise typer.Exit(NumericsError.exit_code)
