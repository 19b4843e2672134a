"""ollama's own client for Python: what it asks about a model, generate and chat with their streams, a gap, a form, results of calls."""

from __future__ import annotations

import json

from ollama import Client
from plain import ASKED, LOOKUP, URL

client = Client(host=URL)
OPTIONS = {"num_predict": 64, "seed": 3, "num_ctx": 2048}
assert [model.model for model in client.list().models] and client.ps().models is not None
shown = client.show("dgemma")
assert shown.capabilities and shown.details, shown

whole = client.chat("dgemma", ASKED, options=OPTIONS)
assert whole.message.content and whole.done and whole.eval_count, whole
pieces = [part.message.content for part in client.chat("dgemma", ASKED, options=OPTIONS, stream=True)]
assert "".join(pieces) == whole.message.content, (pieces, whole)
text = client.generate("dgemma", "def area(r):\n", options=OPTIONS).response
assert (
    "".join(
        part.response for part in client.generate("dgemma", "def area(r):\n", options=OPTIONS, stream=True)
    )
    == text
)
assert client.generate("dgemma", "def area(r):\n", suffix="\n\n", options=OPTIONS).done

schema = {"type": "object", "properties": {"kind": {"enum": ["pure", "effect"]}}, "required": ["kind"]}
formed = client.chat("dgemma", ASKED, format=schema, options=OPTIONS)
assert json.loads(formed.message.content)["kind"] in ("pure", "effect"), formed
calls = [
    {"function": {"name": "lookup", "arguments": {"name": name}}}
    for name in ("os.path.join", "textwrap.dedent")
]
results = [
    {"role": "tool", "tool_name": "lookup", "content": content}
    for content in ("Join paths.", "Remove whitespace.")
]
after = client.chat(
    "dgemma",
    [*ASKED, {"role": "assistant", "content": "", "tool_calls": calls}, *results],
    tools=[LOOKUP],
    options=OPTIONS,
)
assert after.prompt_eval_count > whole.prompt_eval_count, after
