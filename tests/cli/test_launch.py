"""`dgemma launch`: the client gets its settings and nothing else changes; a key is never printed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dgemma
from dgemma.cli.launch import CLIENTS, Served, codex, opencode, shell_lines
from tests.helpers import tiny_checkpoint
from tests.server.test_http import Live

KEY = "sk-canary7781"


def launched(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dgemma.cli.main", "launch", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"DGEMMA_API_KEY": KEY, "PATH": path}
    )


def test_a_client_is_started_with_its_settings(tmp_path: Path) -> None:
    script = tmp_path / "claude"
    script.write_text(
        '#!/bin/sh\necho "$ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN $ANTHROPIC_MODEL $*"\nexit 3\n'
    )
    script.chmod(0o755)
    done = launched(
        str(tmp_path), "claude", "--url", "http://localhost:9/", "--name", "tiny", "--", "-p", "hi there"
    )
    assert (done.returncode, done.stdout) == (3, f"http://localhost:9 {KEY} tiny -p hi there\n")
    missing = launched(str(tmp_path), "aider")
    assert missing.returncode == 2 and "not installed" in missing.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_printed_settings_hold_no_key(client: str) -> None:
    start = CLIENTS[client](Served("http://h", "tiny", KEY))
    text = shell_lines(start.environment, start.command, KEY, "DGEMMA_API_KEY")
    assert KEY not in text and '"$DGEMMA_API_KEY"' in text and "http://h" in text and "tiny" in text
    unkeyed = CLIENTS[client](Served("http://h", "tiny", "none"))
    assert "$" not in shell_lines(unkeyed.environment, unkeyed.command, "", "DGEMMA_API_KEY")


def test_codex_and_opencode_read_what_they_are_given() -> None:
    import tomllib

    line = codex(Served("http://h", "a b", KEY)).command
    settings = tomllib.loads("\n".join(line[2::2]))
    assert (
        "model_context_window" not in settings
        and settings["model"] == "a b"
        and settings["model_providers"]["dgemma"]["base_url"] == "http://h/v1"
    )
    config = json.loads(opencode(Served("http://h", "tiny", KEY)).environment["OPENCODE_CONFIG_CONTENT"])
    assert (
        config["model"] == "dgemma/tiny"
        and config["provider"]["dgemma"]["options"]["baseURL"] == "http://h/v1"
    )


@pytest.mark.parametrize(("limit", "want"), [(None, 512), (300, 300)])
def test_a_client_is_told_of_the_context_that_the_service_has(
    tmp_path: Path, limit: int | None, want: int
) -> None:
    import tomllib

    service = Live(dgemma.load(tiny_checkpoint(tmp_path / "model")), keys=(KEY,), max_prompt_tokens=limit)
    try:
        lines = {
            client: launched("", client, "--url", f"{service.url}/", "--print").stdout
            for client in ("codex", "opencode")
        }
        denied = subprocess.run(
            [sys.executable, "-m", "dgemma.cli.main", "launch", "codex", "--url", service.url, "--print"],
            capture_output=True, text=True, env=os.environ | {"DGEMMA_API_KEY": "sk-another"},
        ).stdout  # fmt: skip
    finally:
        service.stop()
    words = shlex.split(lines["codex"].splitlines()[-1])
    assert (
        tomllib.loads("\n".join(words[2::2]))["model_context_window"] == want
        and "model_context_window" not in denied
    )
    config = shlex.split(lines["opencode"].splitlines()[0])[1].partition("=")[2]
    assert json.loads(config)["provider"]["dgemma"]["models"]["dgemma"]["limit"] == {
        "context": want,
        "output": want // 4,
    }
