"""The frame around every verb: help without torch, one line per error, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

import dgemma
from dgemma import errors
from dgemma.cli import main as main_module
from dgemma.cli.main import BROKEN_PIPE, EXIT_CODES, INTERRUPTED, VERBS, app, main

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "import sys; from dgemma.cli.main import main; sys.exit(main())"]


def test_the_help_names_every_verb_and_every_exit_code() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for verb, line in VERBS.items():
        assert f"  {verb} " in result.stdout and line in result.stdout
    for code, meaning in EXIT_CODES.items():
        assert f"{code:<3}  {meaning}\n" in result.stdout
    assert "--install-completion" in result.stdout


def test_the_exit_codes_are_those_of_the_errors() -> None:
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DgemmaError)
    ]
    assert {kind.exit_code for kind in classes} | {0, INTERRUPTED, BROKEN_PIPE} == set(EXIT_CODES)


def test_the_page_names_every_verb_exit_code_and_flag() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for verb in VERBS:
        assert f"dgemma {verb}" in page
        for flag in CliRunner().invoke(app, [verb, "--help"]).stdout.split():
            if (
                verb in ("run", "chat", "fill", "edit")
                and flag.startswith("--")
                and flag.rstrip(",") != "--help"
            ):
                assert f"`{flag.rstrip(',')}" in page, (verb, flag)
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row.isdigit()] == [str(code) for code in EXIT_CODES]


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dgemma {dgemma.__version__}\n"
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: dgemma")


def test_the_module_runs_as_the_command_does() -> None:
    def of(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dgemma", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert of("--version").stdout == f"dgemma {dgemma.__version__}\n"
    assert of().stdout.startswith("Usage: python -m dgemma [OPTIONS]")
    assert of("run", "--help").stdout.startswith("Usage: python -m dgemma run [OPTIONS]")
    wrong = of("run", "x", "--steps", "many")
    assert wrong.returncode == 2 and wrong.stderr.startswith("dgemma: run: Invalid value for")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sing"], "there is no verb 'sing'; verbs: demo, run, chat"),
        (["--sing"], "No such option: --sing"),
        (["run", "--sing", "x"], "run: No such option: --sing"),
        (["run", "a", "b"], "run: Got unexpected extra argument"),
        (["run", "x", "--steps", "many"], "run: Invalid value for '--max-denoising-steps' / '--steps'"),
        (["fill"], "fill: Missing argument 'file'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("dgemma: ") and line.lower() in err.lower() and err.count("\n") == 1


@pytest.mark.parametrize(
    "kind", ["UsageError", "CheckpointError", "HubError", "ResourceError", "NumericsError"]
)
def test_every_error_is_one_line_with_its_exit_code(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = getattr(errors, kind)("name\nwith a line\x1b[31m and a colour")

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(main_module, "_invoke", fail)
    assert main(["run"]) == error.exit_code != 1
    assert capsys.readouterr().err == "dgemma: name with a line␛[31m and a colour\n"


class OutOfMemoryError(RuntimeError):
    """Named as torch's is; the tests of the command line do not load torch."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_memory_that_runs_out_is_an_error_of_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(main_module, "_invoke", fail)
    assert main(["run"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("dgemma: out of memory; ") and err.count("\n") == 1


def test_an_interrupt_is_said_and_a_lost_reader_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code in ((KeyboardInterrupt(), INTERRUPTED), (BrokenPipeError(), BROKEN_PIPE)):
        monkeypatch.setattr(main_module, "_invoke", lambda *_, error=error: (_ for _ in ()).throw(error))
        assert main(["run"]) == code
        assert capsys.readouterr() == ("", "dgemma: stopped\n" if code == INTERRUPTED else "")


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "_invoke", lambda *_: {}["bug"])
    with pytest.raises(KeyError):
        main(["run"])


def test_a_closed_stderr_does_not_move_messages_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["sing"]) == 2
    sys.stderr.close()
    assert capsys.readouterr().out == ""


def test_help_and_errors_never_load_torch(folder: str, tmp_path: Path) -> None:
    (tmp_path / "gap.py").write_text("no marker")
    cases: list[list[str]] = [
        ["--help"], *([verb, "--help"] for verb in VERBS), ["--version"], ["sing"], ["run", "--sing"],
        ["run", "x", "-m", str(tmp_path / "nowhere")], ["run", "x", "-m", "org/never-pulled"],
        ["run", "x", "-n", "0", "-m", folder], ["run", "x", "-n", "-1", "-m", folder],
        ["run", "x", "--steps", "0", "-m", folder], ["run", "x", "--t-min", "9", "-m", folder],
        ["run", "x", "--device", "tpu", "-m", folder], ["run", "x", "--canvas-width", "65", "-m", folder],
        ["run", "", "-m", folder], ["run", "-", "-m", folder], ["chat", "--seed", "-1", "-m", folder],
        ["fill", str(tmp_path / "none.py"), "-m", folder], ["fill", str(tmp_path / "gap.py"), "-m", folder],
    ]  # fmt: skip
    code = (
        "import json, sys; from dgemma.cli.main import main; codes = [main(case) for case in json.loads(sys.argv[1])]\n"
        "print(codes, file=sys.stderr); sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(cases)],
        input="x" * 1_000_000,
        capture_output=True,
        text=True,
        timeout=300,
    )
    helps = 2 + len(VERBS)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == str([*[0] * helps, 2, 2, 3, 4, *[2] * 11])
    assert "has 1000000 characters; max_prompt_characters is 800000" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_check_for_torch_can_fail() -> None:
    code = "import sys; import dgemma.api; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 1


def test_a_reader_that_leaves_gives_141_and_no_word() -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([*COMMAND, "--help"], stdout=write, stderr=subprocess.PIPE, timeout=300)
    os.close(write)
    assert (result.returncode, result.stderr) == (BROKEN_PIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_help_on_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=300
        )
    assert result.returncode == 5
    assert (
        result.stderr
        == "dgemma: a file or stdout cannot be written: No space left on device; make room and try again\n"
    )


def test_a_full_disk_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from dgemma.cli.screen import write_out

    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    stream = type("Out", (), {"flush": lambda self: None, "buffer": Full()})()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(errors.ResourceError, match="stdout: No space left"):
        write_out("text")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(errors.UsageError, match="stdout is closed"):
        write_out("text")


@pytest.mark.parametrize("flag", ["--install-completion", "--show-completion"])
@pytest.mark.parametrize(
    "shell",
    [("ksh", "/bin/ksh"), OSError("no ps"), RuntimeError("what system is this"), ("bash", "/bin/bash")],
)
def test_completion_says_so_where_the_shell_is_none_it_knows(
    flag: str, shell: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", Mock(side_effect=[shell, shell]))
    (tmp_path / "home").write_text("no folder")  # nothing can be installed in it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if shell == ("bash", "/bin/bash") and flag == "--show-completion":
        with pytest.raises(SystemExit) as left:
            main([flag])
        assert left.value.code == 0 and "complete_bash" in capsys.readouterr().out
        return
    assert main([flag]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert ("cannot be installed" if shell == ("bash", "/bin/bash") else "bash, zsh, fish") in err
