"""`dgemma`: finds the verb, runs it, and turns every error into one line on stderr and an exit code.

Knows the verbs by name and one line each, so that `dgemma --help` imports none of them. Trap: what a library
prints while Python shuts down comes after every handler here; a broken stdout is therefore replaced, not only
caught.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import INTERRUPTED, CheckpointError, DgemmaError, ResourceError, UsageError, is_out_of_memory

VERBS = {
    "demo": "Show what a model does, in twenty seconds.",
    "run": "Continue a text, or answer a prompt.",
    "chat": "Talk with a model, turn by turn.",
    "fill": "Fill the gap at the marker in a file.",
    "edit": "Change a file in place: shows the difference and asks.",
    "decide": "Answer typed questions about a text with probabilities.",
    "serve": "Answer requests over HTTP, in the dialects that tools speak.",
    "launch": "Start a coding client that asks a running service.",
    "lsp": "Suggest text in an editor as one types, over stdin and stdout.",
    "batch": "Run a file of requests together.",
    "pull": "Fetch a model from the hub.",
    "ls": "List the models on this machine.",
    "rm": "Delete a model from the cache.",
    "quantize": "Write a model in fewer bits, and say what that cost.",
    "doctor": "Say what this machine and a model are, and what is wrong.",
    "eval": "Score text: bits per byte.",
    "bench": "Measure speed on this machine, against its limit.",
    "verify": "Check a model on this machine: a report.",
    "train": "Train a small model from scratch.",
}
EXIT_CODES = {
    0: "done",
    1: "stopped, or refused by its user",
    2: "a request that cannot be served as asked",
    3: "a checkpoint that is incomplete, damaged or unknown",
    4: "a model that could not be found or fetched",
    5: "not enough memory or disk",
    6: "the model's numbers are not finite, so that no text was made; or `verify` found something wrong",
    7: "the device, or the thread that drives it, failed for good; start the process again",
    130: "interrupted (Ctrl-C)",
    141: "the reader of the output went away",
}
COMPLETES = "_DGEMMA_COMPLETE"  # the variable by which a shell's completion asks
COMPLETION_FLAGS = {"--install-completion", "--show-completion"}
BROKEN_PIPE = 141  # exit code, as shells have it
EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in EXIT_CODES.items())
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
# typer carries its own copy of click; the base class of its errors is reached through the one name it exports
_ClickError: Any = typer.BadParameter.__mro__[2]


class Verbs(TyperGroup):
    """A group whose commands are the modules beside this one, imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in VERBS if importlib.util.find_spec(f"{__package__}.{name}")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            raise UsageError(f"there is no verb '{cmd_name}'; verbs: {', '.join(self.list_commands(ctx))}")
        module = importlib.import_module(f"{__package__}.{cmd_name}")
        one = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        one.command(cmd_name, context_settings=HELP_NAMES)(module.command)
        return typer.main.get_command(one)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, VERBS[name]) for name in self.list_commands(ctx)])


app = typer.Typer(
    cls=Verbs,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings=HELP_NAMES,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dgemma {__version__}")
        raise typer.Exit()


@app.callback()
def dgemma(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Run DiffusionGemma on your own machine: a canvas of noise settles into text."""


def main(arguments: Sequence[str] | None = None, program: str = "dgemma") -> int:
    """Run one command line (default: the process's own) and return its exit code. Only bugs raise.

    `program` is what the user typed before the verb; usage lines begin with it.
    """
    if sys.stderr is None:  # closed by the caller; what is printed to it would otherwise land on stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)
    try:
        code = _invoke(list(sys.argv[1:] if arguments is None else arguments) or ["--help"], program)
        if sys.stdout is not None:
            sys.stdout.flush()  # an error here still has an exit code; at the end of the process it has none
        return code
    except CheckpointError as error:  # its names are keys of the checkpoint's files
        return _fail(str(error), error.exit_code)
    except DgemmaError as error:
        from .flags import as_flags

        return _fail(as_flags(str(error)), error.exit_code)
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        where = ""
        if context:
            where = context.command_path.removeprefix(program).strip()
        return _fail(
            f"{where}: {error.format_message()}" if where else error.format_message(), error.exit_code
        )
    except typer.Abort:
        return _fail("stopped", 1)
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "a file or stdout"
        return _fail(
            f"{where} cannot be written: {error.strerror}; make room and try again", ResourceError.exit_code
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = (
            "a shorter prompt, a smaller dtype or another device may do; `dgemma doctor` says what fits where"
        )
        return _fail(f"out of memory; {hint}", ResourceError.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)


def _invoke(arguments: list[str], program: str) -> int:
    """Through the command's own two halves: its `main` would print errors its way and read an environment
    variable.
    """
    command = typer.main.get_command(app)
    if COMPLETES in os.environ:  # the shell asks what could come next
        return command.main(arguments, "dgemma", complete_var=COMPLETES, standalone_mode=False) or 0
    wants_completion = bool(COMPLETION_FLAGS & set(arguments[:1]))
    if wants_completion:
        from .completion import check_shell

        check_shell()
    try:
        with command.make_context(program, arguments) as context:
            command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except OSError as error:
        if not wants_completion:
            raise
        raise UsageError(f"completion cannot be installed: {error.filename}: {error.strerror}") from None
    return 0


def _fail(message: str, code: int) -> int:
    from .picture import plain

    try:
        print(f"dgemma: {plain(' '.join(message.split(chr(10))))}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody is listening, or what listens is full; the exit code says it
    _silence_stdout()
    return code


def _silence_stdout() -> None:
    """Python flushes stdout once more at exit, and would print a second error where that fails again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
