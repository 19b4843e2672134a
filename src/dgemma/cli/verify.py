"""dgemma verify: a report on whether a model does on this machine what it must, to paste into an issue."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from ..config.formats import DTYPES
from ..config.sizes import disk_size
from ..errors import NumericsError
from ..hub.locate import locate
from ..weights.disk import disk_errors
from ..weights.sums import SUMS, check_files
from .flags import MEMORY, check_device
from .progress import file_progress
from .screen import stdout_is_terminal, write_out


def command(
    model: Annotated[
        str | None, typer.Argument(help="A folder, .gguf file or hub name; the shipped model if left out.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of the longest prompt; default 4096, or what fits.", min=8)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = None,
    memory: MEMORY = None,
    files: Annotated[
        bool,
        typer.Option(
            "--files",
            help="Only compare the checkpoint's files with their hashes: exit code 3 where one has changed.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Check a model on this machine: reference, cache, kernels, speed (exit code 6: it fails)."""
    if files:
        verify_files(model, as_json)
        return
    check_device(device, memory)
    from .. import api
    from ..bench.report import lines
    from ..bench.verify import verify

    sections = []
    texts = []  # of sections that are not written yet
    for section in verify(api.load(model, device, dtype, memory=memory), context):
        sections.append(section)
        texts.append("\n".join(lines(section)) + "\n")
        if stdout_is_terminal() and not as_json:  # a pipe gets the whole report or nothing
            write_out(texts.pop())
    failed = [section.name for section in sections if section.failures]
    if as_json:
        table = [dataclasses.asdict(section) | {"state": section.state} for section in sections]
        write_out(json.dumps({"holds": not failed, "sections": table}, indent=1) + "\n")
    else:
        texts.append(f"FAILED: {', '.join(failed)}\n" if failed else "everything that ran holds\n")
        write_out("".join(texts))
    if failed:
        raise typer.Exit(NumericsError.exit_code)


def verify_files(model: str | None, as_json: bool = False) -> None:
    """Compare a checkpoint's files with their hashes, or keep a list where none are known.

    Raises CheckpointError for what changed.
    """
    place = locate(model)
    with (
        file_progress("looking for the checkpoint") as progress,
        disk_errors(place, "and give the same command again"),
    ):
        done = check_files(place, progress)
    if as_json:
        write_out(
            json.dumps({"place": str(place), "files": done.files, "bytes": done.nbytes, "made": done.made})
            + "\n"
        )
    elif done.made:
        made = f"{SUMS} of {done.files} files was made now"
        write_out(f"{place}: no hashes were known; {made}, and later checks compare with it\n")
    else:
        write_out(f"{place}: {done.files} files, {disk_size(done.nbytes)}, are what their hashes say\n")
