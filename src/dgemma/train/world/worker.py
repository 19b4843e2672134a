"""The restricted process of sandbox.py: reads jobs as JSON lines. Of a job with a reference it says "same" or
"other", of one without what the program did, as a list in JSON; null where it may not or could not run.

It is run as a file of its own, without the package: it imports the standard library only.
"""

from __future__ import annotations

import ast
import builtins
import copy
import io
import json
import sys
from typing import Any

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]  # a name for a module cannot be typed otherwise

MEMORY = 512 << 20  # bytes of address space
MOST_OUTPUT = 10_000  # characters that a program may print
ALLOWED = (
    "abs all any bool chr dict divmod enumerate filter float int isinstance len list map max min ord pow "
    "range repr reversed "
    "round set sorted str sum tuple zip True False None ValueError TypeError KeyError IndexError "
    "ZeroDivisionError Exception"
).split()


class Printed:
    """What a program prints, up to a limit."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, *values: Any, sep: str = " ", end: str = "\n") -> None:
        self.text += sep.join(map(str, values)) + end
        if len(self.text) > MOST_OUTPUT:
            raise ValueError("too much output")


def harmless(source: str) -> bool:
    """Whether a program neither imports nor reaches for names with two underscores."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Global):
            return False
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        if isinstance(name, str) and "__" in name:
            return False
        if isinstance(node, ast.Attribute) and node.attr in ("format", "format_map"):
            return False
    return True


def results(source: str, name: str, inputs: list[list[Any]], files: dict[str, str]) -> list[str]:
    """What `name` returns, prints or raises for each input, as text that shows types."""
    printed = Printed()
    names: dict[str, Any] = {key: getattr(builtins, key) for key in ALLOWED if hasattr(builtins, key)}
    names |= {"print": printed, "open": lambda path, *_, **__: io.StringIO(files[path])}
    space: dict[str, Any] = {"__builtins__": names}
    exec(compile(source, "answer", "exec"), space)
    function = space.get(name)
    if name and not callable(function):
        return ["no function"]
    results = []
    for arguments in inputs:
        given = copy.deepcopy(arguments)
        try:
            result = None
            if function:
                result = function(*given)
            results.append(
                repr(sorted(result, key=repr)) + "set" if isinstance(result, set) else repr(result)
            )
        except (MemoryError, RecursionError) as error:
            raise ValueError from error
        except Exception as error:
            results.append(type(error).__name__)
    return [*results, printed.text]


def answer(job: dict[str, Any]) -> str:
    """One line about a job."""
    rest = job["name"], job["inputs"], job["files"]
    results = _tried(job["source"], *rest)
    if not job["reference"]:
        return json.dumps(results)
    if results is not None and results == _tried(job["reference"], *rest):
        return "same"
    return "other"


def _tried(source: str, *rest: Any) -> list[str] | None:
    """The results of a program, or None for one that may not or could not run."""
    try:
        if harmless(source):
            return results(source, *rest)
        return None
    except (Exception, SystemExit, KeyboardInterrupt):
        return None


def limit_memory() -> None:
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    limit_memory()
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
