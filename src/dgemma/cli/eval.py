"""dgemma eval: bits per byte of text files under a checkpoint, next-token and diffusion bound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import NumericsError, UsageError
from .flags import MEMORY, check_device, decode, read_file, text_model
from .progress import loading, progress
from .run import tell
from .screen import can_animate, stdout_is_terminal, write_out

if TYPE_CHECKING:
    from ..api import Model
    from ..train.evaluate import Score


def command(
    files: Annotated[list[Path] | None, typer.Argument(help="Text files; none: the corpus's held-out files.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Folder or pulled name; default: shipped.")] = None,
    samples: Annotated[int, typer.Option(help="Noise levels per canvas; the error falls with its root.", min=2)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", min=0, max=2**40)] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    memory: MEMORY = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score text: exact next-token bits/byte of the causal pass, and the diffusion's upper bound with its error."""
    texts = _read(files)
    check_device(device, memory)
    text_model(model)
    rows: dict[str, Any] = {}
    lines: list[str] = []  # a terminal gets each as it comes, a pipe all of them or none
    from .. import api

    with loading(can_animate()) as report:
        loaded = api.load(model, device, memory=memory, progress=report)
    tell(loaded.notes)
    with progress("scoring") as bar:
        for name, found in scores(loaded, texts, samples, seed, bar):
            if not all(math.isfinite(number) for number in _numbers(found).values()):
                raise NumericsError(f"{name}: the score is not finite; check the checkpoint with `dgemma doctor`")
            rows[name] = found
            lines.append(_line(name, found) + "\n")
            if not as_json and stdout_is_terminal():
                bar.hide()
                write_out(lines.pop())
    total = None
    for found in rows.values():
        total = found if total is None else total + found
    if as_json:
        table = {name: _numbers(found) for name, found in rows.items()}
        write_out(json.dumps({"total": _numbers(total), "files": table}, indent=1) + "\n")
        return
    if len(rows) > 1:
        lines.append(_line(f"all {len(rows)} files", total) + "\n")
    write_out("".join(lines))


def scores(
    model: Model, texts: dict[str, str], samples: int, seed: int, report: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[tuple[str, Score]]:
    """(name, Score) for each text under a model, one after another; `report` hears of the tokens scored and of all there are."""
    from ..train.evaluate import Special, score

    special = model.tokenizer.special
    ids = Special(special.need("bos"), special.need("eos"), special.need("pad"))
    tokens = {name: model.tokenizer.encode(text) for name, text in texts.items()}
    total, done = sum(len(one) + 1 for one in tokens.values()), 0  # each text's end is scored, too

    def scored(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    report(0, total)
    for place, (name, text) in enumerate(texts.items()):
        own_seed = seed * 1_000_003 + place  # or all files would share their noise, and their errors would add up
        yield name, score(model.net, tokens[name], len(text.encode()), ids, samples=samples, seed=own_seed, progress=scored)


def _read(files: list[Path] | None) -> dict[str, str]:
    if not files:
        from ..train.corpus import load

        return load().held_out
    texts = {}
    for path in files:
        # as bytes: text mode would turn "\r\n" into "\n", and another text than the file's would be scored
        texts[str(path)] = decode(read_file(path, f"'{path}'"), f"'{path}'")
        if not texts[str(path)]:
            raise UsageError(f"{path}: the file is empty, there is nothing to score")
    return texts


def _line(name: str, found: Any) -> str:
    return (
        f"{name}: next token {found.next_token:.3f} bits/byte, diffusion bound {found.bound:.3f} "
        f"+- {found.bound_error:.3f} ({found.text_bytes:,} bytes, {found.tokens:,} tokens)"
    )


def _numbers(found: Any) -> dict[str, float]:
    names = ("text_bytes", "tokens", "next_token", "bound", "bound_error")
    return {name: getattr(found, name) for name in names}
