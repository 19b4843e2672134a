"""`dgemma lsp`: a language server for editors that show inline completions, on stdin and stdout.

The model is loaded here, or a running service is asked (--url), which several editors then share. Trap:
stdout belongs to the protocol; whatever else is printed while it runs, by any library, goes to stderr.
"""

from __future__ import annotations

import os
import sys
from typing import IO, Annotated, Any

import typer

from ..config.params import names_in
from ..errors import UsageError
from .flags import CommandOptions, check, with_options
from .run import open_model, print_notes

MODEL_FLAGS = ("model", "revision", "device", "dtype", "memory", "warmup")


@with_options(without=("as_json", "no_live", "eos_token_id", "ignore_after_end"))
def command(
    url: Annotated[
        str | None, typer.Option(help="Ask the `dgemma serve` there instead of loading a model.")
    ] = None,
    stdio: Annotated[bool, typer.Option("--stdio", help="What editors pass; there is no other way.")] = False,
    *,
    options: CommandOptions,
) -> None:
    """Offer inline completions to an editor, which starts this (LSP 3.18, textDocument/inlineCompletion)."""
    from ..server.lsp.session import Session

    if sys.stdin is None or sys.stdout is None or sys.stdin.isatty():
        raise UsageError("an editor starts `dgemma lsp` and speaks to it; see docs/clients.md")
    settings = {"longest": options.params.max_tokens, "seed": options.params.seed, **_schedule(options)}
    if url is not None:
        if given := [name for name in MODEL_FLAGS if getattr(options, name)]:
            raise UsageError(f"--{given[0]} is of the service's choosing; leave it out beside --url")
        filler: Any = _service(url, settings)
    else:
        check(options)
        from ..server.lsp.loaded import Loaded

        filler = Loaded(lambda: _load(options), **settings)
    code = Session(filler, sys.stdin.buffer, _own_stdout()).run()
    if url is None:
        filler.close()
    raise typer.Exit(code)


def _schedule(options: CommandOptions) -> dict[str, Any]:
    """What was given of how a gap is decided, by name."""
    return {name: value for name, value in options.params.given.items() if name in names_in("schedule")}


def _service(url: str, settings: dict[str, Any]) -> Any:
    from ..server.keys import KEY_VARIABLE
    from ..server.lsp.service import Service

    return Service(url, os.environ.get(KEY_VARIABLE, "").partition(",")[0].strip(), **settings)


def _load(options: CommandOptions) -> Any:
    model = open_model(options)
    print_notes(model.notes)
    return model


def _own_stdout() -> IO[bytes]:
    """The stdout that the editor reads; everybody else's is stderr from now on."""
    sys.stdout.flush()
    protocol = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return protocol
