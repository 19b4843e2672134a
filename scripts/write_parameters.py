"""Write docs/parameters.md from the fields of GenerationParams (src/dgemma/config/params.py). A test holds the page to them.

python scripts/write_parameters.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dgemma.config import GenerationParams
from dgemma.config.params import GROUPS, IN_TASK, PARAMS, REFUSED, names_in

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parameters.md"
HEAD = """# Parameters of a request

Written by `scripts/write_parameters.py` from `GenerationParams`; change it there. In Python a parameter is given by name, or in an object
that holds several:

```python
from dgemma import GenerationParams

model.generate("def area(r):", max_tokens=64, temperature=0)
model.generate("def area(r):", GenerationParams(max_tokens=64, temperature=0))
```

The service takes the same names in a request's body, the command line as flags. What is left out, or null, asks nothing: the checkpoint's
`generation_config.json` decides. Nothing is ignored: a value out of its range and a parameter that has no meaning in a task
are refused by name. [sampling.md](sampling.md) says how they act on a canvas.
"""
TITLES = {
    "answer": "The answer",
    "schedule": "How canvases are decided",
    "tokens": "What its tokens may be",
    "text": "What its text may hold",
    "form": "Its form",
}
NOTES = {
    "schedule": "The defaults are the checkpoint's own.",
    "tokens": "A request with any of these leaves the fused vocabulary head: its logits are computed and worked on by themselves.",
    "form": "At most one of these, and not beside `bad_words`. On the command line `--json-schema` and `--grammar` name a file.",
}


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(group) for group in GROUPS), elsewhere()])


def section(group: str) -> str:
    rows = [row(name) for name in names_in(group)]
    table = "\n".join(["| parameter | what it may be | flag | meaning |", "|---|---|---|---|", *rows])
    notes = f"{NOTES[group]}\n\n" if group in NOTES else ""
    return f"## {TITLES[group]}\n\n{notes}{table}\n"


def row(name: str) -> str:
    param = PARAMS[name]
    flags = ["--" + name.replace("_", "-"), *param.aliases]
    shown = ", ".join(f"`{flag}`" for flag in flags) if param.flag else ""
    meaning = param.help + default_of(name) + ("" if param.field else " No field of the service's.")
    return f"| `{name}` | {param.allowed} | {shown} | {meaning} |"


def default_of(name: str) -> str:
    """What holds where it is not given, if that is a value."""
    field = next(field for field in dataclasses.fields(GenerationParams) if field.name == name)
    if isinstance(field.default, bool) or not isinstance(field.default, int | float):
        return ""
    return f" Default: {field.default:g}."


def elsewhere() -> str:
    lines = ["## Where a parameter has no meaning", ""]
    for task, names in REFUSED.items():
        listed = ", ".join(f"`{name}`" for name in PARAMS if name in names)
        lines.append(f"- {IN_TASK[task].capitalize()} takes none of {listed}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
