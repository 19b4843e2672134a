"""What a serving process keeps from others of its machine: no core dump and no debugger gets at prompts and
keys.

Linux and macOS; elsewhere nothing. Trap: programs that watch other processes (py-spy, gdb) then need root.
"""

from __future__ import annotations

import ctypes
import sys

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]  # Windows has none

PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """Forbid core dumps and, on Linux, that other processes of this user read the memory."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
