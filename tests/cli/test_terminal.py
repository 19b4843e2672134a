"""The command on a real terminal (a pty), with a real checkpoint: what is seen, what remains, how it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import pytest

from dgemma.cli.main import main
from dgemma.cli.picture import plain
from tests.helpers import tiny_checkpoint

from .fakes import remains

# a job in the background of a shell inherits an ignored Ctrl-C; a person's terminal does not
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from dgemma.cli.main import main; sys.exit(main())"
)
COMMAND = [sys.executable, "-c", START]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def on_terminal(arguments: list[str], stop_at: bytes | None = None, **environment: str) -> tuple[int, str]:
    """Run on a pty of 24 lines by 80 cells; Ctrl-C once `stop_at` was seen. -> exit code, everything written."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    variables = {**os.environ, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables,
        start_new_session=True,
    )
    os.close(theirs)
    written, stopped = b"", False
    while True:
        try:
            new = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not new:
            break
        written += new
        if stop_at and not stopped and stop_at in written:
            process.send_signal(signal.SIGINT)
            stopped = True
    os.close(ours)
    return process.wait(30), written.decode()


def test_run_settles_on_a_terminal_and_leaves_its_answer(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "import os", "-m", checkpoint, "-n", "24", "--eos-token-id", "none"]
    code, written = on_terminal(arguments)
    assert code == 0 and "canvas 1, step 1/6" in written and "canvas 2, step " in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is back
    *shown, last = [line for line in remains(written).split("\n") if not line.startswith("note: ")]
    assert last.startswith("24 tokens in 2 canvases")
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["text"]
    assert "".join("".join(shown).split()) == "".join(("import os" + plain(answer)).split())


def test_no_color_leaves_the_canvas_and_takes_the_colours(checkpoint: str) -> None:
    code, written = on_terminal(["run", "x", "-m", checkpoint, "-n", "12", "--steps", "2"], NO_COLOR="1")
    assert code == 0 and "step 2/2" in written
    assert not any(f"\x1b[{code}m" in written for code in ("33", "90", "34", "1;32"))


def test_ctrl_c_stops_at_once_with_130_and_a_clean_terminal(checkpoint: str) -> None:
    code, written = on_terminal(
        ["run", "x", "-m", checkpoint, "-n", "480", "--steps", "48"], stop_at=b"step 2/48"
    )
    assert code == 130 and "Traceback" not in written and "dgemma:" not in written
    assert "step" not in remains(written) and written.count("\x1b[?25l") == written.count("\x1b[?25h")


def test_fill_in_a_pipe_keeps_every_other_byte(checkpoint: str) -> None:
    data = b"\xef\xbb\xbfdef f(x):\r\n    <fill>\r\n    return x"
    result = subprocess.run(
        [*COMMAND, "fill", "-", "-m", checkpoint, "--steps", "3"],
        input=data,
        capture_output=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    before, after = data.split(b"<fill>")
    assert result.stdout.startswith(before) and result.stdout.endswith(after)
    assert b"gap of " in result.stderr and b"<fill>" not in result.stdout
