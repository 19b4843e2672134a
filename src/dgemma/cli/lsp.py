"""`dgemma lsp`: a language server for editors that show inline completions, on stdin and stdout.

The model is loaded here, or a running service is asked (--url), which several editors then share. Trap: stdout belongs to the protocol;
whatever else is printed while it runs, by any library, goes to stderr.
"""

from __future__ import annotations

import os
import sys
from typing import IO, Annotated, Any

import typer

from ..errors import UsageError
from .flags import Asked, asking, check
from .run import open_model, tell

MODEL_FLAGS = ("model", "revision", "device", "dtype", "memory", "warmup")


@asking(without=("as_json", "no_live", "eos_token_id", "ignore_after_end"))
def command(
    url: Annotated[
        str | None, typer.Option(help="Ask the `dgemma serve` there instead of loading a model.")
    ] = None,
    stdio: Annotated[bool, typer.Option("--stdio", help="What editors pass; there is no other way.")] = False,
    *,
    asked: Asked,
) -> None:
    """Offer inline completions to an editor, which starts this (LSP 3.18, textDocument/inlineCompletion)."""
    from ..server.lsp.session import Session

    if sys.stdin is None or sys.stdout is None or sys.stdin.isatty():
        raise UsageError("an editor starts `dgemma lsp` and speaks to it; see docs/clients.md")
    settings = {"longest": asked.max_tokens, "seed": asked.seed, **asked.sampler}
    if url is not None:
        if given := [name for name in MODEL_FLAGS if getattr(asked, name)]:
            raise UsageError(f"--{given[0]} is of the service's choosing; leave it out beside --url")
        filler: Any = _service(url, settings)
    else:
        check(asked)
        from ..server.lsp.loaded import Loaded

        filler = Loaded(lambda: _load(asked), **settings)
    code = Session(filler, sys.stdin.buffer, _own_stdout()).run()
    if url is None:
        filler.close()
    raise typer.Exit(code)


def _service(url: str, settings: dict[str, Any]) -> Any:
    from ..server.keys import KEY_VARIABLE
    from ..server.lsp.service import Service

    return Service(url, os.environ.get(KEY_VARIABLE, "").partition(",")[0].strip(), **settings)


def _load(asked: Asked) -> Any:
    model = open_model(asked)
    tell(model.notes)
    return model


def _own_stdout() -> IO[bytes]:
    """The stdout that the editor reads; everybody else's is stderr from now on."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own
