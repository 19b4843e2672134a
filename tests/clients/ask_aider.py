"""aider, started by `dgemma launch`: one turn in a repository of git; its edit is applied and committed.

The shipped model would never write aider's format by itself. Given as the form of the answer, it does: the names in the file are its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from plain import URL

FORM = 'greet\\.py\n```\ndef greet\\(\\):\n    return "[a-z ]{4,20}"\n```\n'
MODEL = {
    "name": "openai/dgemma",
    "edit_format": "whole",
    "extra_params": {"max_tokens": 64, "extra_body": {"regex": FORM, "seed": 3}},
}
TURN = ["--yes-always", "--model-settings-file", "../model.yml", "--message", "Greet somebody.", "greet.py"]

repository = Path(tempfile.mkdtemp()) / "repository"
repository.mkdir()
(repository.parent / "model.yml").write_text(json.dumps([MODEL]))  # JSON is YAML
(repository / "greet.py").write_text('def greet():\n    return "hi"\n')
bin = str(Path(sys.executable).parent)
alone = {"GIT_CONFIG_GLOBAL": os.devnull} | {
    f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}
environment = (
    os.environ | alone | {"HOME": str(repository.parent), "PATH": bin + os.pathsep + os.environ["PATH"]}
)


def run(*command: str) -> str:
    return subprocess.run(
        command, cwd=repository, env=environment, check=True, text=True, stdout=subprocess.PIPE, timeout=120
    ).stdout


for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "before")):
    run("git", *words)
shown = run(os.environ["DGEMMA"], "launch", "aider", "--url", URL, "--", *TURN)
text = (repository / "greet.py").read_text()
assert (
    "Applied edit to greet.py" in shown and text.startswith("def greet():\n    return") and '"hi"' not in text
), shown
assert len(run("git", "log", "--oneline").splitlines()) >= 2, shown
