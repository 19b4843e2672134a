"""`python -m dgemma`: the same as the command `dgemma`, for where that is not on PATH."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main(program="python -m dgemma"))
