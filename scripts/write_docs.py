"""Write the pages that say what the code says: parameters, the Python API, the command line's flags, the map of files.

    python scripts/write_docs.py            writes what has changed
    python scripts/write_docs.py --check    writes nothing; names the pages that are not current, exit code 1

docs/parameters.md, python.md and files.md are written whole, docs/cli.md between its marks `<!-- generated: NAME -->` and `<!-- end -->`.
tests/test_docs.py holds them to the code. Trap: a page follows the installed typer and Python only in what they declare, never in how
they print it, so that every version writes the same page.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import dgemma
from dgemma import errors
from dgemma.cli import flags
from dgemma.cli.main import EXIT_CODES, VERBS
from dgemma.config import GenerationParams
from dgemma.config.params import GROUPS, IN_TASK, PARAMS, REFUSED, names_in
from dgemma.config.settings import PRESETS
from dgemma.engine.requests import Result

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "dgemma"
WIDTH = 100  # of a signature
BLOCK = re.compile(r"(<!-- generated: ([\w -]+) -->\n).*?(<!-- end -->)", re.S)

PARAMETERS_HEAD = """# Parameters of a request

Written by `scripts/write_docs.py` from `GenerationParams`; change it there. In Python a parameter is given by name, or in an object
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

PYTHON_HEAD = """# The Python API

Written by `scripts/write_docs.py` from signatures and docstrings; change them there. All names below are attributes of `dgemma`;
other modules are not public and may change. `import dgemma` does not load torch: that happens at the first use of `load` or `Model`.
[quickstart.md](quickstart.md#in-python) has a first example, [parameters.md](parameters.md) every parameter of a request.

A method that streams yields events while the model works: a `Draft` for each step of a canvas, then what stands. Its twin without
`stream_` runs the same request to its end and returns the last event alone. Whoever stops reading a stream stops its work.
"""
EVENTS = ("Draft", "Committed", "Change")
RESULTS = (
    "Generation",
    "Reply",
    "Filling",
    "Edit",
    "Decisions",
    "Decision",
    "ToolCall",
    "TokenLogProbs",
    "ModelInfo",
)


# The parameters of a request


def parameters_page() -> str:
    """docs/parameters.md."""
    return tidy([PARAMETERS_HEAD, *(group_section(group) for group in GROUPS), presets(), elsewhere()])


def group_section(group: str) -> str:
    rows = [parameter_row(name) for name in names_in(group)]
    body = table("parameter | what it may be | flag | meaning", rows)
    notes = f"{NOTES[group]}\n\n" if group in NOTES else ""
    return f"## {TITLES[group]}\n\n{notes}{body}\n"


def parameter_row(name: str) -> str:
    param = PARAMS[name]
    shown = ", ".join(flags_of_parameter(name)) if param.flag else ""
    meaning = param.help + default_of(name) + ("" if param.field else " No field of the service's.")
    return f"`{name}` | {param.allowed} | {shown} | {meaning}"


def flags_of_parameter(name: str) -> list[str]:
    return [f"`{flag}`" for flag in ("--" + name.replace("_", "-"), *PARAMS[name].aliases)]


def default_of(name: str) -> str:
    """What holds where it is not given, if that is a value."""
    field = next(field for field in dataclasses.fields(GenerationParams) if field.name == name)
    if isinstance(field.default, bool) or not isinstance(field.default, int | float):
        return ""
    return f" Default: {field.default:g}."


def presets() -> str:
    rows = []
    for name, settings in PRESETS.items():
        shown = ", ".join(f"`{setting}` {value}" for setting, value in settings.items())
        rows.append(f"`{name}` | {shown or 'the checkpoint as it is'}")
    head = "## Presets\n\nA preset is a name for some settings of the schedule. All but `exact` take fewer steps for less quality"
    return f"{head}: [numbers.md](numbers.md#presets-and-short-answers).\n\n" + table(
        "preset | settings", rows
    )


def elsewhere() -> str:
    lines = ["## Where a parameter has no meaning", ""]
    for task, names in REFUSED.items():
        listed = ", ".join(f"`{name}`" for name in PARAMS if name in names)
        lines.append(f"- {IN_TASK[task].capitalize()} takes none of {listed}.")
    return "\n".join(lines) + "\n"


# The Python API


def python_page() -> str:
    """docs/python.md."""
    methods = [callable_section(method, f"Model.{name}") for name, method in public_methods(dgemma.Model)]
    parts = [
        PYTHON_HEAD,
        "## Loading\n",
        callable_section(dgemma.load, "load"),
        "## Model\n",
        prose(dgemma.Model) + "\n",
        properties(dgemma.Model),
        *methods,
        "## GenerationParams\n",
        prose(GenerationParams) + "\n",
        "Its fields are the [parameters](parameters.md) of a request. All are keyword-only, and an object is frozen.\n",
        callable_section(GenerationParams.replace, "GenerationParams.replace"),
        "## Events\n",
        *(fields_section(getattr(dgemma, name)) for name in EVENTS),
        "## Results\n",
        *(fields_section(getattr(dgemma, name)) for name in RESULTS),
        fields_section(Result, "Of `generate_ids`. "),
        errors_section(),
    ]
    return tidy(parts)


def public_methods(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(kind).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            yield name, member


def prose(documented: Any) -> str:
    """A docstring as paragraphs: its lines joined, its blank lines kept."""
    text = inspect.getdoc(documented) or ""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def described_call(function: Any) -> str:
    """A function's docstring with its parameters as a list, and what it returns and raises as sentences of their own."""
    text = prose(function)
    names = "|".join(inspect.signature(function).parameters)
    text = re.sub(rf"(?:^|\n\n| )(?<![^.\n] )({names})(?=[:,] )", r"\n- `\1`", text)
    text = re.sub(r"(?<=\S)\n- ", "\n\n- ", text, count=1)
    text = re.sub(r"(^|\s)-> ", r"\1Returns ", text)
    return re.sub(r" (?=Raises [A-Z])", "\n\n", text)


def properties(kind: type) -> str:
    """A table of a class's documented properties, or nothing."""
    rows = []
    for name, member in vars(kind).items():
        if isinstance(member, property) and not name.startswith("_"):
            returned = inspect.signature(member.fget).return_annotation  # type: ignore[arg-type]
            rows.append(f"`{name}` | `{annotation(returned)}` | {prose(member.fget)}")
    return table("property | type | meaning", rows) + "\n" if rows else ""


def callable_section(function: Any, name: str) -> str:
    """A heading, the signature and the docstring."""
    return f"### {name}\n\n```python\n{signature(function, name)}\n```\n\n{described_call(function)}\n"


def signature(function: Any, name: str) -> str:
    """A call as one writes it: on one line, or a parameter a line."""
    described = inspect.signature(function)
    shown = [parameter(one) for one in described.parameters.values() if one.name != "self"]
    names = [one for one in described.parameters.values() if one.name != "self"]
    first = next((at for at, one in enumerate(names) if one.kind is one.KEYWORD_ONLY), None)
    if first is not None and not any(one.kind is one.VAR_POSITIONAL for one in names):
        shown.insert(first, "*")
    called = name.replace("Model.", "model.").replace("GenerationParams.", "params.")
    end = f") -> {annotation(described.return_annotation)}"
    line = f"{called}({', '.join(shown)}{end}"
    if len(line) <= WIDTH:
        return line
    return f"{called}(\n" + "".join(f"    {one},\n" for one in shown) + end


def parameter(one: inspect.Parameter) -> str:
    if one.kind is one.VAR_KEYWORD:
        return f"**{one.name}"
    text = f"{one.name}: {annotation(one.annotation)}"
    return text if one.default is one.empty else f"{text} = {one.default!r}"


def annotation(written: Any) -> str:
    """A type as the source writes it."""
    return written if isinstance(written, str) else getattr(written, "__name__", str(written))


def fields_section(kind: type, note: str = "") -> str:
    """A dataclass: its docstring and a table of its fields, described by their comments, and of its properties and methods."""
    rows = [f"`{name}` | `{typed}` | {comment}" for name, typed, comment in fields_of(kind)]
    for name, member in vars(kind).items():
        if isinstance(member, property) and not name.startswith("_"):
            returned = inspect.signature(member.fget).return_annotation  # type: ignore[arg-type]
            rows.append(f"`{name}` | `{annotation(returned)}` | {prose(member.fget)}")
    methods = [f"`{name}()`: {prose(method)}" for name, method in public_methods(kind) if prose(method)]
    listed = "".join(f"\n- {method}" for method in methods)
    body = table("field | type | meaning", [row.replace(" | None`", " \\| None`") for row in rows])
    return f"### {kind.__name__}\n\n{note}{prose(kind)}\n\n{body}\n" + (listed + "\n" if listed else "")


def fields_of(kind: type) -> Iterator[tuple[str, str, str]]:
    """(name, type, comment) of each field; the comment stands behind it or in the lines above it."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    [definition] = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for field in definition.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            behind = lines[field.lineno - 1].partition("  # ")[2]
            comment = behind or comment_above(lines, field.lineno - 1)
            yield field.target.id, ast.unparse(field.annotation), comment


def comment_above(lines: list[str], at: int) -> str:
    comment: list[str] = []
    while lines[at - 1].strip().startswith("# "):
        at -= 1
        comment.insert(0, lines[at].strip().removeprefix("# "))
    return " ".join(comment)


def errors_section() -> str:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind)]
    rows = [
        f"`errors.{kind.__name__}` | `{kind.__base__.__name__}` | {kind.exit_code} | {prose(kind)}"
        for kind in kinds
        if issubclass(kind, errors.DgemmaError)
    ]
    head = "## Errors\n\nEvery error that a person or a request can cause is one of these. Anything else that escapes is a bug.\n\n"
    return head + table("class | is a | exit code | meaning", rows)


# The map of files


FILES_HEAD = """# The map of files

Written by `scripts/write_docs.py` from the first sentence of each file; change it there. [architecture.md](architecture.md) has the layers and the
way of a request through them.
"""
PACKAGES = (
    "errors config text kernels weights hub sampling memory model engine tasks quantize api train bench server cli"
).split()


def files_page() -> str:
    """docs/files.md: every package from the lowest layer up, every file with the first sentence of its head note."""
    return tidy([FILES_HEAD, *(package_section(name) for name in PACKAGES)])


def package_section(name: str) -> str:
    place = SOURCE / name
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    rows = [file_row(path) for path in paths if head_note(path)]
    return f"## {name}\n\n" + table("file | what it does", rows)


def file_row(path: Path) -> str:
    name = path.relative_to(SOURCE).as_posix()
    return f"[`{name}`](../src/dgemma/{name}) | {first_sentence(head_note(path))}"


def head_note(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def first_sentence(text: str) -> str:
    """Of a docstring: its first paragraph up to the end of a sentence, as a cell of a table."""
    paragraph = " ".join(re.split(r"\n\s*\n", text)[0].split())
    sentence = re.split(r"(?<=\.)\s(?=[A-Z`])", paragraph)[0]
    return sentence.rstrip(":").replace("|", "\\|").replace("<", "&lt;")


# The command line


def cli_page() -> str:
    """docs/cli.md, with what stands between its marks made anew."""
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    return BLOCK.sub(lambda match: match[1] + block(match[2]) + match[3], page)


def block(name: str) -> str:
    """What stands between the marks of a name."""
    if name == "verbs":
        return table(
            "verb | what it does",
            [f"[`dgemma {verb}`](#dgemma-{verb}) | {text}" for verb, text in VERBS.items()],
        )
    if name == "exit codes":
        return table("code | meaning", [f"{code} | {meaning}" for code, meaning in EXIT_CODES.items()])
    if name == "model":
        return table("flag | value | meaning", [shared_row(name) for name in flags._SHARED])
    if name == "parameters":
        return parameter_flags()
    return verb_flags(name.removeprefix("flags of "))


def parameter_flags() -> str:
    rows = []
    for group in flags.WRITTEN:
        shown = [", ".join(flags_of_parameter(name)) for name in names_in(group) if PARAMS[name].flag]
        rows.append(f"{group} | {'; '.join(shown)}")
    return table("group | flags", rows)


def shared_row(name: str) -> str:
    kind = inspect.Parameter.KEYWORD_ONLY
    default = next(one.default for one in dataclasses.fields(flags.CommandOptions) if one.name == name)
    return flag_row(inspect.Parameter(name, kind, default=default, annotation=flags._SHARED[name]))


def verb_flags(verb: str) -> str:
    """A verb's arguments and own flags as a table, and the shared ones in a line each."""
    command = importlib.import_module(f"dgemma.cli.{verb}").command
    described = inspect.signature(command, eval_str=True).parameters
    shared = [name for name, one in described.items() if flags._SHARED.get(name) is one.annotation]
    params = [name for name in described if name in PARAMS and is_made(described[name])]
    own = [one for name, one in described.items() if name not in shared and name not in params]
    parts = [table("argument or flag | value | meaning", [flag_row(one) for one in own])] if own else []
    if shared:
        parts.append(f"Flags of a [model](#flags-of-a-model): {listed_flags(shared)}.\n")
    if params:
        parts.append(f"[Parameters](#parameters-as-flags): {groups_of(params)}.\n")
    return "\n".join(parts)


def is_made(one: inspect.Parameter) -> bool:
    """Whether a flag is made from the parameter of its name, and not the verb's own."""
    return PARAMS[one.name].flag and get_args(one.annotation)[1].help == PARAMS[one.name].summary


def listed_flags(shared: list[str]) -> str:
    return ", ".join(f"`{declared(name, flags._SHARED[name])[0]}`" for name in shared)


def groups_of(params: list[str]) -> str:
    """The groups that a verb takes, and what of them it does not."""
    parts = []
    for group in GROUPS:
        names = [name for name in names_in(group) if PARAMS[name].flag]
        missing = [flags_of_parameter(name)[0] for name in names if name not in params]
        if len(missing) < len(names):
            parts.append(group + (f" (not {', '.join(missing)})" if missing else ""))
    return ", ".join(parts)


def flag_row(one: inspect.Parameter) -> str:
    kind, info = get_args(one.annotation)[:2]
    is_argument = type(info).__name__ == "ArgumentInfo"
    names = [one.name.upper()] if is_argument else declared(one.name, one.annotation)
    meaning = (info.help or "").replace("|", "\\|")
    if one.default is inspect.Parameter.empty:
        meaning += " Required."
    elif one.default and info.show_default:
        meaning += f" Default: `{one.default}`."
    return f"{', '.join(f'`{name}`' for name in names)} | {value_of(kind, info)} | {meaning}"


def declared(name: str, annotated: Any) -> list[str]:
    """The names of a flag, the long one first. typer keeps the first of them where a default would stand."""
    kind, info = get_args(annotated)[:2]
    names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    if names:
        return sorted(names, key=lambda one: not one.startswith("--"))
    word = name.replace("_", "-")
    return [f"--{word}", f"--no-{word}"] if kind is bool else [f"--{word}"]


def value_of(kind: Any, info: Any) -> str:
    """What stands behind a flag, in words; nothing for a switch."""
    if get_origin(kind) in (Union, UnionType):
        [kind] = [one for one in get_args(kind) if one is not NoneType]
    if get_origin(kind) is list:
        return value_of(get_args(kind)[0], info) + ", repeatable"
    words = {bool: "", str: "text", int: "whole number", float: "number", Path: "path"}[kind]
    if info.min is not None and info.max is not None:
        return f"{words} from {info.min:g} to {info.max}"
    if info.min is not None:
        return f"{words}, at least {info.min:g}"
    return words


def tidy(parts: list[str]) -> str:
    """Parts of a page, with one blank line where there would be more."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def table(head: str, rows: list[str]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns, *(f"| {row} |" for row in rows)]
    return "\n".join(lines) + "\n"


PAGES = {
    "parameters.md": parameters_page,
    "python.md": python_page,
    "cli.md": cli_page,
    "files.md": files_page,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="write nothing, and say what is not current")
    options = parser.parse_args()
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(
            f"docs/{name}: {'not current; run python scripts/write_docs.py' if options.check else 'written'}"
        )
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
