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
from .run import print_notes
from .screen import can_animate, stdout_is_terminal, write_out

if TYPE_CHECKING:
    from ..api import Model
    from ..train.evaluate import Score

WORLD_TEXTS = 50  # of each family, where no file is named


def command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Text files; none: held-out texts of the small world.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder or pulled name; default: shipped.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Noise levels per canvas; the error falls with its root.", min=2)
    ] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", min=0, max=2**40)] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    memory: MEMORY = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score text: exact next-token bits/byte of the causal pass, and the diffusion's upper bound."""
    texts = _read(files)
    check_device(device, memory)
    text_model(model)
    rows: dict[str, Any] = {}
    lines: list[str] = []  # a terminal gets each as it comes, a pipe all of them or none
    from .. import api

    with loading(can_animate()) as report:
        loaded = api.load(model, device, memory=memory, progress=report)
    print_notes(loaded.notes)
    with progress("scoring") as bar:
        for name, score in scores(loaded, texts, samples, seed, bar):
            if not all(math.isfinite(number) for number in _numbers(score).values()):
                raise NumericsError(
                    f"{name}: the score is not finite; check the checkpoint with `dgemma doctor`"
                )
            rows[name] = score
            lines.append(_line(name, score) + "\n")
            if not as_json and stdout_is_terminal():
                bar.hide()
                write_out(lines.pop())
    total = _sum([*rows.values()])
    if as_json:
        table = {name: _numbers(score) for name, score in rows.items()}
        write_out(json.dumps({"total": _numbers(total), "files": table}, indent=1) + "\n")
        return
    if len(rows) > 1:
        lines.append(_line("all of them", total) + "\n")
    write_out("".join(lines))


def scores(
    model: Model,
    texts: dict[str, list[str]],
    samples: int,
    seed: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, Score]]:
    """(name, Score) for the texts of each name under a model, every text by itself and their scores added up.

    `report` hears of the tokens scored and of all there are.
    """
    from ..train.evaluate import Special, score

    special = model.tokenizer.special
    ids = Special(special.need("bos"), special.need("eos"), special.need("pad"))
    encoded = {
        name: [(text, model.tokenizer.encode(text)) for text in several] for name, several in texts.items()
    }
    # the end of a text is scored, too
    total = sum(len(tokens) + 1 for pairs in encoded.values() for _, tokens in pairs)
    done = 0

    def scored(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    report(0, total)
    # one for each text, or all would share their noise, and their errors would add up
    text_seed = seed * 1_000_003
    for name, pairs in encoded.items():
        of_texts = []
        for text, tokens in pairs:
            size = len(text.encode())
            of_texts.append(
                score(model.net, tokens, size, ids, samples=samples, seed=text_seed, progress=scored)
            )
            text_seed += 1
        yield name, _sum(of_texts)


def _sum(of_texts: list[Score]) -> Score:
    total = of_texts[0]
    for score in of_texts[1:]:
        total += score
    return total


def _read(files: list[Path] | None) -> dict[str, list[str]]:
    """The texts to score: those of the files, or without any the world's held-out ones by family."""
    if not files:
        from ..train.evaluate import held_out_texts

        return held_out_texts(WORLD_TEXTS)
    texts = {}
    for path in files:
        # as bytes: text mode would turn "\r\n" into "\n", and another text than the file's would be scored
        text = decode(read_file(path, f"'{path}'"), f"'{path}'")
        if not text:
            raise UsageError(f"{path}: the file is empty, there is nothing to score")
        texts[str(path)] = [text]
    return texts


def _line(name: str, score: Score) -> str:
    return (
        f"{name}: next token {score.next_token:.3f} bits/byte, diffusion bound {score.bound:.3f} "
        f"+- {score.bound_error:.3f} ({score.text_bytes:,} bytes, {score.tokens:,} tokens)"
    )


def _numbers(score: Score) -> dict[str, float]:
    names = ("text_bytes", "tokens", "next_token", "bound", "bound_error")
    return {name: getattr(score, name) for name in names}
