"""`dgemma launch CLIENT`: starts a coding client with the settings that make it ask a running `dgemma serve`, or prints them.

Nothing is written to the client's own files: settings go by its environment and flags. Refuses to start the service, whose model and
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


@dataclass(frozen=True)
class Start:
    """How a client is started: its command line, and what it finds in its environment."""

    command: list[str]
    environment: dict[str, str]


def claude(url: str, name: str, key: str) -> Start:
    names = dict.fromkeys(("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"), name)
    # the header is a line of the prompt that differs between conversations: nothing behind it would be found in the cache
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_ATTRIBUTION_HEADER": "0"}
    return Start(["claude"], {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key} | names | quiet)


def codex(url: str, name: str, key: str) -> Start:
    provider = f'{{name="dgemma",base_url="{url}/v1",wire_api="responses",env_key="DGEMMA_KEY"}}'
    settings = [f"model_providers.dgemma={provider}", 'model_provider="dgemma"', f"model={json.dumps(name)}"]
    settings += ["check_for_update_on_startup=false", "analytics.enabled=false"]
    return Start(["codex", *(part for setting in settings for part in ("-c", setting))], {"DGEMMA_KEY": key})


def opencode(url: str, name: str, key: str) -> Start:
    options = {"baseURL": f"{url}/v1", "apiKey": "{env:DGEMMA_KEY}"}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "dgemma", "options": options, "models": {name: {"name": name}}}
    config = {"provider": {"dgemma": provider}, "model": f"dgemma/{name}", "small_model": f"dgemma/{name}"}
    quiet = {f"OPENCODE_DISABLE_{what}": "1" for what in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD")}
    return Start(["opencode"], {"OPENCODE_CONFIG_CONTENT": json.dumps(config), "DGEMMA_KEY": key} | quiet)


def aider(url: str, name: str, key: str) -> Start:
    quiet = {"AIDER_ANALYTICS_DISABLE": "true", "AIDER_CHECK_UPDATE": "false", "AIDER_SHOW_MODEL_WARNINGS": "false"}
    prices = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else a network is asked at each start
    return Start(["aider", "--model", f"openai/{name}"], {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": key} | quiet | prices)


CLIENTS: dict[str, Callable[[str, str, str], Start]] = {"codex": codex, "claude": claude, "opencode": opencode, "aider": aider}


def command(
    client: Annotated[str, typer.Argument(help=f"One of {', '.join(CLIENTS)}.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What the client is given besides, behind --.")] = None,
    url: Annotated[str, typer.Option(help="Where `dgemma serve` answers.")] = "http://127.0.0.1:8256",
    name: Annotated[str, typer.Option(help="What the client calls the model; the service takes any name.")] = "dgemma",
    show: Annotated[bool, typer.Option("--print", help="Print the settings as shell lines, and start nothing.")] = False,
) -> None:
    """Start a coding client against a running service; a key is taken from DGEMMA_API_KEY."""
    from ..server.settings import KEY_VARIABLE

    if client not in CLIENTS:
        raise UsageError(f"there are no settings for '{client}'; known clients: {', '.join(CLIENTS)}")
    if not url.startswith(("http://", "https://")) or '"' in url:
        raise UsageError(f"'{url}' is no address; it begins with http:// or https://")
    key = os.environ.get(KEY_VARIABLE, "").partition(",")[0].strip()
    start = CLIENTS[client](url.rstrip("/"), name, key or NO_KEY)
    line = [*start.command, *(arguments or [])]
    if show:
        write_out(shell_lines(start.environment, line, key, KEY_VARIABLE))
        return
    found = shutil.which(line[0])
    if found is None:
        raise UsageError(f"'{line[0]}' is not installed here; with --print its settings are shown all the same")
    note(f"{client} asks {url}; dgemma serve must be running there")
    os.execve(found, line, os.environ | start.environment)


def shell_lines(environment: dict[str, str], line: list[str], key: str, variable: str) -> str:
    """The settings as a shell reads them; the key by the name of its variable."""

    def quoted(value: str) -> str:
        return f'"${variable}"' if key and value == key else shlex.quote(value)

    exports = [f"export {name}={quoted(value)}\n" for name, value in environment.items()]
    return "".join([*exports, shlex.join(line), "\n"])
