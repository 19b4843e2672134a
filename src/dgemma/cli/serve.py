"""`dgemma serve`: the service. Settings and the address are refused before a model is loaded; then one line says where it is.

The web framework comes late, and only here: it is an extra. Trap: keys are read from a file or the environment, never from a flag,
which every user of the machine could see.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..config.extras import SERVE_MODULES, first_missing, missing_extra
from ..errors import DeviceError
from ..weights import sums
from ..weights.hub_names import GGUF, parse_hub_name
from ..weights.locate import EMBEDDED_NAME, locate
from .flags import Asked, asking, check
from .run import open_model, tell
from .screen import note

INTERRUPTED = 130
TURN = 8192  # tokens: a chat-tuned model ends its turns itself, and a checkpoint's own default may be a single canvas


@asking(without=("as_json", "no_live", "max_tokens", "seed"))
def command(
    host: Annotated[str, typer.Option(help="Address to listen at; beyond loopback only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 8256,
    uds: Annotated[str | None, typer.Option(help="A Unix socket to listen at, instead of host and port.")] = None,
    name: Annotated[str | None, typer.Option(help="What the model is called on the wire; default: its own name.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys, one a line, that may ask; DGEMMA_API_KEY holds keys as well, parted by commas.")
    ] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(help="A web origin that may ask, http://HOST:PORT; repeatable.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which the service may be called, beside loopback's; repeatable.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait beside those at work; more get 429.", min=0)] = 64,
    max_tokens: Annotated[
        int | None,
        typer.Option(help=f"Most tokens of an answer whose request names no limit; default: {TURN}; not chat-tuned: the checkpoint's.", min=1),
    ] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Longest prompt.", min=1)] = None,
    request_timeout: Annotated[float, typer.Option(help="Seconds for a whole answer, waiting included.", min=0)] = 600.0,
    drain_timeout: Annotated[float, typer.Option(help="Seconds that requests at work get after SIGTERM.", min=0)] = 30.0,
    pass_timeout: Annotated[
        float, typer.Option(help="Seconds for one pass; the process ends (exit code 7) where one takes longer. 0: no watch.", min=0)
    ] = 300.0,
    check_files: Annotated[
        bool, typer.Option("--check", help="First compare the checkpoint's files with their hashes (see verify --files).")
    ] = False,
    *,
    asked: Asked,
) -> None:
    """Answer requests over HTTP, in the dialects of OpenAI and others; on this machine only, unless there is a key."""
    from ..server.settings import ServerConfig, read_keys

    config = ServerConfig(
        host=host, port=port, uds=uds, name=name or _name(asked.model), keys=read_keys(api_key_file),
        allow_origins=tuple(allow_origin or ()), allow_hosts=tuple(allow_host or ()), max_queue=max_queue,
        max_prompt_tokens=max_prompt_tokens, request_timeout=request_timeout, drain_timeout=drain_timeout, pass_timeout=pass_timeout,
    )  # fmt: skip
    check(asked)
    if package := first_missing(SERVE_MODULES):
        raise missing_extra("serve", package)
    if check_files:
        sums.check_files(locate(asked.model, asked.revision), make=False)
    from ..server.app import create_app
    from ..server.http import listen, serve

    found = listen(config)
    with found:
        model = open_model(asked)
        own = model.denoise.max_new_tokens
        length = max_tokens or (max(own, TURN) if model.chat_tuned else own)
        model.denoise = model.denoise.replace(**asked.sampler, max_new_tokens=length)
        tell(model.notes)
        try:
            interrupted = serve(create_app(model, config), found, lambda: _say_where(config, found.getsockname()))
        except DeviceError as error:
            note(f"dgemma: {error}")
            sys.stderr.flush()
            os._exit(error.exit_code)  # an ordinary exit would wait for a thread that may hang in the device
        if interrupted:
            raise typer.Exit(INTERRUPTED)


def _name(model: str | None) -> str:
    """A hub name as it is, the last part of a path, or our own."""
    if model is None:
        return "dgemma"
    path = Path(model)
    if path.exists():
        return path.resolve().stem if path.suffix.lower() == GGUF else path.resolve().name
    return "dgemma" if model == EMBEDDED_NAME else parse_hub_name(model).repo


def _say_where(config: object, address: object) -> None:
    from ..server.settings import ServerConfig

    assert isinstance(config, ServerConfig)
    key = "-H 'Authorization: Bearer KEY' " if config.keys else ""
    if config.uds is not None:
        where, socket = "http://localhost", f"--unix-socket {config.uds} "
    else:
        port = address[1] if isinstance(address, tuple) else config.port
        where, socket = f"{config.url.rpartition(':')[0]}:{port}", ""
    note(f"{config.name} answers at {config.uds or where} (Ctrl-C ends it). Try:")
    note(f"  curl {socket}{key}{where}/v1/completions -d '{{\"prompt\": \"def area(r):\", \"max_tokens\": 32}}'")
