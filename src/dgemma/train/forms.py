"""A small part of the data as conversations: complete, explain, edit, and call a tool.

Made from the corpus itself, so that chat, edit and tools can at least be shown by a model that has read
nothing but code: a function's signature and summary become the request, its source the answer. Control
tokens are put in by text/turns.py, by id. Knows text and turns; refuses to know canvases.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import UsageError
from ..text.tokenizer import Tokenizer
from ..text.turns import render

LOOKUP_TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "The summary of a function of the standard library.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string", "description": "module and function"}},
            "required": ["name"],
        },
    },
}


@dataclass(frozen=True)
class Function:
    """One function with a docstring, as the corpus holds it."""

    qualified: str  # "textwrap.dedent"
    signature: str  # "def dedent(text):"
    summary: str  # the docstring's first line
    source: str  # dedented
    name: str


def functions(files: dict[str, str], longest: int = 1200) -> Iterator[Function]:
    """Every function or method with a docstring and a source of at most `longest` characters."""
    for path, text in sorted(files.items()):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):  # lib2to3's fixtures are Python 2
            continue
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        lines = text.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (doc := ast.get_docstring(node)) and node.end_lineno:
                block = lines[node.lineno - 1 : node.end_lineno]
                source = "\n".join(line[node.col_offset :] for line in block)
                header = lines[node.lineno - 1 : node.body[0].lineno - 1]
                signature = " ".join(line.strip() for line in header)
                summary = doc.strip().splitlines()[0] if doc.strip() else ""
                if summary and signature.startswith("def ") and len(source) <= longest and len(signature) <= 160:
                    yield Function(f"{module}.{node.name}", signature, summary, source, node.name)


def conversations(files: dict[str, str], tokenizer: Tokenizer, share: float = 0.2, seed: int = 0) -> list[list[int]]:
    """Token ids of whole conversations, each with its <bos> left off and its last turn closed by <turn|>.

    A `share` of the functions appears once each (0.2: 7 % of all tokens), in a form drawn by `seed`: write 40 %,
    explain 30 %, rename 20 %, look up 10 %.
    """
    rng, found = random.Random(seed), []
    for function in functions(files):
        if rng.random() >= share:
            continue
        form = rng.choices((_write, _explain, _rename, _look_up), weights=(4, 3, 2, 1))[0]
        messages, tools = form(function, rng)
        try:
            ids = render(messages, tokenizer, tools=tools, add_generation_prompt=False)
        except UsageError:  # a summary that is only blanks, a name no tool may have
            continue
        found.append(ids[1:] if ids[0] == tokenizer.special.bos else ids)
    return found


Form = tuple[list[dict], list[dict] | None]


def _turns(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _write(function: Function, rng: random.Random) -> Form:
    return _turns(f"Write `{function.signature}`\n{function.summary}", function.source), None


def _explain(function: Function, rng: random.Random) -> Form:
    lines = function.source.splitlines()
    without = "\n".join(lines[:40])
    return _turns(f"What does this do?\n{without}", function.summary), None


def _rename(function: Function, rng: random.Random) -> Form:
    new = rng.choice(("run", "apply", "compute", "handle", "build", "load", "check", "make")) + "_" + function.name.strip("_")
    changed = function.source.replace(f"def {function.name}(", f"def {new}(")
    return _turns(f"Rename the function to {new}.\n{function.source}", changed), None


def _look_up(function: Function, rng: random.Random) -> Form:
    call = {"name": "lookup", "arguments": {"name": function.qualified}}
    messages = [
        {"role": "user", "content": f"What is {function.qualified} for?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "name": "lookup", "content": function.summary},
        {"role": "assistant", "content": function.summary},
    ]
    return messages, [LOOKUP_TOOL]
