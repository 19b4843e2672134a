"""What can go wrong for a user: one exception per kind of fix, each with its exit code.

Every error a person or a request can cause is one of these, with a message of one line that names
the thing and the fix. The command line prints that line to stderr and leaves with `exit_code`; the
service maps the class to a status. Anything else that escapes is a bug, and shows its traceback.
"""


class DgemmaError(Exception):
    """Base of everything a user can meet. The message is one line: what, where, and how to mend it."""

    exit_code = 1


class UsageError(DgemmaError):
    """A request that cannot be served as asked: a bad parameter, prompt, marker, token id or file."""

    exit_code = 2


class CheckpointError(DgemmaError):
    """A checkpoint that is incomplete, damaged or unknown; names the file and, where there is one, the tensor."""

    exit_code = 3


class ConfigError(CheckpointError):
    """A `config.json`, `generation_config.json` or tokenizer that this build does not understand; names the key."""


class HubError(DgemmaError):
    """A model that could not be found or fetched: no such name, no access, no network."""

    exit_code = 4


class ResourceError(DgemmaError):
    """Not enough memory or disk for what was asked; says how much is needed and how much there is."""

    exit_code = 5


class NumericsError(DgemmaError):
    """The model produced NaN or infinite numbers; no text is returned from such a step."""

    exit_code = 6
