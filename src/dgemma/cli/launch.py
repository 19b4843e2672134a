"""`dgemma launch CLIENT`: starts a coding client with the settings that make it ask a running `dgemma serve`,
or prints them.

Nothing is written to the client's own files: settings go by its environment and flags. How long a
conversation may be is asked of the service, where it answers. Refuses to start the service, whose model and
limits are its user's choice. Trap: a key is never printed; what is printed names the variable that holds it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from ..errors import UsageError
from .screen import note, write_out

NO_KEY = "none"  # clients insist on one
OUTPUT = 32_000  # tokens of an answer that OpenCode asks for at most


@dataclass(frozen=True)
class Served:
    """What a client is to ask. `context`: tokens of a conversation; None where the service does not say."""

    url: str
    name: str
    key: str
    context: int | None = None


@dataclass(frozen=True)
class Start:
    """How a client is started: its command line, and what it finds in its environment."""

    command: list[str]
    environment: dict[str, str]


def claude(at: Served) -> Start:
    names = dict.fromkeys(("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"), at.name)
    # the header is a line of the prompt that differs between conversations: nothing behind it would be
    # found in the cache
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_ATTRIBUTION_HEADER": "0"}
    return Start(["claude"], {"ANTHROPIC_BASE_URL": at.url, "ANTHROPIC_AUTH_TOKEN": at.key} | names | quiet)


def codex(at: Served) -> Start:
    provider = f'{{name="dgemma",base_url="{at.url}/v1",wire_api="responses",env_key="DGEMMA_KEY"}}'
    settings = [
        f"model_providers.dgemma={provider}",
        'model_provider="dgemma"',
        f"model={json.dumps(at.name)}",
    ]
    settings += ["check_for_update_on_startup=false", "analytics.enabled=false"]
    settings += [] if at.context is None else [f"model_context_window={at.context}"]  # else it takes 272,000
    return Start(
        ["codex", *(part for setting in settings for part in ("-c", setting))], {"DGEMMA_KEY": at.key}
    )


def opencode(at: Served) -> Start:
    options = {"baseURL": f"{at.url}/v1", "apiKey": "{env:DGEMMA_KEY}"}
    model: dict[str, object] = {"name": at.name}
    if at.context is not None:  # else it takes none, and never makes a conversation shorter
        model["limit"] = {"context": at.context, "output": min(OUTPUT, at.context // 4)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "dgemma",
        "options": options,
        "models": {at.name: model},
    }
    config = {
        "provider": {"dgemma": provider},
        "model": f"dgemma/{at.name}",
        "small_model": f"dgemma/{at.name}",
    }
    quiet = {f"OPENCODE_DISABLE_{what}": "1" for what in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD")}
    return Start(["opencode"], {"OPENCODE_CONFIG_CONTENT": json.dumps(config), "DGEMMA_KEY": at.key} | quiet)


def aider(at: Served) -> Start:
    quiet = {
        "AIDER_ANALYTICS_DISABLE": "true",
        "AIDER_CHECK_UPDATE": "false",
        "AIDER_SHOW_MODEL_WARNINGS": "false",
    }
    prices = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else a network is asked at each start
    return Start(
        ["aider", "--model", f"openai/{at.name}"],
        {"OPENAI_API_BASE": f"{at.url}/v1", "OPENAI_API_KEY": at.key} | quiet | prices,
    )


CLIENTS: dict[str, Callable[[Served], Start]] = {
    "codex": codex,
    "claude": claude,
    "opencode": opencode,
    "aider": aider,
}


def command(
    client: Annotated[str, typer.Argument(help=f"One of {', '.join(CLIENTS)}.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What the client is given besides, behind --.")
    ] = None,
    url: Annotated[str, typer.Option(help="Where `dgemma serve` answers.")] = "http://127.0.0.1:8256",
    name: Annotated[
        str, typer.Option(help="What the client calls the model; the service takes any name.")
    ] = "dgemma",
    show: Annotated[
        bool, typer.Option("--print", help="Print the settings as shell lines, and start nothing.")
    ] = False,
) -> None:
    """Start a coding client against a running service; a key is taken from DGEMMA_API_KEY."""
    from ..server.keys import KEY_VARIABLE
    from ..server.lsp.service import Service

    if client not in CLIENTS:
        raise UsageError(f"there are no settings for '{client}'; known clients: {', '.join(CLIENTS)}")
    if '"' in url:
        raise UsageError(f"'{url}' is no address; it begins with http:// or https://")
    key = os.environ.get(KEY_VARIABLE, "").partition(",")[0].strip()
    context = Service(url, key).context()
    start = CLIENTS[client](Served(url.rstrip("/"), name, key or NO_KEY, context))
    line = [*start.command, *(arguments or [])]
    if show:
        write_out(shell_lines(start.environment, line, key, KEY_VARIABLE))
        return
    program = shutil.which(line[0])
    if program is None:
        raise UsageError(
            f"'{line[0]}' is not installed here; with --print its settings are shown all the same"
        )
    warning = "; dgemma serve does not answer there, and must be running"
    if context:
        warning = ""
    note(f"{client} asks {url}{warning}")
    os.execve(program, line, os.environ | start.environment)


def shell_lines(environment: dict[str, str], line: list[str], key: str, variable: str) -> str:
    """The settings as a shell reads them; the key by the name of its variable."""

    def quoted(value: str) -> str:
        if key and value == key:
            return f'"${variable}"'
        return shlex.quote(value)

    exports = [f"export {name}={quoted(value)}\n" for name, value in environment.items()]
    return "".join([*exports, shlex.join(line), "\n"])
