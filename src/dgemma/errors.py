"""What can go wrong for a user: one exception per kind of fix, each with its exit code.

Every error a person or a request can cause is one of these, with a message of one line that names
the thing and the fix. The command line prints that line to stderr and leaves with `exit_code`; the
service maps the class to a status. Anything else that escapes is a bug, and shows its traceback.
"""

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


class DgemmaError(Exception):
    """Base of everything a user can meet. The message is one line: what, where, and how to mend it."""

    exit_code = 1


class UsageError(DgemmaError):
    """A request that cannot be served as asked: a bad parameter, prompt, marker, token id or file.

    `parameter`: the one at fault, where one is to be named apart from the message.
    """

    exit_code = 2

    def __init__(self, message: str = "", parameter: str | None = None):
        super().__init__(message)
        self.parameter = parameter


class LengthError(UsageError):
    """An answer asked for that is longer than the context leaves room for; `most` tokens would fit."""

    def __init__(self, message: str, most: int):
        super().__init__(message)
        self.most = most


class CheckpointError(DgemmaError):
    """A checkpoint that is incomplete, damaged or unknown.

    Names the file and, where there is one, the tensor.
    """

    exit_code = 3


class ConfigError(CheckpointError):
    """A `config.json`, `generation_config.json` or tokenizer that this build does not understand.

    Names the key.
    """


class HubError(DgemmaError):
    """A model that could not be found or fetched: no such name, no access, no network."""

    exit_code = 4


class ResourceError(DgemmaError):
    """Not enough memory or disk for what was asked; says how much is needed and how much there is."""

    exit_code = 5


class NumericsError(DgemmaError):
    """The model produced NaN or infinite numbers; no text is returned from such a step."""

    exit_code = 6


class DeviceError(DgemmaError):
    """The device, or the thread that drives it, failed for good.

    Nothing is answered until the process is started again.
    """

    exit_code = 7


class Cancelled(Exception):
    """Nobody waits for this answer any more. No user meets it: it ends the work, from whichever thread."""


def is_panic(error: BaseException) -> bool:
    """Whether a Rust library gave up.

    PyO3 derives its panics from BaseException: `except Exception` does not see them.
    """
    return any(kind.__name__ == "PanicException" for kind in type(error).__mro__)


def is_out_of_memory(error: BaseException) -> bool:
    """Also torch's: its CUDA error has a class of its own, its CPU allocator raises a bare RuntimeError."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)
