"""llm, the command line tool: a prompt streamed and whole, a schema, a tool offered, a completion, a conversation that goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from plain import ASKED, BOUNDS, URL, post, told

HOME = Path(tempfile.mkdtemp())
COMMON = {"model_name": "dgemma", "api_base": f"{URL}/v1"}
MODELS = [
    {"model_id": "dgemma", "supports_schema": True, "supports_tools": True} | COMMON,
    {"model_id": "dgemma-text", "completion": True} | COMMON,
]
OPTIONS = [part for name, value in BOUNDS.items() for part in ("-o", name, str(value))]


def llm(*arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "llm"), *arguments]
    return subprocess.run(
        command, env=os.environ | {"LLM_USER_PATH": str(HOME)}, check=True, text=True, stdout=subprocess.PIPE
    ).stdout


(HOME / "extra-openai-models.yaml").write_text(json.dumps(MODELS))  # JSON is YAML
said, question = told(), ASKED[0]["content"]
assert (
    llm("-m", "dgemma", question, *OPTIONS)
    == llm("-m", "dgemma", "--no-stream", question, *OPTIONS)
    == said + "\n"
)
assert isinstance(
    json.loads(llm("-m", "dgemma", "--schema", "name, size int", question, *OPTIONS))["size"], int
)
assert llm("-m", "dgemma", "-T", "llm_version", question, *OPTIONS)
text = post("/v1/completions", prompt="def area(r):", **BOUNDS)["choices"][0]["text"]
assert llm("-m", "dgemma-text", "def area(r):", *OPTIONS) == text + "\n"
assert llm("-c", "    return", *OPTIONS)
