"""`dgemma serve`: the service.

Settings and the address are refused before a model is loaded; then a summary says what serves and where.

The web framework comes late, and only here: it is an extra. Trap: keys are read from a file or the
environment, never from a flag, which every user of the machine could see.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.extras import SERVE_MODULES, first_missing, missing_extra
from ..errors import INTERRUPTED, DeviceError
from ..hub.locate import EMBEDDED_NAME, is_embedded, locate
from ..hub.names import parse_hub_name
from ..tasks.length import TURN
from ..weights import sums
from ..weights.gguf import GGUF
from .flags import CommandOptions, check, with_options
from .run import open_model, print_notes
from .screen import note

if TYPE_CHECKING:
    from ..api import Model
    from ..server.settings import ServerConfig


@with_options(without=("as_json", "no_live", "max_tokens", "seed"))
def command(
    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond loopback only with a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 8256,
    uds: Annotated[
        str | None, typer.Option(help="A Unix socket to listen at, instead of host and port.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the model is called on the wire; default: its own name.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Keys that may ask, one a line, by itself or behind a name; SIGHUP reads it again. "
            "DGEMMA_API_KEY: more, parted by commas."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web origin that may ask, http://HOST:PORT; repeatable.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which the service may be called, beside loopback's; repeatable."),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(help="Requests that may wait beside those at work; more get 429.", min=0)
    ] = 64,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of an answer whose request names no limit; "
            f"default: {TURN}; not chat-tuned: the checkpoint's.",
            min=1,
        ),
    ] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Longest prompt.", min=1)] = None,
    request_timeout: Annotated[
        float, typer.Option(help="Seconds for a whole answer, waiting included.", min=0)
    ] = 600.0,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that requests at work get after SIGTERM.", min=0)
    ] = 30.0,
    pass_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds for one pass; the process ends (exit code 7) where one takes longer. 0: no watch.",
            min=0,
        ),
    ] = 300.0,
    check_files: Annotated[
        bool,
        typer.Option(
            "--check", help="First compare the checkpoint's files with their hashes (see verify --files)."
        ),
    ] = False,
    log_requests: Annotated[
        bool,
        typer.Option(
            "--log-requests",
            help="A line on stderr for each request: time, route, status, tokens, ms; never a text.",
        ),
    ] = False,
    *,
    options: CommandOptions,
) -> None:
    """Answer requests over HTTP, in the dialects of OpenAI and others; without a key on this machine only."""
    from ..server.keys import read_keys
    from ..server.process import keep_memory_private
    from ..server.settings import ServerConfig

    config = ServerConfig(
        host=host,
        port=port,
        uds=uds,
        name=name or _name(options.model),
        keys=read_keys(api_key_file),
        key_file=api_key_file,
        allow_origins=tuple(allow_origin or ()),
        allow_hosts=tuple(allow_host or ()),
        max_queue=max_queue,
        max_prompt_tokens=max_prompt_tokens,
        request_timeout=request_timeout,
        drain_timeout=drain_timeout,
        pass_timeout=pass_timeout,
        log_requests=log_requests,
    )
    check(options)
    if package := first_missing(SERVE_MODULES):
        raise missing_extra("serve", package)
    if check_files:
        sums.check_files(locate(options.model, options.revision), make=False)
    from ..server.app import create_app
    from ..server.http import listen, serve

    listener = listen(config)
    keep_memory_private()
    with listener:
        model = open_model(options)
        denoise = options.params.schedule(model.denoise)
        model.denoise = denoise.replace(max_new_tokens=max_tokens or denoise.max_new_tokens)
        try:
            app = create_app(model, config)
            interrupted = serve(app, listener, lambda: _introduce(model, config, listener.getsockname()))
        except DeviceError as error:
            note(f"dgemma: {error}")
            sys.stderr.flush()
            os._exit(error.exit_code)  # an ordinary exit would wait for a thread that may hang in the device
        if interrupted:
            raise typer.Exit(INTERRUPTED)


def _name(model: str | None) -> str:
    """A hub name as it is, the last part of a path, or our own."""
    if model is None or model == EMBEDDED_NAME:
        return "dgemma"
    path = Path(model)
    if path.exists():
        if path.suffix.lower() == GGUF:
            return path.resolve().stem
        return path.resolve().name
    if model == EMBEDDED_NAME:
        return "dgemma"
    return parse_hub_name(model).repo


def _introduce(model: Model, config: ServerConfig, address: Any) -> None:
    """What serves, and where it is asked: the first thing that somebody sees who starts the service."""
    from ..model.info import KERNELS

    info = model.info
    demo = ""
    if is_embedded(model.folder):
        demo = ", the small demo model that ships with dgemma"
    answers = f"answers of {model.denoise.max_new_tokens:,} where a request names no limit"
    rows = {
        "model": f"{info.name}, {info.size} parameters{demo}",
        "device": info.place,
        "kernels": KERNELS[info.kernels],
        "context": f"{info.context:,} tokens, canvases of {info.canvas}, {answers}",
    }
    key = ""
    if config.keys:
        key = "-H 'Authorization: Bearer KEY' "
    where, option = _where(config, address)
    if config.uds is None:
        rows["page"] = f"{where}/"
    needs = "no key needed"
    if config.keys:
        needs = "with a key"
    rows["API"] = f"{where}/v1 (OpenAI's), {where} (Anthropic's, Ollama's), {needs}"
    note(f"{config.name} answers at {config.uds or where} (Ctrl-C ends it)")
    for name, text in rows.items():
        note(f"  {name:<8} {text}")
    print_notes(model.notes)
    note("  try:")
    note(f'  curl {option}{key}{where}/v1/completions -d \'{{"prompt": "def area(r):", "max_tokens": 32}}\'')


def _where(config: ServerConfig, address: Any) -> tuple[str, str]:
    """The base of all addresses, and what curl has to be told besides."""
    if config.uds is not None:
        return "http://localhost", f"--unix-socket {shlex.quote(config.uds)} "
    if isinstance(address, tuple):
        port = address[1]
    else:
        port = config.port
    return f"{config.url.rpartition(':')[0]}:{port}", ""
