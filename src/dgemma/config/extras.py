"""Packages that only some verbs need, and the command that installs them into this very environment.

`dgemma` is registered on no package index, so no command may name it there: whoever registered that name
would be installed. The command is made from where this copy came from (PEP 610's `direct_url.json`): a clone,
a git URL, a wheel. Trap: the message holds a path of this machine. It is for the user at the keyboard, so
whoever answers requests checks its packages at start-up.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..errors import UsageError

SERVE = "serve"
SERVE_MODULES = ("starlette", "uvicorn", "h11", "prometheus_client", "llguidance")
CLONE = Path(__file__).resolve().parents[3]


def missing_extra(what: str, package: str, extra: str = SERVE) -> UsageError:
    """The error that says `what` needs `package`, and how to install the extra that brings it."""
    return UsageError(
        f"{what} needs the package '{package}', which is not installed; install it with: "
        f"{install_command(extra)}"
    )


def first_missing(modules: tuple[str, ...]) -> str | None:
    """The first of these top-level modules that cannot be found, without importing any."""
    for name in modules:
        if not _is_importable(name):
            return name
    return None


def install_command(extra: str = SERVE) -> str:
    """A command for the user's shell that adds an extra of this package to the running interpreter's
    environment.
    """
    return " ".join(_quote(word) for word in [*_installer(), *_target(extra)])


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module that was put there by hand, without a spec
        return sys.modules.get(name) is not None


def _installer() -> list[str]:
    """pip of this environment; an environment that uv made has none, and uv is told where to install."""
    python = _short(Path(sys.executable))
    if _is_importable("pip"):
        return [python, "-m", "pip", "install"]
    return ["uv", "pip", "install", "--python", python]


def _target(extra: str) -> list[str]:
    """What to install: the clone, the same URL again, or, where neither is known, the packages themselves."""
    origin = _origin()
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        revision = vcs.get("requested_revision") or vcs.get("commit_id")
        at = ""
        if revision:
            at = f"@{revision}"
        return [f"dgemma[{extra}] @ {vcs.get('vcs', 'git')}+{url}{at}"]
    if "archive_info" in origin and not url.startswith("file:"):
        return [f"dgemma[{extra}] @ {url}"]
    if url.startswith("file:"):
        path = Path(url2pathname(urlsplit(url).path))
        if origin.get("dir_info", {}).get("editable"):
            editable = ["-e"]
        else:
            editable = []
        if path.exists():
            return [*editable, f"{_short(path)}[{extra}]"]
    if not origin and (CLONE / "src" / "dgemma" / "config" / "extras.py").is_file():
        return ["-e", f"{_short(CLONE)}[{extra}]"]
    return _packages(extra)


def _origin() -> dict[str, dict[str, str]]:
    """PEP 610's record of where this copy was installed from; empty where there is none."""
    try:
        text = metadata.distribution("dgemma").read_text("direct_url.json")
        origin = json.loads(text or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    if isinstance(origin, dict):
        return origin
    return {}


def _packages(extra: str) -> list[str]:
    """An extra's requirements by their own names, which are registered."""
    try:
        requirements = metadata.requires("dgemma") or []
    except metadata.PackageNotFoundError:
        return list(SERVE_MODULES)
    named = [line.partition(";") for line in requirements]
    return [name.strip() for name, _, marker in named if f"extra == '{extra}'" in marker.replace('"', "'")]


def _short(path: Path) -> str:
    """Relative to the current folder where the path lies in it, as a user would type it."""
    try:
        inside = path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return str(path)
    if len(inside.parts) == 1:  # with a separator, or pip takes the folder `dgemma` for the name of a package
        return os.path.join(os.curdir, inside)
    return str(inside)


def _is_windows() -> bool:
    return os.name == "nt"


def _quote(word: str) -> str:
    """One word for the shell; Windows' own takes single quotes for letters."""
    if not _is_windows():
        return shlex.quote(word)
    if any(letter in word for letter in ' []<>&|^@"'):
        return f'"{word}"'
    return word
