"""The tools of a chat: which of them the model is shown, and which it may or must call.

`tool_choice` has a spelling in each dialect; all of them are read here, into the one that tasks/called.py
keeps. Tools that are no functions (a provider's search, a shell) cannot be run from here: they are left out,
and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError

MODES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
SHAPES = (
    "tool_choice must be 'auto', 'none', 'required', a tool's name, {'type': 'function', 'function': "
    "{'name': ...}}, or {'type': 'allowed_tools', 'mode': 'auto' or 'required', 'tools': [...]} with a "
    "function among them"
)


@dataclass(frozen=True)
class Offer:
    """The tools that a chat shows the model.

    `choice`: "auto", "none", "required", or a function in OpenAI's shape.
    """

    tools: list[dict[str, Any]]
    choice: Any
    notes: list[str] = field(default_factory=list)


def offer(tools: Sequence[Any] | None, choice: Any) -> Offer:
    """The tools that a chat may call: none with the choice "none", of `allowed_tools` those.

    Raises UsageError for a choice of no known spelling, for one that no tool here answers to, and for tools
    that are no list.
    """
    mode, names = read_choice(choice)
    if isinstance(tools, str) or not isinstance(tools, Sequence | None):
        raise UsageError("tools must be a list of tool declarations", "tools")
    functions, skipped = _functions(tools or ())
    notes = []
    if skipped:
        notes.append(f"tools of type {', '.join(skipped)} are not served and were left out")
    if mode == "none":
        return Offer([], mode, notes)
    if names is None:
        return Offer(functions, mode, notes)
    kept = [tool for tool in functions if _name(tool) in names]
    if not kept and isinstance(choice, str):
        raise UsageError(f"{SHAPES}; it is neither of these, nor the name of a tool", "tool_choice")
    if not kept:
        raise UsageError("tool_choice asks for a call, and tools has none of that name", "tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        return Offer(kept, mode, notes)
    return Offer(functions, {"type": "function", "function": {"name": names[0]}}, notes)


def read_choice(choice: Any) -> tuple[str, list[str] | None]:
    """(mode, names): "auto", "none" or "required", and the tools that it is about; None: all.

    Raises UsageError.
    """
    if choice is None:
        return "auto", None
    if isinstance(choice, str) and choice in MODES:
        return MODES[choice], None
    if isinstance(choice, str) and choice:
        return "required", [choice]
    if not isinstance(choice, Mapping):
        raise UsageError(SHAPES, "tool_choice")
    kind = choice.get("type")
    if isinstance(kind, str) and kind in MODES:
        return MODES[kind], None
    if kind == "allowed_tools":
        return _allowed(choice)
    name = _name(choice)
    if kind not in (None, "function", "tool") or not isinstance(name, str):
        raise UsageError(SHAPES, "tool_choice")
    return "required", [name]


def _allowed(choice: Mapping[str, Any]) -> tuple[str, list[str]]:
    nested = choice.get("allowed_tools")
    allowed = choice
    if isinstance(nested, Mapping):
        allowed = nested
    mode = allowed.get("mode") or "auto"
    tools = allowed.get("tools")
    names: list[str] = []
    for tool in tools if isinstance(tools, list) else []:
        name = None
        if isinstance(tool, Mapping):
            name = _name(tool)
        if isinstance(name, str):
            names.append(name)
    if not names or mode not in ("auto", "required"):
        raise UsageError(SHAPES, "tool_choice")
    return mode, names


def _name(tool: Mapping[str, Any]) -> Any:
    """The name of a function, declared or chosen, in either of OpenAI's shapes."""
    function = tool.get("function")
    if isinstance(function, Mapping):
        return function.get("name")
    return tool.get("name")


def _functions(tools: Sequence[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The functions among tools, in the shape of chat completions, and the types of the others."""
    functions: list[dict[str, Any]] = []
    skipped: list[str] = []
    for number, tool in enumerate(tools):
        kind = None
        if isinstance(tool, Mapping):
            kind = tool.get("type") or "function"
        if not isinstance(kind, str):
            raise _no_tool(number)
        if kind != "function":
            skipped.append(kind[:40])
        elif isinstance(tool.get("function"), Mapping):
            functions.append({**tool, "type": "function"})
        elif "name" in tool:  # as responses have it
            function = {key: value for key, value in tool.items() if key != "type"}
            functions.append({"type": "function", "function": function})
        else:
            raise _no_tool(number)
    return functions, list(dict.fromkeys(skipped))[:8]


def _no_tool(number: int) -> UsageError:
    return UsageError(
        f"tools[{number}]: a tool must look like {{'type': 'function', 'function': {{'name': ...}}}}", "tools"
    )
