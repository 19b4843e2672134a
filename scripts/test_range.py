"""Run the tests at both ends of the supported range, each in an environment of its own, and write down what came of it.

    make test-all            or: python scripts/test_range.py [oldest] [newest] [--select 'not slow'] [--jobs 2]

An end is a file of constraints, `tests/range/END.txt`; its environment is `.venv-END`, installed from the plain package index
(about 6 GB on Linux, where torch brings CUDA). The results go to `tests/range/results.md`, one section an end. They name the
source by its commit and by the trees of `src` and `tests`, which stay the same when a commit is rebased.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RANGE = ROOT / "tests" / "range"
RESULTS = RANGE / "results.md"
ENDS = ("oldest", "newest")
HEAD = """# The tests at both ends of the range

Written by `make test-all` (`scripts/test_range.py`). CI runs the tests with `constraints.txt` in between.
"""
PACKAGES = "torch triton transformers numpy safetensors tokenizers huggingface_hub typer rich starlette uvicorn h11 msgspec llguidance"


@dataclass(frozen=True)
class Outcome:
    """What pytest said: counts, and the names of the tests that failed."""

    passed: int
    skipped: int
    failed: tuple[str, ...]
    seconds: float
    exit_code: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ends", nargs="*", metavar="END", help="oldest, newest; default: both")
    parser.add_argument("--select", default="", help="pytest's -m; default: every test, the slow ones too")
    parser.add_argument("--jobs", type=int, default=2, help="test processes")
    options = parser.parse_args()
    codes = []
    for end in options.ends or ENDS:
        if end not in ENDS:
            parser.error(f"no end is called {end}; ends: {', '.join(ENDS)}")
        python = install(end)
        source = describe_source()
        outcome = run_tests(python, options.select, options.jobs)
        write_section(end, section(end, python, source, outcome, options.select, options.jobs))
        codes.append(outcome.exit_code)
    return max(codes)


def plain_index() -> dict[str, str]:
    """This process's environment without what hides the plain package index: pip's configuration and local wheels."""
    hiding = {"PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"}
    return {name: value for name, value in os.environ.items() if name not in hiding} | {
        "PIP_CONFIG_FILE": os.devnull
    }


def install(end: str) -> Path:
    """The interpreter of an end's environment, which is made unless it holds these very requirements."""
    constraints = RANGE / f"{end}.txt"
    folder = ROOT / f".venv-{end}"
    python = folder / "bin" / "python"
    stamp = folder / ".holds"
    wanted = constraints.read_text() + (ROOT / "pyproject.toml").read_text()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing the {end} versions into {folder.name}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        str(constraints),
        "-e",
        ".[test]",
    ]
    subprocess.run(pip, cwd=ROOT, env=plain_index(), check=True)
    stamp.write_text(wanted)
    return python


def run_tests(python: Path, select: str, jobs: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            str(python),
            "-m",
            "pytest",
            "-rs",
            f"--junitxml={report}",
            *(["-m", select] if select else []),
        ]
        command += ["-n", str(jobs)] if jobs > 1 else []
        environment = {"OMP_NUM_THREADS": "1"} | dict(os.environ)
        environment.pop("PYTEST_ADDOPTS", None)  # it could leave tests out, and the result would not say so
        begun = time.monotonic()
        ended = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        seconds = time.monotonic() - begun
        suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        raise SystemExit("pytest wrote no report")
    cases = list(suite.iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if has(case, "failure") or has(case, "error")
    ]
    skipped = sum(has(case, "skipped") for case in cases)
    passed = len(cases) - skipped - len(set(failed))
    return Outcome(passed, skipped, tuple(sorted(set(failed))), seconds, ended.returncode)


def has(case: ElementTree.Element, kind: str) -> bool:
    return case.find(kind) is not None


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def describe_source() -> str:
    """The commit and the trees of what is tested, and whether files differ from them."""
    trees = [f"`{name}` {git('rev-parse', '--short=12', f'HEAD:{name}')}" for name in ("src", "tests")]
    changed = [line for line in git("status", "--porcelain").splitlines() if not line.endswith(RESULTS.name)]
    dirty = f", **with {len(changed)} changed files**" if changed else ""
    return f"commit {git('rev-parse', '--short=12', 'HEAD')}, trees {', '.join(trees)}{dirty}"


def versions(python: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    told = subprocess.run(
        [str(python), "-c", code, *PACKAGES.split()], check=True, capture_output=True, text=True
    )
    return dict(json.loads(told.stdout))


def section(end: str, python: Path, source: str, outcome: Outcome, select: str, jobs: int) -> str:
    installed = ", ".join(f"{name} {version}" for name, version in versions(python).items())
    lines = [
        f"## {end}",
        "",
        f"- {outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped"
        f" ({f'-m {select!r}' if select else 'all tests'}, {jobs} process{'es' if jobs > 1 else ''}, {outcome.seconds / 60:.1f} minutes)",
        f"- source: {source}",
        f"- {installed}",
        f"- {platform.system()} {platform.machine()}, {os.cpu_count()} processors, {datetime.date.today().isoformat()}",
        *(f"- failed: `{name}`" for name in outcome.failed),
    ]
    return "\n".join(lines) + "\n"


def write_section(end: str, text: str) -> None:
    """Put one end's section into the results, and leave the other as it is."""
    known = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    sections = {
        name: f"## {name}\n{body}"
        for name, body in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", known, re.M | re.S)
    }
    sections[end] = text
    ordered = [sections[name].rstrip("\n") + "\n" for name in ENDS if name in sections]
    RESULTS.write_text("\n".join([HEAD, *ordered]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
