"""A model that is not on this machine: whoever sits at a terminal is asked whether to fetch it; a script gets
the error, which names the command.

Knows names and the hub. Trap: the question goes to stderr, since stdout may be the answer's file.
"""

from __future__ import annotations

from ..errors import HubError
from ..hub.locate import locate
from .screen import agreed, can_ask, note

COMMAND = "dgemma pull "


def offer(name: str | None, revision: str | None = None) -> None:
    """Ask for a hub model that is not here, and fetch it.

    Raises what `locate` raises where nobody can be asked, or does not want it.
    """
    if name is None:
        return
    try:
        locate(name, revision)
    except HubError as error:
        if COMMAND not in str(error) or not can_ask():
            raise
        note(
            f"{error.args[0].partition(';')[0]}. `dgemma doctor {name}` says what it needs, "
            "and downloads nothing."
        )
        if not agreed("Fetch it now?"):
            raise
        from .progress import file_progress
        from .pull import fetch

        with file_progress("asking the hub") as report:
            fetch(name, revision, report)
