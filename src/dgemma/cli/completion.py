"""Completion of verbs and flags by the shell: what can be installed from here, said before typer tries.

typer looks for the shell among the processes above this one. Where that is none it knows, it prints half a
sentence or a traceback.
"""

from __future__ import annotations

import shellingham

from ..errors import UsageError

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


def check_shell() -> None:
    """Raises UsageError where this was started from no shell that can complete."""
    try:
        name = shellingham.detect_shell()[0]
    except (
        OSError,
        RuntimeError,
    ):  # no shell among them, no list of processes, or a system that is not known
        name = None
    if name not in SHELLS:
        where = (
            "it is not known from which shell this was started" if name is None else f"{name} cannot complete"
        )
        raise UsageError(f"{where}; start dgemma from bash, zsh, fish or PowerShell, where completion works")
