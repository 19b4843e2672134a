"""The lines of the README and of the quickstart, run as they are written: a copy of what a clone holds, and `dgemma` as it is
installed.

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
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README + QUICKSTART, re.M | re.S)
WRITTEN = re.findall(r"^dgemma .*$", "".join(text for language, text in BLOCKS if not language), re.M)
LINES = list(dict.fromkeys(re.split(r"\s{2,}#", line)[0].strip() for line in WRITTEN))
SLOW = {"dgemma bench", "dgemma verify", 'dgemma quantize "(embedded)" small --format int4'}
LATER = {  # run by other tests
    "dgemma chat": "asks a keyboard: tests/cli/test_chat.py",
    "dgemma serve": "runs until it is ended: tests/server",
    "dgemma lsp": "asks an editor: tests/server/lsp",
    "dgemma doctor google/diffusiongemma-26B-A4B-it": "the hub: tests/cli/test_doctor.py",
    "dgemma pull google/diffusiongemma-26B-A4B-it": "the hub, 52 GB: tests/hub/test_pull.py",
    "dgemma chat -m google/diffusiongemma-26B-A4B-it": "52 GB and a keyboard: tests/cli/test_chat.py",
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
def test_a_line_runs_as_written(line: str, clone: Path) -> None:
    words = shlex.split(line)[1:]
    flags = ["--yes"] if words[0] == "edit" else []  # there is no terminal here to ask on
    ended = run([sys.executable, "-m", "dgemma", *words, *flags], clone)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout or line.startswith(("dgemma batch", "dgemma quantize"))


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=["README", "quickstart"])
def test_the_python_of_a_page_runs_as_written(page: str, clone: Path) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    ended = run([sys.executable, "-c", code], clone)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) > 3


def test_the_readme_names_only_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"make ([a-z-]+)", README + QUICKSTART))
    assert named and named <= targets
