"""`dgemma launch`: the client gets its settings and nothing else changes; a key is never printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgemma.cli.launch import CLIENTS, codex, opencode, shell_lines

KEY = "sk-canary7781"


def launched(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dgemma.cli.main", "launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"DGEMMA_API_KEY": KEY, "PATH": path})


def test_a_client_is_started_with_its_settings(tmp_path: Path) -> None:
    script = tmp_path / "claude"
    script.write_text('#!/bin/sh\necho "$ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN $ANTHROPIC_MODEL $*"\nexit 3\n')
    script.chmod(0o755)
    done = launched(str(tmp_path), "claude", "--url", "http://localhost:9/", "--name", "tiny", "--", "-p", "hi there")
    assert (done.returncode, done.stdout) == (3, f"http://localhost:9 {KEY} tiny -p hi there\n")
    missing = launched(str(tmp_path), "aider")
    assert missing.returncode == 2 and "not installed" in missing.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_printed_settings_hold_no_key(client: str) -> None:
    start = CLIENTS[client]("http://h", "tiny", KEY)
    text = shell_lines(start.environment, start.command, KEY, "DGEMMA_API_KEY")
    assert KEY not in text and '"$DGEMMA_API_KEY"' in text and "http://h" in text and "tiny" in text
    unkeyed = CLIENTS[client]("http://h", "tiny", "none")
    assert "$" not in shell_lines(unkeyed.environment, unkeyed.command, "", "DGEMMA_API_KEY")


def test_codex_and_opencode_read_what_they_are_given() -> None:
    import tomllib

    line = codex("http://h", "a b", KEY).command
    settings = tomllib.loads("\n".join(line[2::2]))
    assert settings["model"] == "a b" and settings["model_providers"]["dgemma"]["base_url"] == "http://h/v1"
    config = json.loads(opencode("http://h", "tiny", KEY).environment["OPENCODE_CONFIG_CONTENT"])
    assert config["model"] == "dgemma/tiny" and config["provider"]["dgemma"]["options"]["baseURL"] == "http://h/v1"
