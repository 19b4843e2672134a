"""Runs short programs beside their references in one restricted process, and says which give the same
results.

The process is started without site packages and with limits of memory; programs see a few harmless builtins,
no imports and no names with two underscores. Each has a limit of time, kept by the parent: a program that
does not end costs its process, and the rest goes on in a new one. This keeps mistakes of a small model from
doing harm; it is no wall against an attacker.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

SECONDS = 3.0  # for one program; generous, since the usual one takes less than a millisecond
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Job:
    """A program that should do what its reference does: `name` called with each of `inputs`.

    reference: "" where the results themselves are wanted (`results`). files: what `open` can read.
    """

    source: str
    reference: str
    name: str
    inputs: tuple[tuple[Any, ...], ...]
    files: dict[str, str] = field(default_factory=dict)


def run(jobs: Sequence[Job], seconds: float = SECONDS) -> list[bool]:
    """Whether each program gives the results of its reference, of the same types."""
    lines: list[bytes] = []
    while len(lines) < len(jobs):
        lines += _run_some(jobs[len(lines) :], seconds)
    return [line == b"same" for line in lines]


def results(
    source: str, name: str, inputs: Sequence[tuple[Any, ...]], seconds: float = SECONDS
) -> list[str] | None:
    """What `name` of a program returns for each of `inputs`, as Python writes it, or the name of the error it
    raises.

    Behind them, what the program printed. None where it does not compile, may not run, or did not end in
    time.
    """
    line = _run_some([Job(source, "", name, tuple(inputs))], seconds)[0]
    return json.loads(line) if line else None


def _run_some(jobs: Sequence[Job], seconds: float) -> list[bytes]:
    """What one process said of each job, up to the first that stops it, of which it says nothing."""
    command = [sys.executable, "-I", "-S", str(WORKER)]
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert worker.stdin and worker.stdout
    lines: queue.Queue[bytes] = queue.Queue()
    threads = [
        threading.Thread(target=_feed, args=(worker.stdin, jobs), daemon=True),
        threading.Thread(target=_listen, args=(worker.stdout, lines), daemon=True),
    ]
    for thread in threads:
        thread.start()
    said: list[bytes] = []
    try:
        wait = seconds + 10.0  # the process must start first
        while len(said) < len(jobs):
            line = lines.get(timeout=wait)
            said.append(line.strip())
            if not line:  # it ended
                break
            wait = seconds
    except queue.Empty:
        said.append(b"")
    finally:
        worker.kill()
        worker.wait()
        for thread in threads:
            thread.join()
        worker.stdout.close()
    return said


def _feed(pipe: IO[bytes], jobs: Sequence[Job]) -> None:
    try:
        with pipe:
            for job in jobs:
                pipe.write(json.dumps(asdict(job)).encode() + b"\n")
    except (BrokenPipeError, OSError):
        pass  # the process was ended


def _listen(pipe: IO[bytes], lines: queue.Queue[bytes]) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(b"")
