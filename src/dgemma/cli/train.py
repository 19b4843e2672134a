"""dgemma train: train a small model of the same architecture, resumably, and write it as a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..config import DenoiseConfig
from ..errors import UsageError
from ..hub.locate import locate
from .progress import progress


def command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Texts, or conversations as JSON lines; default: the small world of the shipped checkpoint."
        ),
    ] = None,
    run: Annotated[Path, typer.Option(help="Folder of the run; an existing one is resumed.")] = Path(
        "runs/main"
    ),
    steps: Annotated[int, typer.Option(help="Train up to this step.", min=1)] = 1200,
    causal: Annotated[
        int | None,
        typer.Option(
            help="Steps at the start that train the causal pass alone; default: 768, with --start none.",
            min=0,
        ),
    ] = None,
    decay: Annotated[
        int, typer.Option(help="Steps at the end over which the learning rate falls to zero.", min=0)
    ] = 0,
    start: Annotated[
        str | None, typer.Option(help="A checkpoint whose weights a new run begins with.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the checkpoint to this folder when done.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the first weights, the order of the text and the noise.", min=0)
    ] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...; default: a CUDA card where there is one.")
    ] = None,
    fused: Annotated[
        bool, typer.Option(help="Compile norms, rope and GELU into fused loops; needs a C++ compiler.")
    ] = True,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.", min=0)] = 0,
) -> None:
    """Train a small model of the same architecture (4.4 M parameters) from scratch, or go on with a run.

    Interrupt it at any time: it saves every two minutes and goes on where it was. With --decay the state
    before the decay is kept as before-decay.*, from which a longer run can start.
    """
    if decay >= steps:
        raise UsageError(f"--decay {decay} must be smaller than --steps {steps}")
    # asked before hours of training, not after them
    _check_folder("--run", run)
    if export is not None:
        _check_folder("--export", export)
    if start is not None:
        locate(start)
    import torch

    from .. import api
    from ..model.target import choose_device
    from ..train.loop import LoopConfig
    from ..train.recipe import TrainingRecipe, trainer
    from ..train.recipe import export as write

    if threads:
        torch.set_num_threads(threads)
    device = str(choose_device(device))
    source = None
    if start is not None:
        source = api.load(start, "cpu", "float32", trainable=True)
    first = 0
    if start is None:
        first = TrainingRecipe.causal_steps
    training_recipe = TrainingRecipe(causal_steps=first if causal is None else causal, seed=seed)
    loop = LoopConfig(steps=steps, decay=decay, seed=seed, fused=fused)
    job = trainer(training_recipe, loop, run, files or (), device, source)
    typer.echo(f"step {job.step} of {steps}, {job.tokens:,} tokens read so far", err=True)
    with progress("training") as bar:
        bar(job.step, steps)
        for report in job.advance():
            typer.echo(
                f"step {report.step:5d}  next token {report.next_token:.3f}  "
                f"canvas {report.canvas:.3f} nats  "
                f"{report.tokens_per_second:,.0f} tokens/s  {report.seconds:,.0f} s",
                err=True,
            )
            bar(report.step, steps)
    if export is not None:
        folder = write(job, export, DenoiseConfig(eos_token_id=job.model.config.eos_token_ids))
        typer.echo(f"wrote {folder}", err=True)


def _check_folder(flag: str, folder: Path) -> None:
    """Raise UsageError where no folder can be made or written.

    Also where an export would replace something else.
    """
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{flag} {folder}: {place} is not a folder that can be written; name another")
    others = flag == "--export" and folder.is_dir() and any(folder.iterdir())
    if others and not (folder / "config.json").is_file():
        raise UsageError(
            f"{flag} {folder}: holds other things than a checkpoint, so it is not replaced; name a new folder"
        )
