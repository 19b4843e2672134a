"""What stands beside every figure, the machine and the commit, and how rows are kept."""

from __future__ import annotations

import csv
import datetime
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dgemma.bench.roofline import name_of

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit that is checked out, short; DGEMMA_COMMIT where there is no git."""
    call = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DGEMMA_COMMIT", "")


def machine() -> str:
    """The processor's name and how many cores this machine shows."""
    return name_of(torch.device("cpu"))


def append(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Add rows to a CSV file, which begins with its columns (default: those of the first row).

    Rows of other columns are of an older measurement: they give way, and git keeps them.
    """
    columns = list(columns or rows[0])
    fresh = not path.exists() or columns_of(path) != columns
    with path.open("w" if fresh else "a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def columns_of(path: Path) -> list[str]:
    """What a CSV file begins with."""
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def what_and_where() -> dict[str, str]:
    """The first columns of a row: the date, the machine and the commit."""
    return {"date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit()}
