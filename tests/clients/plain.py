"""What the service says without any client: the answer that each client's is held against."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

URL = sys.argv[1]  # where `dgemma serve` answers
ASKED = [{"role": "user", "content": "Write `def area(r):`\nThe area of a circle."}]
BOUNDS = {"max_tokens": 48, "seed": 3}
LOOKUP = {  # the one tool that the shipped model has read of
    "type": "function",
    "function": {
        "name": "lookup", "description": "The summary of a function of the standard library.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string", "description": "module and function"}}, "required": ["name"]},
    },
}  # fmt: skip


def post(path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        URL + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def told(**body: Any) -> str:
    """The content of a chat completion."""
    return post("/v1/chat/completions", messages=ASKED, **BOUNDS, **body)["choices"][0]["message"]["content"]
