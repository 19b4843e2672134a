"""dgemma eval: bits per byte of text files under a checkpoint, next-token and diffusion bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError


def command(
    files: Annotated[list[Path] | None, typer.Argument(help="Text files; none: the corpus's held-out files.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Folder or pulled name; default: shipped.")] = None,
    samples: Annotated[int, typer.Option(help="Noise levels per canvas; the error falls with its root.", min=2)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score text: exact next-token bits/byte of the causal pass, and the diffusion's upper bound with its error."""
    texts = _read(files)
    rows: dict[str, Any] = {}
    for name, found in scores(texts, model, samples, seed, device):
        rows[name] = found
        if not as_json:
            typer.echo(_line(name, found))
    total = None
    for found in rows.values():
        total = found if total is None else total + found
    if as_json:
        table = {name: _numbers(found) for name, found in rows.items()}
        typer.echo(json.dumps({"total": _numbers(total), "files": table}, indent=1))
    elif len(rows) > 1:
        typer.echo(_line(f"all {len(rows)} files", total))


def scores(texts: dict[str, str], model: str | None, samples: int, seed: int, device: str | None = None):
    """(name, Score) for each text under a checkpoint, one after another."""
    from .. import api
    from ..train.evaluate import Special, score

    loaded = api.load(model, device)
    special = loaded.tokenizer.special
    ids = Special(special.need("bos"), special.need("eos"), special.need("pad"))
    for name, text in texts.items():
        tokens = loaded.tokenizer.encode(text)
        yield name, score(loaded.net, tokens, len(text.encode()), ids, samples=samples, seed=seed)


def _read(files: list[Path] | None) -> dict[str, str]:
    if not files:
        from ..train.corpus import load

        return load().held_out
    texts = {}
    for path in files:
        try:
            texts[str(path)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None
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
