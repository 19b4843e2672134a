"""The README's lines, run as they are written: a copy of what a clone holds, and `dgemma` as it is installed.

A line that asks for a keyboard, the hub or a client is in LATER, with the reason; a new line is run unless it is named there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [re.split(r"\s{2,}#", line)[0] for line in re.findall(r"^dgemma .*$", README, re.M)]
SLOW = {"dgemma bench", "dgemma verify", 'dgemma quantize "(embedded)" small --format int4'}
LATER = {  # run by other tests
    "dgemma chat": "asks a keyboard: tests/cli/test_chat.py",
    "dgemma serve": "runs until it is ended: tests/server",
    "dgemma lsp": "asks an editor: tests/server/lsp",
    "dgemma pull google/diffusiongemma-26B-A4B-it": "the hub, 52 GB: tests/hub/test_pull.py",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    shutil.copy(ROOT / "README.md", folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def run(command: list[str], folder: Path, answer: str = "") -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"COLUMNS": "100"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=answer,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_each_line_is_run_here_or_elsewhere() -> None:
    assert len(LINES) > 10 and set(LATER) < set(LINES) and set(LINES) > SLOW


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.slow if line in SLOW else ())
        for line in LINES
        if line not in LATER
    ],
)
def test_a_line_of_the_readme_runs_as_written(line: str, clone: Path) -> None:
    words = shlex.split(line)[1:]
    flags = ["--yes"] if words[0] == "edit" else []  # there is no terminal here to ask on
    ended = run([sys.executable, "-m", "dgemma", *words, *flags], clone)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout or line.startswith(("dgemma batch", "dgemma quantize"))


def test_the_readmes_python_runs_as_written(clone: Path) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    ended = run([sys.executable, "-c", code], clone)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) > 3


def test_the_readme_names_only_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named and named <= targets
