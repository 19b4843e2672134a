"""The rules of the architecture, read from the source: who may import whom, where torch comes in, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "dgemma"
FILES = sorted(SOURCE.rglob("*.py"))


def name_of(file: Path) -> str:
    """A file as imports name it: dgemma.text.turns, dgemma.text for its __init__."""
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file) for file in FILES}
LAYERS = {
    11: {"__main__"},
    10: {"cli"},
    9: {"server", "train", "audit", "bench", "xla"},
    8: {"api"},
    7: {"tasks", "quantize"},
    6: {"engine"},
    5: {"model"},
    4: {"memory"},
    3: {"hub", "sampling"},
    2: {"weights"},
    1: {"kernels", "text", "images"},
    0: {"config"},
    -1: {"errors"},  # one file, below everything
}
LAYER_OF = {package: layer for layer, packages in LAYERS.items() for package in packages}
ROOT = "__init__"  # the package's own file names things lazily and is in no layer
LONGEST = 480  # lines of a file

# Imports inside functions are for start-up time only: `--help` and errors must not wait for torch. Place: what it may
# bring in late ("dgemma": our own packages).
LATE = {
    "__init__.py": {"dgemma", "importlib"},  # the lazy names
    "kernels/select.py": {"torch", "triton"},  # the compiler, only where it is chosen
    "hub/client.py": {"huggingface_hub"},  # the hub's client, only where a name is no folder
    "hub/cache.py": {"huggingface_hub"},
    "hub/pull.py": {"huggingface_hub"},
    "hub/remote.py": {"huggingface_hub"},
    "memory/plan.py": {"torch"},  # its view of the devices: `doctor` and `ls` answer without
    "tasks/structured.py": {"llguidance"},  # only where an answer's form is asked for
    "tasks/forms/": {"llguidance"},
    "bench/oracle.py": {"transformers"},  # the reference, only where `verify` or a benchmark compares with it
    "cli/": {"dgemma", "torch", "rich", "importlib", "readline"},  # each verb brings its own
    "server/": {"dgemma", "torch"},
}


@dataclass(frozen=True)
class Import:
    file: Path
    line: int
    module: str  # absolute, as far as the statement names it
    late: bool  # inside a function

    @property
    def package(self) -> str | None:
        """The package of ours it leads to, or None for somebody else's."""
        parts = self.module.split(".")
        return None if parts[0] != "dgemma" else parts[1] if len(parts) > 1 else ROOT

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE)}:{self.line} imports {self.module}"


def package_of(file: Path) -> str:
    first = file.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports_of(file: Path, text: str | None = None) -> list[Import]:
    """Every import of a file, relative ones resolved; those for type checkers alone count as well."""
    package = ["dgemma", *file.relative_to(SOURCE).parts[:-1]]
    tree = ast.parse(text if text is not None else file.read_text(encoding="utf-8"))
    late = {
        inner for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(outer)
    }  # fmt: skip
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, alias.name, node in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join(base + ([node.module] if node.module else []))
            for alias in node.names:
                # `from . import api` and `from ..text import turns` name a module only together with what they import
                whole = f"{stem}.{alias.name}"
                name = whole if stem == "dgemma" or not node.module or whole in MODULES else stem
                found.append(Import(file, node.lineno, name, node in late))
    return found


IMPORTS = [found for file in FILES for found in imports_of(file)]


def breaks_the_layers(found: Import) -> bool:
    here, there = package_of(found.file), found.package
    if there is None or there == here or here == ROOT:
        return False
    if there == ROOT or there == "__version__":
        return LAYER_OF[here] < LAYER_OF["api"]
    return there not in LAYER_OF or LAYER_OF[there] >= LAYER_OF[here]


def test_every_package_has_a_layer() -> None:
    assert {package_of(file) for file in FILES} - {ROOT} <= set(LAYER_OF)


def test_imports_lead_to_a_lower_layer_only() -> None:
    assert not [str(found) for found in IMPORTS if breaks_the_layers(found)]


@pytest.mark.parametrize(
    ("file", "text", "breaks"),
    [
        ("model/stack.py", "from ..kernels.ops.norm import rms_norm", False),
        ("model/stack.py", "from .kv import KVCache", False),
        ("model/stack.py", "from ..engine import denoise", True),
        ("model/stack.py", "def f():\n    from ..engine.denoise import run", True),
        ("sampling/step.py", "from ..hub.locate import locate", True),
        ("text/turns.py", "import dgemma.kernels.ops.norm", True),
        ("weights/reader.py", "from .. import errors", False),
        ("engine/denoise.py", "from .. import api", True),
        ("engine/denoise.py", "from dgemma import load", True),
        ("cli/run.py", "from .. import api, __version__", False),
        ("cli/run.py", "from ..nowhere import x", True),
    ],
)
def test_the_layer_check_sees(file: str, text: str, breaks: bool) -> None:
    assert any(breaks_the_layers(found) for found in imports_of(SOURCE / file, text)) == breaks


def circle_of(imports: Iterable[Import]) -> list[str]:
    """Files that import each other in a circle, as one way around it; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        here = name_of(found.file)
        there = found.module if found.module in MODULES else found.module.rpartition(".")[0]
        if there in MODULES and there != here:
            graph.setdefault(here, set()).add(there)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checkers count as well: what needs them cannot be read by itself."""
    assert not circle_of(IMPORTS)


@pytest.mark.parametrize(
    "back",
    [
        "from .kv import KVCache",
        "from . import kv",
        "from ..model import kv",
        "import dgemma.model.kv",
        "def f():\n    from .kv import KVCache",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .kv import KVCache",
    ],
)
def test_the_search_for_circles_sees(back: str) -> None:
    ways = [
        ("model/kv.py", "from .passes import Span"),
        ("model/passes.py", "from . import stack"),
        ("model/stack.py", back),
    ]
    around = [found for file, text in ways for found in imports_of(SOURCE / file, text)]
    assert set(circle_of(around)) == {"dgemma.model.kv", "dgemma.model.passes", "dgemma.model.stack"}
    assert not circle_of(around[:-1])


def imports_an_operation(found: Import) -> bool:
    """From a part of kernels/ that stands below ops/: the forms for cards and for AVX-512, formats, and what all share."""
    parts = found.file.relative_to(SOURCE).parts
    return parts[0] == "kernels" and parts[1] != "ops" and found.module.startswith("dgemma.kernels.ops")


def test_below_the_operations_nothing_imports_one() -> None:
    assert not [str(found) for found in IMPORTS if imports_an_operation(found)]
    ways = imports_of(SOURCE / "kernels" / "quant" / "fp8.py", "from ..ops.norm import rms_norm")
    assert all(map(imports_an_operation, ways))


def test_late_imports_stand_where_they_are_allowed() -> None:
    def allowed(found: Import) -> bool:
        name, package = found.file.relative_to(SOURCE).as_posix(), found.module.split(".")[0]
        places = [
            place for place in LATE if name == place or (place.endswith("/") and name.startswith(place))
        ]
        return any(package in LATE[place] for place in places)

    assert not [str(found) for found in IMPORTS if found.late and not allowed(found)]


def test_the_oracle_is_imported_by_one_file_and_late() -> None:
    found = [found for found in IMPORTS if found.module.split(".")[0] == "transformers"]
    assert found and all(one.late and one.file == SOURCE / "bench" / "oracle.py" for one in found), [
        *map(str, found)
    ]


def test_config_errors_and_text_never_import_torch() -> None:
    light = [found for found in IMPORTS if package_of(found.file) in ("errors", "config", "text", "images")]
    assert not [str(found) for found in light if found.module.split(".")[0] == "torch"]


def test_nothing_that_runs_code_from_a_checkpoint_is_imported() -> None:
    barred = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "jinja2"}
    assert not [str(found) for found in IMPORTS if found.module.split(".")[0] in barred]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_a_file_opens_with_its_purpose_and_stays_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "each file opens with what it does"
    assert len(text.splitlines()) < LONGEST


def loads_torch(*modules: str) -> bool:
    code = f"import sys; import {', '.join(modules)}; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.strip() == "True"


def test_importing_the_package_does_not_load_torch() -> None:
    light = ["dgemma", "dgemma.errors", "dgemma.config"]
    light += [
        f"dgemma.text.{file.stem}" for file in sorted((SOURCE / "text").glob("*.py")) if file.stem != ROOT
    ]
    assert not loads_torch(*light, "dgemma.cli.main")
    assert loads_torch("dgemma.kernels.ops.norm")


def test_lazy_names_are_the_public_ones() -> None:
    import dgemma

    assert dgemma.errors.UsageError.exit_code == 2
    with pytest.raises(AttributeError, match="nothing_like_this"):
        dgemma.nothing_like_this  # noqa: B018


LINUX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "crypt", "spwd", "nis"}


def test_every_module_is_imported_where_python_lacks_what_windows_lacks() -> None:
    """Windows' Python has none of LINUX_ONLY; a module that needs one at import would break every verb that reaches it."""
    modules = [
        name for name in sorted(MODULES) if ".kernels.triton." not in name
    ]  # there is no Triton either
    code = (
        "import sys, torch, importlib\n"  # what torch and the standard library import for themselves they have on Windows
        "import asyncio, subprocess, tempfile, socket, multiprocessing, uvicorn, starlette, typer, rich, huggingface_hub, tokenizers\n"
        f"lacking = {sorted(LINUX_ONLY)!r}\n"
        "for name in lacking: sys.modules[name] = None\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *modules], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
